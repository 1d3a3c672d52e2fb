"""Requests for a compression, and their checks before any file is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx_admm.config.flags import Flags, measured_latency, recipe_from_flags
from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model
from onnx_admm.config.shipped_recipes import recipe_file
from onnx_admm.contracts import Progress, SilentProgress
from onnx_admm.contracts.training import TRAINERS
from onnx_admm.data import Preprocessing, as_preprocessing
from onnx_admm.data.anything import DataLike
from onnx_admm.errors import UsageError
from onnx_admm.metrics import MetricLike, as_metric
from onnx_admm.model.runtimes import parse_runtime
from onnx_admm.settings.ranges import MOST_MEBIBYTES, MOST_SEED, MOST_THREADS, check_number
from onnx_admm.targeting.quantities import parse_budgets, require_given

Source = DataLike


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for a compression, with its data and settings.

    Attributes:
        data: samples to train on; labels are used where there are some, else the original is the teacher.
        teacher: path of the model whose outputs training learns; None: the model that is compressed.
        validation: samples for decisions; None sets a tenth of ``data`` aside.
        test: samples read once, at the end, for the report.
        label: name of the labels among the arrays of the data; None: ``labels``.
        metric: metric in place of accuracy; see `metrics.as_metric`. A point is a hundredth of it.
        recipe: a recipe or the path of one, in place of ``remove``, ``prune``, ``bits`` and others.
        remove, prune, bits, budget, format, epochs, include, exclude, layers: see `Flags`.
        fine_tune: train or not; None trains where there is data and something to train for; a model that the
            runtime cannot train is rebuilt layer by layer instead, with a note.
        preprocessing: from stored samples to inputs, or the TOML file of it; None takes the recipe's.
        freeze_defaults: whether initializers that are listed as inputs become constants; None takes the
            recipe's word, else they do where nine tenths of them are listed or more.
        keep_docs: keep doc strings and exporters' notes, which no runtime reads; a recipe says it itself.
        weights_only: leave activations in float; with data and nothing else requested they become 8-bit
            integers where that is faster on this machine.
        cost_model: cost model of the target, as `registry.cost_model` reads it; None takes the recipe's.
        bind: extents of open axes for costs, in addition to the recipe's.
        min_runtime: version of the oldest ONNX Runtime that must load the result; None takes the recipe's.
        max_drop: percentage points of accuracy that may be lost on the validation samples.
        keep: write the result even if it misses a promise (see ``report.gate``).
        report: path of the report as JSON.
        resume: folder for each pass's result; passes with a result there are not run again.
        seed: decides every random choice; same seed, threads and machine: same bytes.
        threads: intra-op threads; 0 lets the runtime choose.
        trainer: name of the trainer, as in `TrainingSettings`; None takes the recipe's.
        memory_mb: MiB that statistics of layers computed together, and one run of training, may take.
        executor: any `concurrent.futures` executor of threads for layers that do not depend on one another.
        progress: receives the progress.
    """

    data: Source | None = None
    teacher: str | os.PathLike[str] | None = None
    validation: Source | None = None
    test: Source | None = None
    label: str | None = None
    metric: MetricLike | None = None
    recipe: Recipe | str | os.PathLike[str] | None = None
    remove: str | None = None
    prune: str | None = None
    bits: int | None = None
    budget: Sequence[str] = ()
    format: str = "auto"
    epochs: int | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    layers: Mapping[str, Any] = field(default_factory=dict)
    fine_tune: bool | None = None
    preprocessing: Preprocessing | str | os.PathLike[str] | None = None
    freeze_defaults: bool | None = None
    keep_docs: bool = False
    weights_only: bool = False
    cost_model: str | None = None
    bind: Mapping[str, int] = field(default_factory=dict)
    min_runtime: str | None = None
    max_drop: float | None = None
    keep: bool = False
    report: str | os.PathLike[str] | None = None
    resume: str | os.PathLike[str] | None = None
    seed: int = 0
    threads: int = 0
    trainer: str | None = None
    memory_mb: int = 1024
    executor: Executor | None = None
    progress: Progress = field(default_factory=SilentProgress)

    def complete_recipe(self, samples: int | None = None, *, rebuild_first: bool = False) -> Recipe:
        """Return the recipe that repeats this run with the same data; it may depend on ``samples``.

        Args:
            samples: number of training samples, where known.
            rebuild_first: as in `Flags`; no matter where the request has a recipe.
        """
        if isinstance(self.recipe, Recipe):
            recipe = self.recipe
        elif self.recipe is not None:
            recipe = Recipe.load(recipe_file(self.recipe))
        else:
            tune = self.fine_tune is not False and self.data is not None
            flags = Flags(
                remove=self.remove,
                prune=self.prune,
                bits=self.bits,
                budget=tuple(self.budget),
                format=self.format,
                epochs=self.epochs,
                samples=samples,
                fine_tune=tune,
                rebuild_first=rebuild_first,
                include=tuple(self.include),
                exclude=tuple(self.exclude),
                layers=self.layers,
                keep_docs=self.keep_docs,
                weights_only=self.weights_only,
                cost_model=self.cost_model,
            )
            recipe = recipe_from_flags(flags)
        if self.fine_tune is not None:
            recipe = replace(recipe, fine_tune=self.fine_tune)
        if self.preprocessing is not None:
            recipe = replace(recipe, preprocessing=as_preprocessing(self.preprocessing))
        if self.freeze_defaults is not None:
            recipe = replace(recipe, freeze_defaults=self.freeze_defaults)
        if self.cost_model is not None:
            cost_model(self.cost_model)
            recipe = replace(recipe, cost_model=self.cost_model)
        if self.min_runtime is not None:
            recipe = replace(recipe, min_runtime=parse_runtime(self.min_runtime, "--min-runtime").text)
        if self.trainer is not None:
            recipe = replace(recipe, training=replace(recipe.training, trainer=self.trainer))
        return replace(recipe, bind={**recipe.bind, **self.bind})

    @property
    def asks_nothing(self) -> bool:
        """Whether only a smaller file is requested."""
        asked = (self.recipe, self.remove, self.prune, self.bits)
        return all(each is None for each in asked) and not self.budget

    @property
    def few_decide(self) -> bool:
        """Whether the result is judged on the validation samples, however few they are."""
        return not self.asks_nothing or self.max_drop is not None


def check_request(job: Request) -> None:
    """Refuse contradicting flags, impossible values, and flags whose requirements are missing.

    Raises:
        UsageError: names the flags.
    """
    conflicts = {
        "--remove": job.remove,
        "--prune": job.prune,
        "--bits": job.bits,
        "--budget": job.budget or None,
        "--epochs": job.epochs,
        "--include": job.include or None,
        "--exclude": job.exclude or None,
        "--layer": job.layers or None,
    }
    given = [flag for flag, value in conflicts.items() if value is not None]
    if job.format != "auto":
        given.append("--format")
    if job.weights_only:
        given.append("--weights-only")
    if job.recipe is not None and given:
        raise UsageError(
            "a recipe and flags both select passes",
            got=f"--recipe and {', '.join(given)}",
            hint="Put the values into the recipe, or leave the recipe out.",
        )
    if job.metric is not None:
        as_metric(job.metric)
        if job.data is None and job.validation is None and job.test is None:
            raise UsageError(
                "no samples to measure on", where="--metric", hint="Give --data, --val or --test."
            )
    if job.budget:
        _check_budget(job)
    if job.teacher is not None and (job.data is None or job.fine_tune is False):
        raise UsageError("a teacher needs training", where="--teacher", hint="Give --data, and let it train.")
    _check_training(job)
    if job.data is None and job.validation is None and job.max_drop is not None:
        raise UsageError("no samples to measure a drop on", where="--max-drop", hint="Give --data or --val.")
    if job.resume is not None and Path(job.resume).exists() and not Path(job.resume).is_dir():
        raise UsageError("not a folder for the results of passes", where=f"--resume {job.resume}")
    check_number(job.max_drop, 0, 100, "--max-drop")
    check_number(job.seed, 0, MOST_SEED, "--seed")
    check_number(job.threads, 0, MOST_THREADS, "--threads")
    if job.trainer is not None and job.trainer not in TRAINERS:
        raise UsageError("unknown trainer", where="--trainer", got=job.trainer, expected=", ".join(TRAINERS))
    check_number(job.memory_mb, 1, MOST_MEBIBYTES, "--memory")


def _check_training(job: Request) -> None:
    """Refuse flags of training where nothing trains."""
    flag = "--fine-tune" if job.fine_tune else "--epochs" if (job.epochs or 0) > 0 else None
    if flag is None:
        return
    if job.data is None:
        raise UsageError("training needs samples", where=flag, hint="Give --data.")
    if job.asks_nothing:
        raise UsageError(
            "nothing here trains",
            where=flag,
            hint="Ask for what is trained: --prune, --bits, --remove, a budget for latency, or a recipe.",
        )


def _check_budget(job: Request) -> None:
    budgets = parse_budgets(job.budget)
    conflicts = {"--prune": job.prune, "--bits": job.bits}
    given = [flag for flag, value in conflicts.items() if value is not None]
    if given:
        raise UsageError(
            "a budget and flags both set how much of each layer is kept",
            got=f"--budget and {', '.join(given)}",
            hint="Leave one of them out. --budget weights=10x can be combined with other budgets.",
        )
    if measured_latency(job.budget, job.cost_model) is not None:
        if job.data is None:
            raise UsageError(
                "a budget for latency on this machine needs samples of the input",
                where="--budget",
                got=", ".join(job.budget),
                hint="Give --data; labels are not needed.",
            )
        return
    if job.cost_model is None:
        raise UsageError(
            "a budget needs a cost model that prices the layers",
            where="--budget",
            got=", ".join(job.budget),
            hint="Name the target with --cost-model; `onnx-admm plugins` lists them.",
        )
    require_given(budgets, cost_model(job.cost_model), "--budget")
