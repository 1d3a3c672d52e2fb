"""Training sessions through the compiled classes of onnxruntime-training.

Its Python package ``onnxruntime.training`` imports torch for features that are not used here. The classes
behind it come with the runtime itself, so this module needs nothing but ``onnxruntime``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.runtime.sessions import require_training

_SEVERITY = 4
"""Fatal: errors that the runtime logs are also raised."""


class TrainingSession:
    """Parameters, gradients and optimizer of the training artifacts in a folder.

    Args:
        folder: holds ``training_model.onnx``, ``optimizer_model.onnx`` and ``checkpoint``.
        threads: intra-op threads.

    Raises:
        RuntimeMissing: the installed runtime cannot train.
        RuntimeError: the runtime has no kernel for a gradient.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        runtime = require_training()
        from onnxruntime.capi import _pybind_state as compiled

        options = runtime.SessionOptions()
        options.log_severity_level = _SEVERITY
        options.intra_op_num_threads = threads
        memory = compiled.OrtDevice.default_memory()
        device = compiled.OrtDevice(compiled.OrtDevice.cpu(), memory, 0)
        self._outputs: Any = compiled.OrtValueVector
        self._value: Any = runtime.OrtValue.ortvalue_from_numpy
        self._state = compiled.load_checkpoint(str(folder / "checkpoint"))
        self._module = compiled.Module(
            str(folder / "training_model.onnx"), self._state, None, device, options
        )
        self._inputs = list(self._module.input_names(True))
        self._optimizer = compiled.Optimizer(
            str(folder / "optimizer_model.onnx"), self._state, device, options
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs of ``add_gradients``."""
        return tuple(self._inputs)

    def add_gradients(self, feeds: Mapping[str, Array]) -> float:
        """Run forward and backward, accumulate the gradients, and return the loss.

        Args:
            feeds: contiguous arrays by input name; inputs that the graph does not read are left out.
        """
        outputs = self._outputs()
        self._module.train_step([feeds[name] for name in self._inputs], outputs)
        return float(outputs[0].numpy())

    def step(self, rate: float) -> None:
        """Make one optimizer step at a learning rate; the next gradients start from zero."""
        self._optimizer.set_learning_rate(rate)
        self._optimizer.optimizer_step()
        self._module.lazy_reset_grad()

    def parameter(self, name: str) -> Array:
        """Return a copy of a parameter's value, float32."""
        return np.array(self._state.get_parameter(name).data.numpy())

    def set_parameter(self, name: str, value: Array) -> None:
        """Set a parameter's value, which is cast to float32."""
        array = np.ascontiguousarray(value, dtype=np.float32)
        self._state.copy_parameter_from(name, self._value(array)._ortvalue)
