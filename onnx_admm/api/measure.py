"""Measurement of two model files: facts, quality on samples, latency."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from onnx_admm.contracts import Array, Dataset, Feeds, ModelView, Progress, SilentProgress
from onnx_admm.contracts.metrics import ScoredDataset, is_scored, metric_of
from onnx_admm.data import from_arrays, limit_samples, synthetic_dataset
from onnx_admm.errors import OnnxAdmmError, OutputError
from onnx_admm.model.integers.prepare import is_integer
from onnx_admm.model.rewrite.comparing.comparable import comparable
from onnx_admm.model.rewrite.comparing.fixed_choices import choosing_operators, with_fixed_choices
from onnx_admm.model.rewrite.comparing.fixed_draws import random_operators
from onnx_admm.model.rewrite.expose_logits import (
    OutputRoles,
    counting_outputs,
    may_classify,
    output_roles,
    squashed_outputs,
)
from onnx_admm.report import Comparison, QualityFacts, Timing, describe_model
from onnx_admm.report.gate import ROUNDED
from onnx_admm.runtime.evaluation import LEAST_SQUASHED_RMS, evaluate
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.latency import compare_latency
from onnx_admm.runtime.sessions import ModelSource, open_session

SYNTHETIC = "synthetic"
DECIDING_SAMPLES = 4
"""Least number of samples on which a decision is based."""

_MADE_UP_SAMPLES, _MADE_UP_MACS = 16, 1 << 36

_LATENCY_TRIES = 3
_CHECKED_SAMPLES = 2
_NEARLY_DB = 3.0
"""Ratio in dB by which a plain run may be farther from the original than the optimised one."""

_LEAST_PLAIN_DB = 6.0
"""Ratio in dB that it keeps in any case."""

_DISAGREEMENT = 0.02
"""Share of max |output| by which optimised and plain runs may differ: above that of fused int8 kernels."""


_Pair: TypeAlias = tuple[ModelSource, ModelSource]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How two models are measured.

    Attributes:
        samples: datasets by their name in the report; budgets are judged on the first.
        threads: intra-op threads; 0 lets the runtime choose (latency is then measured with one).
        progress: receives the progress.
        slowest: multiple of the original's latency; a result above it is timed again, since a busy machine
            must not decide. None: timed once.
        is_classifier: whether outputs of the form of scores are scores, since a drop was stated; otherwise
            the graph, an output's name or labels decide.
    """

    samples: dict[str, Dataset] = field(default_factory=dict)
    threads: int = 0
    progress: Progress = field(default_factory=SilentProgress)
    slowest: float | None = None
    is_classifier: bool = False

    def compare(self, before: str | os.PathLike[str], after: str | os.PathLike[str]) -> Comparison:
        """Read both files, run both on all samples, time both in turns.

        Raises:
            OnnxAdmmError: a file cannot be read, or the runtime cannot run it.
        """
        first, second = ModelView.load(before), ModelView.load(after)
        # Maps and random draws cannot be compared; in memory, tensors and fixed draws replace them.
        in_memory = random_operators(first) or (first.has_maps and second.has_maps)
        files: _Pair = (first, second) if in_memory else (before, after)
        chooses = bool(choosing_operators(first, second))
        fixed = with_fixed_choices(first, second), with_fixed_choices(second, first)
        pair: _Pair = fixed if chooses else files
        roles = output_roles(first)
        known = self.is_classifier or may_classify(first)
        if chooses and roles.classes is None:
            known = False  # the largest of fixed rows says nothing
        floats = {port.name for port in first.signature().outputs if port.dtype.startswith("float")}
        roles = replace(roles, may_classify=known, counting=roles.counting & floats)
        if roles.counting:  # the values that are counted are judged in place of counts
            pair = comparable(first, second), comparable(second, first)
        quality = tuple(
            replace(
                self._quality(name, pair, files if chooses else pair, roles),
                is_classifier=roles.classes is not None,
                same_choices=chooses,
            )
            for name in self.samples
        )
        return Comparison(
            before=describe_model(first, before),
            after=describe_model(second, after),
            quality=quality,
            timing=self._timing(before, after),
        )

    def _quality(
        self,
        name: str,
        compared: _Pair,
        scored: _Pair,
        roles: OutputRoles,
    ) -> QualityFacts:
        data, (before, after) = self.samples[name], compared
        original = evaluate(scored[0], data, roles=roles, threads=self.threads) if is_scored(data) else None
        if original is None or scored is compared:
            result = evaluate(after, data, reference=before, roles=roles, threads=self.threads)
        else:  # a metric would not know the fixed rows
            plain = data.data if isinstance(data, ScoredDataset) else data
            result = evaluate(after, plain, reference=before, roles=roles, threads=self.threads)
            other = evaluate(scored[1], data, reference=scored[0], roles=roles, threads=self.threads)
            result = replace(result, accuracy=other.accuracy)
        asked = metric_of(data)
        metric = "agreement" if result.accuracy is None else "accuracy"
        return QualityFacts(
            data=name,
            metric=metric if asked is None else asked.name,
            samples=result.samples,
            accuracy_before=None if original is None else original.accuracy,
            accuracy_after=result.accuracy,
            agreement=result.agreement,
            agreement_by_output=result.agreement_by_output,
            sqnr_db=result.sqnr_db,
            sqnr_by_output=result.sqnr_by_output,
            judged_db=result.judged_db,
            same_shape=result.same_shape,
            same_elements=result.same_elements,
        )

    def _timing(self, before: str | os.PathLike[str], after: str | os.PathLike[str]) -> Timing | None:
        if not self.samples:
            return None
        feeds = first_samples(next(iter(self.samples.values())), 1)
        threads = self.threads or 1
        for _ in range(1 if self.slowest is None else _LATENCY_TRIES):
            latency = compare_latency(
                Path(before), Path(after), feeds, threads=threads, progress=self.progress
            )
            if self.slowest is None or latency.ratio <= self.slowest:
                break
        return Timing(**asdict(latency), threads=threads)


def made_up(model: ModelView, seed: int) -> Dataset:
    """Return random samples to compare two models on without data; fewer for expensive models."""
    return limit_samples(model, synthetic_dataset(model, _MADE_UP_SAMPLES, seed), _MADE_UP_MACS)


def judged_samples(
    model: ModelView, validation: Dataset | None, seed: int, *, few_decide: bool
) -> dict[str, Dataset]:
    """Return the samples that a result is measured on, by name; it is judged on the first.

    These are the validation samples, or made-up samples where there are none or too few. Given samples are
    measured on in any case.

    Args:
        model: the original.
        validation: validation samples.
        seed: seed of made-up samples.
        few_decide: whether any number of given samples is enough, since the request depends on them.
    """
    if validation is None:
        return {SYNTHETIC: made_up(model, seed)}
    given = {"validation": validation}
    if few_decide or len(validation) >= DECIDING_SAMPLES:
        return given
    try:
        return {SYNTHETIC: made_up(model, seed), **given}
    except OnnxAdmmError:  # a model need not run with made-up inputs
        return given


def first_samples(data: Dataset, count: int) -> Feeds:
    """Return the feeds of the first ``count`` samples."""
    chosen = data.select(np.arange(min(count, len(data))))
    return next(iter(chosen.batches(count))).feeds


def check_runs(before: str | os.PathLike[str], after: str | os.PathLike[str], data: Dataset) -> None:
    """Run a written file with graph optimisation on and off, on a few samples.

    The optimiser folds decoders of weights; the plain run executes them. Both must agree as well as the
    original's runs do, or within 2 % of the largest output. With integer activations, one step more or less
    in a rounding is enough for a larger difference: there it is enough that the plain run keeps the ratio
    that rounded models keep to the original; or nearly that of the optimised run, where this is farther.

    Raises:
        OutputError: they do not agree, so different runtimes would give different results.
    """
    few = data.select(np.arange(min(len(data), _CHECKED_SAMPLES)))
    difference = _difference(after, few)
    if difference > _DISAGREEMENT and difference > 2 * _difference(before, few):
        if is_integer(ModelView.load(after)) and _plain_run_keeps(before, after, few):
            return
        raise OutputError(
            "the result computes something else when graph optimisation is on",
            got=f"a difference of {difference:.3g} of the largest output",
            expected=f"at most {_DISAGREEMENT:g}",
        )


def _plain_run_keeps(before: str | os.PathLike[str], after: str | os.PathLike[str], data: Dataset) -> bool:
    """Return whether the plain run of a result is as near to the original as rounded models have to be.

    A result that was asked for more than rounding may be farther: then the optimised run is the measure.
    """
    original, result = ModelView.load(before), ModelView.load(after)
    unlabelled = from_arrays(next(data.batches(_CHECKED_SAMPLES)).feeds)
    reference, roles = _steady(original, before, result), output_roles(original)
    source = _steady(result, after, original)
    plain, optimised = (
        evaluate(
            open_session(source, threads=1, optimize=optimize),
            unlabelled,
            reference=reference,
            roles=roles,
            threads=1,
        ).judged_db
        for optimize in (False, True)
    )
    return bool(plain) and all(found >= _least_plain(optimised[name]) for name, found in plain.items())


def _least_plain(optimised: float) -> float:
    """Return the ratio that a plain run has to keep, in dB, where the optimised one keeps this."""
    if optimised >= ROUNDED.least_db:
        return ROUNDED.least_db
    return max(optimised - _NEARLY_DB, _LEAST_PLAIN_DB)


def _steady(view: ModelView, file: str | os.PathLike[str], *others: ModelView) -> ModelSource:
    """Return the file, or where the model draws or chooses rows, a copy that does so in the same way.

    ``others`` are compared with it.
    """
    if choosing_operators(view, *others):
        return with_fixed_choices(view, *others)
    return view if random_operators(view) else file


def _difference(model: str | os.PathLike[str], data: Dataset) -> float:
    """Return the largest difference between plain and optimised runs, as a share of the largest output."""
    view = ModelView.load(model)
    source = _steady(view, model)
    sessions = [open_session(source, threads=1, optimize=optimize) for optimize in (False, True)]
    pairs = [
        pair
        for batch in data.batches(_CHECKED_SAMPLES)
        for pair in zip(*(run_samples(session, batch.feeds) for session in sessions), strict=True)
    ]
    floors = dict.fromkeys(squashed_outputs(view), LEAST_SQUASHED_RMS)
    return largest_difference(((a.outputs, b.outputs) for a, b in pairs), floors, counting_outputs(view))


def largest_difference(
    pairs: Iterable[tuple[Feeds, Feeds]], floors: Mapping[str, float], counting: Collection[str]
) -> float:
    """Return the largest difference of float outputs in pairs of runs, relative to each output.

    An output's largest value is that of all runs, since one run may give next to nothing.

    Args:
        pairs: outputs of one run and of the other.
        floors: least value that the largest value of an output counts as, by name.
        counting: outputs that only compare, round or count; they are left out, since they change abruptly.
    """
    apart: dict[str, float] = {}
    largest: dict[str, float] = {}
    for plain, optimised in pairs:
        for name, expected in plain.items():
            if np.issubdtype(expected.dtype, np.floating) and name not in counting:
                apart[name] = max(apart.get(name, 0.0), _apart(expected, optimised[name]))
                finite = np.abs(expected[np.isfinite(expected)])
                largest[name] = max(
                    largest.get(name, floors.get(name, 1e-12)), float(finite.max(initial=0.0))
                )
    return max((apart[name] / largest[name] for name in apart), default=0.0)


def _apart(expected: Array, got: Array) -> float:
    """Return the largest difference; inf where the shape or what is finite differs."""
    if expected.shape != got.shape:
        return np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(got)):
        return np.inf
    return float(np.abs(expected[finite] - got[finite]).max(initial=0.0))
