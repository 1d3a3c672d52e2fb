"""Cost of a run over samples, in multiply-accumulates and bytes, and the number of samples it allows.

Counted and not timed, so that the same model and data give the same answer on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from weakref import WeakKeyDictionary

import numpy as np

from onnx_admm.contracts import Dataset, Feeds, LayerProfile, ModelView
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.limits import current_budget
from onnx_admm.model import Operand, node_profiles
from onnx_admm.model.graph_state import GraphState
from onnx_admm.model.rewrite.expose_values import expose_shapes
from onnx_admm.runtime.feeding import feed_at
from onnx_admm.runtime.sessions import open_session

_IMAGES = 4  # axes
_MOST_INPUT_BYTES = 64 << 20
_MOST_VALUE_BYTES = 1 << 30
"""Most bytes of the largest value that a run over all samples computes."""

_MOST_OUTPUT_BYTES = 128 << 20
"""Most bytes of the outputs of a run over all samples: those of two models are in memory, in float64."""


@dataclass(frozen=True, slots=True)
class SampleCost:
    """Cost of a run on one sample.

    Attributes:
        macs: multiply-accumulates of the layers, at least 1.
        input_bytes: bytes of all inputs.
        value_bytes: bytes of the largest value that a node computes; 0 where no shape is known.
        output_bytes: bytes of all outputs whose shapes are known.
    """

    macs: int
    input_bytes: int = 0
    value_bytes: int = 0
    output_bytes: int = 0

    @property
    def most_samples(self) -> int:
        """Number of samples that may be in memory and run together; at least 1."""
        limits = (
            _MOST_INPUT_BYTES // max(1, self.input_bytes),
            _MOST_VALUE_BYTES // max(1, self.value_bytes),
            _MOST_OUTPUT_BYTES // max(1, self.output_bytes),
        )
        return max(1, min(limits))


def cost_of_sample(model: ModelView, data: Dataset) -> SampleCost:
    """Return multiply-accumulates and bytes of a run on one sample.

    Where shape inference does not know a layer's extents, they are those of a run on the sample. If the model
    does not run so, the layer is assumed to work at every pixel of the largest input image, or once.
    """
    feeds = next(data.select(np.arange(1)).batches(1)).feeds
    shapes = tuple((name, array.shape, str(array.dtype)) for name, array in sorted(feeds.items()))
    known = _known.get(model)
    if known is None or known[0] != shapes or not model.is_still(known[1]):
        _known.pop(model, None)  # the state of an earlier version would keep its weights in memory
        known = shapes, model.state(), _cost(model, feeds)
        _known[model] = known
    return known[2]


_known: WeakKeyDictionary[ModelView, tuple[object, GraphState, SampleCost]] = WeakKeyDictionary()
"""Last result for each model while it is unchanged: several measurements need it."""


def _cost(model: ModelView, feeds: Feeds) -> SampleCost:
    pixels = max((prod(array.shape[2:]) for array in feeds.values() if array.ndim == _IMAGES), default=1)
    profiles = node_profiles(model, open_extents(model, feeds), reads_weights=False)
    met = _macs_of_run(model, [p for p in profiles if p.weight and p.macs is None], feeds)
    macs = sum(
        met.get(_place(p), p.parameters * max(pixels, 1)) if p.macs is None else p.macs
        for p in profiles
        if p.weight
    )
    sizes = {value.name: _nbytes(value) for p in profiles for value in p.outputs}
    outputs = sum(sizes.get(port.name, 0) for port in model.signature().outputs)
    inputs = sum(array.nbytes for array in feeds.values())
    return SampleCost(max(1, macs), inputs, max(sizes.values(), default=0), outputs)


def _macs_of_run(
    model: ModelView, layers: Sequence[LayerProfile], feeds: Feeds
) -> dict[tuple[str, str], int]:
    """Return multiply-accumulates by output and weight, from the sizes of outputs in a run."""
    found = {_place(layer): layer for layer in layers if layer.outputs and not layer.scope}
    if not found:
        return {}
    names = list(dict.fromkeys(output for output, _ in found))
    try:
        session = open_session(expose_shapes(model, names), threads=1, keeps_arena=False)
        shapes = session.run(feed_at(session, feeds))
    except OnnxAdmmError:
        current_budget().check()
        return {}
    sizes = dict(zip(names, map(prod, shapes.values()), strict=True))
    return {
        place: layer.size * int(sizes[place[0]]) // max(1, layer.channels) for place, layer in found.items()
    }


def _place(layer: LayerProfile) -> tuple[str, str]:
    return layer.outputs[0].name if layer.outputs else "", layer.weight


def limit_samples(model: ModelView, data: Dataset, most_macs: int, least: int = 2) -> Dataset:
    """Return the first samples that take at most ``most_macs``, 64 MiB of inputs and 128 MiB of outputs.

    Args:
        model: the model to run.
        data: the samples.
        most_macs: multiply-accumulates of all runs together.
        least: number of samples that are returned in any case, where there are as many.
    """
    cost = cost_of_sample(model, data)
    count = max(least, min(most_macs // cost.macs, cost.most_samples))
    return data.select(np.arange(min(len(data), count)))


def _nbytes(value: Operand) -> int:
    """Return the bytes of a value; 0 where its shape is not known."""
    if value.shape is None or None in value.shape:
        return 0
    return prod(extent or 0 for extent in value.shape) * value.bits // 8


def open_extents(model: ModelView, feeds: Feeds) -> dict[str, int]:
    """Return the inputs' open extents for one sample."""
    bindings: dict[str, int] = {}
    for port in model.signature().inputs:
        stated = port.shape or ()
        met = feeds[port.name].shape[feeds[port.name].ndim - len(stated) :]
        bindings |= {
            f"{port.name}[{axis}]": max(extent, 1)  # a cache may begin empty
            for axis, extent in enumerate(met)
            if not isinstance(stated[axis], int)
        }
    return bindings
