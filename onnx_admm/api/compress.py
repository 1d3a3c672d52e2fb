"""Compression: from a model to a smaller one, with a report."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx_admm.api.budget_promises import asks_speed_here, budget_promises, runtime_promises
from onnx_admm.api.files.checkpoints import Checkpoints, checkpoint_files
from onnx_admm.api.files.digests import digests_of, source_digest, with_digests
from onnx_admm.api.files.result_files import ResultFiles, open_results
from onnx_admm.api.files.run_files import RunFiles
from onnx_admm.api.measure import Measurement, check_runs, judged_samples
from onnx_admm.api.milder import MILDER, TRIES, next_try
from onnx_admm.api.notes import (
    NO_DATA,
    NOTHING_ASKED,
    few_note,
    outcome_notes,
)
from onnx_admm.api.pass_runs import run_passes, step_facts
from onnx_admm.api.preparing import Plan, in_runs, open_teacher, prepare_model, trains
from onnx_admm.api.rehearsal import rehearse
from onnx_admm.api.requests import Request, Source, check_request
from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model, profile_file
from onnx_admm.config.shipped_recipes import recipe_file
from onnx_admm.contracts import Dataset, ModelView, PassContext
from onnx_admm.data import split_dataset
from onnx_admm.data.anything import as_dataset
from onnx_admm.data.class_numbers import check_class_numbers
from onnx_admm.data.samples import one_at_a_time
from onnx_admm.errors import OutputError, UsageError
from onnx_admm.limits import RunLimits, in_a_run, run_within
from onnx_admm.metrics import as_metric, scored_by
from onnx_admm.model.rewrite.minify import compact_integers
from onnx_admm.model.writing.external_files import growth_by_names
from onnx_admm.model.writing.saving import ModelFiles
from onnx_admm.pipeline import PROVENANCE, VALIDATION_SHARE, PipelineResult
from onnx_admm.report import Comparison, Report, describe_model, to_json
from onnx_admm.report.gate import ROUNDED, SLOWDOWN, WRECKED, Gate, log_promises
from onnx_admm.runtime.sessions import require_runtime, runtime_versions
from onnx_admm.selection.layer_settings import find_layers

_MUCH_TEXT = 0.05
"""Share of an exporter's text in a file from which on its removal alone counts as a gain."""


class Compression(Request):
    """A request, and the run that fulfils it.

    Example:
        >>> from onnx_admm.api import Compression
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> plan = Compression(bits=6, threads=1).plan("net.onnx")
        >>> [step.name for step in plan.recipe.passes][-4:]
        ['rewrite_for_runtime', 'encode', 'rewrite_for_runtime', 'minify']
    """

    @in_a_run
    def plan(self, source: str | os.PathLike[str]) -> Plan:
        """Read and check all that a run reads first; run nothing.

        Raises:
            UsageError: any reason for which a run would be refused before it starts.
        """
        check_request(self)
        recipe = self.complete_recipe()
        model = ModelView.load(source)
        prepared = prepare_model(model, recipe)
        train = self._open(self.data, model, recipe, "train")
        validation = self._open(self.validation, model, recipe, "validation")
        if isinstance(self.test, str | os.PathLike) and not Path(self.test).exists():
            raise UsageError("no such file or folder of data", where=self.test)
        if train is not None and validation is None:
            train, validation = split_dataset(train, VALIDATION_SHARE, self.seed)
        if train is not None and self.recipe is None:
            recipe = self.complete_recipe(len(train))
        if self.teacher is not None and not trains(recipe):
            raise UsageError(
                "a teacher needs training, and nothing here trains",
                where="--teacher",
                hint="Ask for what is trained: --prune, --bits, --remove, a budget for latency, or a recipe.",
            )
        if recipe.layers:
            find_layers(recipe.layers, model.sites())
        for samples in (train, validation):
            if samples is not None and self.metric is None:
                check_class_numbers(samples, model)
        facts = describe_model(model, source)
        return Plan(
            source=Path(source),
            model=model,
            facts=facts,
            recipe=recipe,
            train=train,
            validation=None if validation is None else scored_by(validation, self.metric),
            notes=(*prepared.notes, *self._notes(train, validation, facts.parameters)),
            frozen=prepared.frozen,
            teacher=None if self.teacher is None else open_teacher(self.teacher, model),
            text=prepared.text,
            lowered=prepared.lowered,
        )

    @in_a_run
    def rehearse(self, source: str | os.PathLike[str]) -> Plan:
        """Plan a run and check all that can be checked without running the model; see `rehearsal`.

        Raises:
            OnnxAdmmError: what the run would raise before its work, or when a pass begins.
        """
        plan = self.plan(source)
        if self.test is not None:
            test = scored_by(self._opened(self.test, plan.model, plan.recipe, "test"), self.metric)
            if self.metric is None:
                check_class_numbers(test, plan.model)
        return replace(plan, notes=(*plan.notes, *rehearse(plan)))

    @in_a_run
    def run(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Report:
        """Compress ``source`` into ``target``.

        The result is written to a temporary place, reloaded, checked, run with and without graph optimisation
        and compared with the original before it is moved to ``target``. A result that misses a promise is not
        written (unless ``keep``): see `Comparison.promises` and `Report.raise_if_missed`.

        Raises:
            OnnxAdmmError: see the tree in ``errors.py``; nothing was written.
        """
        started = time.perf_counter()
        files = self.files(source, target)
        with open_results(files, target, self.report) as results:
            check_request(self)  # before the runtime is imported, which takes long
            self.complete_recipe()
            require_runtime()
            plan = self.plan(source)
            plan = in_runs(plan)
            judged = judged_samples(plan.model, plan.validation, self.seed, few_decide=self.few_decide)
            first = plan.recipe
            for tries in range(1, TRIES + 1):
                plan, result = run_passes(self, plan, self._run_passes)
                saved, changed = self._save(result, results, plan)
                failed: OutputError | None = None
                try:
                    comparison = self._compared(source, saved, changed, result, plan, judged)
                    log_promises(comparison)
                except OutputError as error:
                    failed = error
                missed = failed or comparison.missed
                again = next_try(first, plan.recipe, missed, tries) if self.asks_nothing else None
                if again is None:
                    if failed is not None:
                        raise failed
                    break
                saved.remove()
                kept = tuple(line for line in plan.notes if not line.startswith(MILDER))
                plan = replace(plan, recipe=again[0], notes=(*kept, again[1]))
            comparison = replace(comparison, after=replace(comparison.after, path=os.fspath(target)))
            written = comparison.missed is None or self.keep
            report = self._report(comparison, result, plan, time.perf_counter() - started)
            exact = {step.name for step in plan.recipe.passes if step.exact}
            notes = outcome_notes(plan.notes, result, comparison, changed=changed, exact=exact)
            if saved.data is not None and written:
                notes = (*notes, f"The weights are in {Path(target).with_name(saved.data.name)}.")
            frozen = plan.frozen if changed else ()
            report = replace(report, written=written, notes=notes, frozen_defaults=frozen)
            report = with_digests(report, files.fixed_inputs, saved if written else None, Path(target))
            results.commit(saved if written else None, to_json(report))
        return report

    def reads(self, source: str | os.PathLike[str]) -> RunFiles:
        """Return the files that a run reads."""
        files = RunFiles()
        files.read_model(source, "the model")
        if self.teacher is not None:
            files.read_model(self.teacher, "the teacher")
        for samples, what in ((self.data, "the data"), (self.validation, "--val"), (self.test, "--test")):
            files.read_data(samples, what)
        files.read(recipe_file(self.recipe), "the recipe")
        files.read(self.preprocessing, "the preprocessing")
        with suppress(UsageError):  # a recipe that cannot be read is refused when the run is planned
            stated = self.complete_recipe().cost_model
            files.read(None if stated is None else profile_file(stated), "the profile")
        files.read(None if self.cost_model is None else profile_file(self.cost_model), "the profile")
        for checkpoint in () if self.resume is None else checkpoint_files(Path(self.resume)):
            files.read(checkpoint, "a checkpoint", is_fixed=False)
        return files

    def files(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> RunFiles:
        """Return the files that a run reads, and those that it writes."""
        files = self.reads(source)
        files.write(target, "the result")
        files.write(self.report, "the report")
        return files

    def _compared(
        self,
        source: str | os.PathLike[str],
        saved: ModelFiles,
        changed: bool,
        result: PipelineResult,
        plan: Plan,
        judged: dict[str, Dataset],
    ) -> Comparison:
        """Return the comparison of the candidate with the original, and the promises it keeps."""
        if changed:
            check_runs(source, saved.model, next(iter(judged.values())))
        if self.test is not None and "test" not in judged:
            test = self._opened(self.test, plan.model, plan.recipe, "test")
            test = one_at_a_time(test) if plan.one_at_a_time else test
            judged["test"] = scored_by(test, self.metric)
        is_timed = asks_speed_here(result, plan.recipe)
        measurement = Measurement(
            samples=judged,
            threads=self.threads,
            progress=self.progress,
            slowest=SLOWDOWN if is_timed else None,
            is_classifier=self.max_drop is not None,
        )
        comparison = measurement.compare(source, saved.model)
        gate = self._gate(changed, is_timed, growth_by_names(plan.source, saved.model))
        promises = (*budget_promises(result), *runtime_promises(comparison.after, plan.recipe.min_runtime))
        return replace(comparison, promises=(*promises, *gate.judge(comparison)))

    # -- before the work ---------------------------------------------------------------------

    def _open(self, data: Source | None, model: ModelView, recipe: Recipe, part: Any) -> Dataset | None:
        return None if data is None else self._opened(data, model, recipe, part)

    def _opened(self, data: Source, model: ModelView, recipe: Recipe, part: Any) -> Dataset:
        return as_dataset(data, model, preprocessing=recipe.preprocessing, part=part, label=self.label)

    def _notes(self, train: Dataset | None, validation: Dataset | None, weights: int) -> tuple[str, ...]:
        notes = []
        if not weights:
            pass  # nothing that data, pruning or fewer bits could make smaller
        elif train is None:
            notes.append(NO_DATA)
        elif self.asks_nothing:
            notes.append(NOTHING_ASKED)
        notes += few_note(validation, few_decide=self.few_decide)
        return tuple(notes)

    def _journal(self, plan: Plan) -> Checkpoints | None:
        if self.resume is None:
            return None
        run: tuple[object, ...] = (self.seed, self.threads, self.max_drop, self.memory_mb)
        if self.metric is not None:
            run = (*run, as_metric(self.metric).name)
        if self.label is not None:
            run = (*run, f"label {self.label}")
        profile = None if plan.recipe.cost_model is None else profile_file(plan.recipe.cost_model)
        data = (
            source_digest(self.data, plan.train),
            source_digest(self.data if self.validation is None else self.validation, plan.validation),
            *(() if profile is None else digests_of([profile]).values()),
            *(() if self.teacher is None else digests_of([Path(self.teacher)]).values()),
        )
        journal = Checkpoints.of(Path(self.resume), plan.model, data, plan.recipe, run)
        journal.make_folder()
        return journal

    # -- the work ----------------------------------------------------------------------------

    def _run_passes(self, plan: Plan) -> tuple[Plan, PipelineResult]:
        journal = self._journal(plan)
        notes = () if journal is None else _resumed(journal)
        result = plan.recipe.pipeline().run(plan.model, self._context(plan), journal)
        return replace(plan, notes=(*notes, *plan.notes)), result

    def _context(self, plan: Plan) -> PassContext:
        trainer = None
        if plan.recipe.fine_tune and plan.train is not None:
            from onnx_admm.training.trainers import make_trainer

            trainer = make_trainer(plan.recipe.training.trainer)
        return PassContext(
            reference=plan.model,
            teacher=plan.teacher,
            train=plan.train,
            validation=plan.validation,
            trainer=trainer,
            settings=replace(
                plan.recipe.training,
                threads=self.threads or plan.recipe.training.threads,
                memory_mb=min(self.memory_mb, plan.recipe.training.memory_mb),
            ),
            seed=self.seed,
            progress=self.progress,
            max_drop=self.max_drop,
            memory_bytes=self.memory_mb << 20,
            executor=self.executor,
            cost_model=None if plan.recipe.cost_model is None else cost_model(plan.recipe.cost_model),
            bindings=plan.recipe.bind,
        )

    def _gate(self, changed: bool, is_timed: bool, naming: int) -> Gate:
        floor = ROUNDED if self.asks_nothing else WRECKED
        return Gate(
            max_drop=self.max_drop, floor=floor, larger=not changed, naming=naming, slower=not is_timed
        )

    def _save(self, result: PipelineResult, results: ResultFiles, plan: Plan) -> tuple[ModelFiles, bool]:
        """Write the candidate; return its files, and whether it differs from the original.

        Provenance must not make it larger than the original. Where only a smaller file is requested and none
        was found, the original is written.
        """
        limit = plan.facts.file_bytes
        is_one_file = plan.source.stat().st_size == limit
        is_mostly_text = plan.text > limit * _MUCH_TEXT
        is_frozen = bool(plan.recipe.freeze_defaults and plan.frozen)
        changed = result.changed or is_frozen or is_mostly_text or plan.lowered
        if not changed and is_one_file:
            return results.copy(plan.source), False
        model = result.model.fork()
        compact_integers(model)
        saved = results.save(model)
        if saved.size > limit and PROVENANCE in model.metadata:
            del model.metadata[PROVENANCE]
            saved.remove()
            saved = results.save(model)
        may_copy = is_one_file and self.asks_nothing and not self.keep and not plan.lowered
        if saved.size > limit and may_copy:
            saved.remove()
            return results.copy(plan.source), False
        return saved, changed

    def _report(self, comparison: Comparison, result: PipelineResult, plan: Plan, seconds: float) -> Report:
        return Report(
            comparison=comparison,
            steps=tuple(step_facts(step) for step in result.reports),
            recipe=plan.recipe.dump(),
            seed=self.seed,
            threads=self.threads,
            seconds=seconds,
            versions=runtime_versions(),
            written=True,
        )


def compress(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    max_memory_mb: int | None = None,
    timeout_s: float | None = None,
    **settings: Any,
) -> Report:
    """Compress a model file: ``compress("net.onnx", "small.onnx", data="train.npz", prune="85x", bits=3)``.

    Args:
        source: the model.
        target: path of the result; never the source.
        max_memory_mb: MiB that the process may take, its worker included; see `limits.RunLimits`.
        timeout_s: seconds that the run may take; None for no limit.
        settings: attributes of `Compression`.

    Raises:
        LimitReached: the run reached one of these limits, or a default one.
        PromiseMissed: the result misses a promise (BudgetExceeded: a stated one); it was not written unless
            ``keep``.
        OnnxAdmmError: see the tree in ``errors.py``; nothing was written.

    Example:
        >>> from onnx_admm.api import compress
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> report = compress("net.onnx", "small.onnx", bits=6, threads=1)
        >>> report.written, report.file_ratio > 1
        (True, True)
    """
    stated = max_memory_mb is not None or timeout_s is not None
    with run_within(RunLimits(max_memory_mb, timeout_s) if stated else None):
        report = Compression(**settings).run(source, target)
    report.raise_if_missed()
    return report


def _resumed(journal: Checkpoints) -> tuple[str, ...]:
    done, total = journal.found(), len(journal.names)
    return (f"{done} of {total} passes were taken from {journal.folder}.",) if done else ()
