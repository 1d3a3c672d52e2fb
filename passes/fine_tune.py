"""FineTune: train the nonzero weights of a model; zeros stay zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.selection.layers import choose_layers
from onnx_admm.settings.ranges import Epochs, NonNegative, Positive
from onnx_admm.training.phases import Rates, Retraining, freeze_zeros, validation_score


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train weights and biases for ``epochs``; weights that are zero stay zero.

    The result is the last epoch that validation samples cannot distinguish from the best, or the mean of the
    weights after the last epochs until then (``training.phases.Retraining``).

    Use it on a model that another pass or another tool has pruned. Trained weights leave their grid, so
    quantise afterwards.

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
        choose_layers(model, self.include, self.exclude)

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        if context.trainer is None or context.train is None:
            raise PassRefused("fine-tuning needs a trainer and data")
        sites, skipped = choose_layers(model, self.include, self.exclude)
        if self.epochs == 0:
            return PassReport(False, (), skipped)
        before = model.fork()
        opened = context.trainer.open(model, sites, context.train, context.settings, context.taught_by)
        with opened as run, context.progress.task("fine-tune", self.epochs) as task:
            freeze_zeros(run, run.weights())
            rates = Rates(peak=self.learning_rate, end=self.end_rate)
            average = context.settings.average_epochs
            phase = Retraining(epochs=self.epochs, rates=rates, seed=context.seed, average=average)
            scores = phase.run(run, validation_score(context), task)
            model.write_back(run.tensors())
        changed = not same_model(before, model)
        edits = tuple(Edit(site.name, "trained with fixed zeros") for site in sites if changed)
        return PassReport(changed, edits, skipped, {"retraining": list(scores)})
