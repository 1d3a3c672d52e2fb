"""FineTune: train the nonzero weights of a model; zeros stay zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_admm.contracts import Blocks, Edit, ModelView, PassContext, PassReport, Skip, WeightSite
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.integers.float_weights import FloatWeights, integer_sites, with_float_weights
from onnx_admm.pipeline import MODEL
from onnx_admm.selection.layers import choose_layers
from onnx_admm.settings.ranges import Epochs, NonNegative, Positive
from onnx_admm.training.phases import Rates, Retraining, freeze_zeros, validation_score

_NO_BETTER = "no epoch of training scored as high as the model before it"


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train weights and biases for ``epochs``; weights that are zero stay zero.

    Layers that compute with 8-bit integers are trained too, on the grids that they have: the loss is that of
    rounded weights and activations, and gradients pass straight through the rounding
    (``model.integers.float_weights``). Zeros of such a weight are fixed where they are half of it or more.

    The result is the last epoch that validation samples cannot distinguish from the best, or the mean of the
    weights after the last epochs until then (``training.phases.Retraining``). If the model scores higher
    before training than after any epoch, it stays as it is.

    Use it on a model that another pass or another tool has pruned. Trained weights of float layers leave
    their grid, so quantise those afterwards.

    Attributes:
        epochs: epochs of training.
        learning_rate: AdamW's, falling linearly to ``end_rate``.
        end_rate: learning rate of the last step.
        include, exclude: patterns of layer names or operators.
    """

    name: ClassVar[str] = "fine_tune"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    epochs: Epochs = 4
    learning_rate: Positive = 3e-4
    end_rate: NonNegative = 5e-6
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if context.trainer is None or context.train is None:
            raise PassRefused("fine-tuning needs a trainer and data", hint="Give --data, or drop the pass.")
        if self.epochs < 0:
            raise PassRefused("impossible number of epochs", got=self.epochs, expected="0 or more")
        self._choose(model, integer_sites(model))

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        if context.trainer is None or context.train is None:
            raise PassRefused("fine-tuning needs a trainer and data")
        integers = with_float_weights(model)
        trained = model if integers is None else integers.view
        sites, skipped = self._choose(model, {} if integers is None else integers.sites)
        if self.epochs == 0:
            return PassReport(False, (), skipped)
        before = model.fork()
        opened = context.trainer.open(trained, sites, context.train, context.settings, context.taught_by)
        with opened as run, context.progress.task("fine-tune", self.epochs) as task:
            freeze_zeros(run, _kept_zeros(run.weights(), integers))
            rates = Rates(peak=self.learning_rate, end=self.end_rate)
            average = context.settings.average_epochs
            phase = Retraining(
                epochs=self.epochs, rates=rates, seed=context.seed, average=average, or_none=True
            )
            scores = phase.run(run, validation_score(context), task)
            trained.write_back(run.tensors())
        if integers is not None:
            model.become(integers.to_integers())
        changed = not same_model(before, model)
        edits = tuple(Edit(site.name, "trained with fixed zeros") for site in sites if changed)
        skipped = skipped if changed else (*skipped, Skip(MODEL, _NO_BETTER))
        return PassReport(changed, edits, skipped, {"retraining": list(scores)})

    def _choose(
        self, model: ModelView, integers: Mapping[str, WeightSite]
    ) -> tuple[tuple[WeightSite, ...], tuple[Skip, ...]]:
        return choose_layers(model, self.include, self.exclude, also=integers)


def _kept_zeros(weights: Blocks, integers: FloatWeights | None) -> Blocks:
    """Return the weights whose zeros stay: of an integer weight only where they are half of it or more.

    A few codes are zero in any weight, since they are rounded.
    """
    rounded = set() if integers is None else integers.sites.keys()
    return {
        name: array
        for name, array in weights.items()
        if name not in rounded or 2 * np.count_nonzero(array) <= array.size
    }
