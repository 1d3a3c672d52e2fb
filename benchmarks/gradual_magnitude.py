"""The baseline of the pruning benchmarks: gradual magnitude pruning on a cubic schedule.

Zhu and Gupta 2017 (arXiv 1710.01878): the density falls from 1 to d as ``d + (1 - d) (1 - t)^3`` while the
network trains. Everything else - sets, epochs, rates, loss, augmentation, masked retraining - is the ADMM
pass's own, so what differs between the two is how the weights are drawn to the set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from onnx_admm.contracts import ModelView, PassContext, WeightSite
from onnx_admm.errors import PassRefused
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.training.phases import Rates, Retraining, freeze_zeros, validation_score


@dataclass(frozen=True, kw_only=True)
class GradualMagnitudePrune(AdmmPrune):
    """Takes the fields of ``AdmmPrune``; rho and steps say nothing here."""

    name: ClassVar[str] = "gradual_magnitude_prune"

    def _fine_tune(
        self, model: ModelView, sites: tuple[WeightSite, ...], context: PassContext
    ) -> dict[str, Any]:
        if context.trainer is None or context.train is None:
            raise PassRefused("fine-tuning needs a trainer and data")
        drawn = self.epochs + self.steps - 1
        opened = context.trainer.open(model, sites, context.train, context.settings, context.reference)
        with opened as run, context.progress.task("prune", drawn + self.retrain_epochs) as task:
            for epoch in range(drawn):
                budget = self.budget(sites, model, context, _cubic((epoch + 1) / drawn))
                freeze_zeros(run, budget.project(run.weights()))
                loss = run.epoch(self.learning_rate, self.learning_rate, seed=context.seed + 100 + epoch)
                task.advance(note=f"loss {loss:.4f}")
            rates = Rates(peak=self.learning_rate, end=self.end_rate)
            last = Retraining(epochs=self.retrain_epochs, rates=rates, seed=context.seed + 1000)
            scores = last.run(run, validation_score(context), task)
            model.write_back(run.tensors())
        return {"retraining": list(scores)}


def _cubic(share: float) -> Callable[[float], float]:
    return lambda density: density + (1.0 - density) * (1.0 - share) ** 3
