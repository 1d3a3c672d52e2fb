"""The control of the benchmarks: the original, fine-tuned and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.errors import PassRefused
from onnx_admm.layers import choose_sites
from onnx_admm.training.phases import Rates, Retraining, validation_score


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train every weight for ``epochs``, keeping the epoch that scores best."""

    name: ClassVar[str] = "fine_tune"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    epochs: int
    learning_rate: float = 1e-3
    end_rate: float = 1e-5

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if context.trainer is None or context.train is None:
            raise PassRefused("fine-tuning needs a trainer and data")

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        if context.trainer is None or context.train is None:
            raise PassRefused("fine-tuning needs a trainer and data")
        sites, skipped = choose_sites(model.sites(), (), ())
        opened = context.trainer.open(model, sites, context.train, context.settings, context.reference)
        with opened as run, context.progress.task("fine-tune", self.epochs) as task:
            rates = Rates(peak=self.learning_rate, end=self.end_rate)
            phase = Retraining(epochs=self.epochs, rates=rates, seed=context.seed)
            scores = phase.carry_out(run, validation_score(context), task)
            model.write_back(run.tensors())
        return PassReport(True, (), skipped, {"retraining": list(scores)})
