"""Comparison of the models before and after a pass that claims to be ``exact``, on a few samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnx_admm.contracts import Dataset, Feeds, ModelView, PassContext
from onnx_admm.data import cost_of_sample, synthetic_dataset
from onnx_admm.errors import OnnxAdmmError, RuntimeMissing, UnsupportedModel
from onnx_admm.model.rewrite.comparing.fixed_choices import choosing_operators, with_fixed_choices
from onnx_admm.model.rewrite.weight_storage import stored_weight_bytes
from onnx_admm.runtime.children.child_outputs import outputs_in_child
from onnx_admm.runtime.equivalence import Difference, find_difference, outputs_of

SAMPLES, ENOUGH_MACS = 2, 1 << 31
"""Samples, as long as they take no more multiply-accumulates; one where a single one takes more."""

MOST_MACS = 1 << 36
"""Multiply-accumulates of one sample up to which a model is run between passes: about ten seconds."""

OWN_PROCESS_BYTES, MOST_BYTES = 1 << 26, 1 << 30
"""Bytes of weights from which on a model is run in a process of its own, and up to which it is run at all."""


class NotComparable(Exception):
    """The reason why a model cannot be run between passes; its text becomes a line of the report."""


@dataclass
class ExactnessCheck:
    """Compares the models before and after the passes of one run; keeps outputs for the next pass.

    Args:
        context: real samples are taken from it where there are some.
    """

    context: PassContext
    _feeds: Feeds | None = None
    _outputs: list[tuple[ModelView, bool, list[Feeds]]] = field(default_factory=list)

    def difference(self, before: ModelView, after: ModelView) -> Difference | None:
        """Return the difference of two models; None where they agree.

        Raises:
            NotComparable: they cannot be run here; states the reason.
        """
        for model in (before, after):
            if (size := stored_weight_bytes(model)) > MOST_BYTES:
                raise NotComparable(f"its weights take {size >> 20:,} MiB, over {MOST_BYTES >> 20}")
        try:
            feeds = self._samples(before)
            fixes = bool(choosing_operators(before, after))
            expected = self._run(before, feeds, fixes)
        except OnnxAdmmError as error:
            raise NotComparable(str(error)) from error
        try:
            got = self._run(after, feeds, fixes)
        except (RuntimeMissing, UnsupportedModel) as error:  # newer than the installed runtime reads
            raise NotComparable(str(error)) from error
        except OnnxAdmmError as error:
            return Difference("", np.inf, failure=str(error))
        run = outputs_in_child if _is_large(before) else outputs_of
        pair = with_fixed_choices(before, after), with_fixed_choices(after, before)
        found = find_difference(*pair, feeds, expected, got, run)
        self._outputs = [(after, fixes, got) if found is None else (before, fixes, expected)]
        return found

    def _samples(self, model: ModelView) -> Feeds:
        if self._feeds is None:
            data = next(
                (data for data in (self.context.validation, self.context.train) if data is not None), None
            )
            data = self._made_up() if data is None else data
            macs = cost_of_sample(model, data).macs
            if macs > MOST_MACS:
                raise NotComparable(f"one sample takes {macs / 1e9:.3g} billion multiply-accumulates")
            count = min(SAMPLES, len(data), max(1, ENOUGH_MACS // macs))
            self._feeds = next(iter(data.select(np.arange(count)).batches(count))).feeds
        return self._feeds

    def _made_up(self) -> Dataset:
        return synthetic_dataset(self.context.reference, SAMPLES, self.context.seed)

    def _run(self, model: ModelView, feeds: Feeds, fixes: bool) -> list[Feeds]:
        for known, fixed, outputs in self._outputs:
            if known is model and fixed == fixes:
                return outputs
        run = outputs_in_child if _is_large(model) else outputs_of
        return run(with_fixed_choices(model) if fixes else model, feeds)


def _is_large(model: ModelView) -> bool:
    return stored_weight_bytes(model) > OWN_PROCESS_BYTES
