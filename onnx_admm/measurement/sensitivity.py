"""Sensitivity of the outputs to exchanged weights, measured by running the model.

The relative error of an exchange is, for each output by itself,

    sum ||y' - y||^2 / sum ||y||^2        (one over the signal-to-noise ratio)

and for the model their sum over the outputs, so that small outputs count as much as large ones. The input of
a closing Softmax, Sigmoid or ArgMax counts as an output too: a probability near one hides changes before it.
Values that an output only compares, rounds or counts are used in its place. An output that is nearly zero
changes by a multiple of itself easily, so values behind such an operator count as a thousandth at least.
An output that is joined of several parts, such as boxes and scores, has the largest error of them. Rows that
a model chooses by their scores are the same rows in both (see ``fixed_choices``). Where no output is a float,
it is the share of elements that differ.

The squared error is the measure for allocation. Errors of layers that are changed one at a time add up, since
they are nearly uncorrelated, unlike a share of changed decisions; it needs no labels; and it is not flat
where a few samples change no decision. Agreement is measured too, for the final check.

Weights are inputs of sessions that stay open: an exchange costs one run over the samples, from the layer on
(see ``staged_session``), and nothing is loaded again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnx_admm.contracts import Array, Dataset, Feeds, ModelView
from onnx_admm.measurement.staged_session import EditedSession, StagedSession, Trace
from onnx_admm.model.analysis.class_axis import ClassAxis, class_axis
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.analysis.output_parts import OutputPart, part_name
from onnx_admm.model.rewrite.comparing.comparable import comparable
from onnx_admm.model.rewrite.expose_logits import (
    counting_outputs,
    output_roles,
    score_name,
    scored_output,
)
from onnx_admm.runtime.feeding import Runs, feed_at, run_samples
from onnx_admm.runtime.padding import Places, counted, real_places, without_padding
from onnx_admm.runtime.predictions import predictions
from onnx_admm.runtime.sessions import open_session

_LEAST_SQUASHED = 1e-3

_FEWEST_PREDICTIONS = 4
"""Least number of predictions of which one may change."""

_BATCH = 16
"""Samples in a run: intermediate values must fit the memory."""

_MOST_TRACE_BYTES = 1 << 27
"""Bytes kept between the runs over one set of samples."""


@dataclass(frozen=True)
class Effect:
    """Effect of exchanged weights on the outputs.

    Attributes:
        by_output: relative error of each output and score.
        agreement: share of the predictions that stay; None where the model is no classifier.
        predictions: number of the predictions that were compared.
    """

    by_output: Mapping[str, float]
    agreement: float | None
    predictions: int = 0

    def keeps_predictions(self, least: float) -> bool:
        """Return whether a share of the predictions stays, where there are any; of few, one may change."""
        if self.agreement is None:
            return True
        few = 1 - 1 / self.predictions if self.predictions >= _FEWEST_PREDICTIONS else 1.0
        return self.agreement >= min(least, few)

    @property
    def relative_error(self) -> float:
        """Sum of the relative errors; inf where an output is not finite."""
        return sum(self.by_output.values())

    @property
    def has_scores(self) -> bool:
        """Whether there are scores in front of a closing Softmax, Sigmoid or ArgMax."""
        return any(scored_output(name) is not None for name in self.by_output)

    @property
    def score_error(self) -> float:
        """Sum of the relative errors, of a score in place of the output behind it.

        A few samples between two classes make up most of the error of probabilities, so that it differs much
        from one set of samples to another; that of scores does not.
        """
        behind = {scored_output(name) for name in self.by_output} - {None}
        return sum(error for name, error in self.by_output.items() if name not in behind)


class OutputProbe:
    """A model with exchangeable weights, and its reference outputs.

    Args:
        model: the model; it is not changed.
        names: sites whose weights will be exchanged.
        samples: samples to run; kept in memory with the outputs.
        reference: the model whose outputs count as right; None: the model itself.
        own: the model's weights by site, where they are in memory already.
        threads: intra-op threads; 0 lets the runtime choose.

    Raises:
        DataError, WorkError: the model does not run with the samples.
    """

    def __init__(
        self,
        model: ModelView,
        names: Iterable[str],
        samples: Dataset,
        *,
        reference: ModelView | None = None,
        own: Mapping[str, Array] | None = None,
        threads: int = 0,
    ) -> None:
        self._compared = (model,) if reference is None else (model, reference)
        self._model, self._threads = comparable(*self._compared), threads
        self._classes, self._counts = class_axis(model), counting_outputs(model)
        first = next(samples.batches(_BATCH)).feeds
        self._parts = output_roles(model if reference is None else reference).parts
        self._session = StagedSession(self._model, names, first, own=own or {}, threads=threads)
        differs = reference is not None and not same_model(reference, model)
        self._reference = comparable(reference, model) if reference is not None and differs else None
        self._runs = self._prepare(samples)

    def effect(self, weights: Mapping[str, Array]) -> Effect:
        """Return the effect of these weights in place of the model's.

        Args:
            weights: weights by site name; of the sites named at the start, or of others, which takes a new
                session.
        """
        return self._effect(self._exchanged(weights))

    def form_of(self, other: ModelView) -> ModelView:
        """Return another model in the form in which `effect_of` compares it."""
        return comparable(other, *self._compared)

    def effect_of(self, other: Callable[[Feeds], Feeds]) -> Effect:
        """Return the effect of another model in place of this one.

        Args:
            other: runs that model, in its `form_of`, on one feed.
        """
        return self._effect(lambda run: other(run.feed))

    def edited(self, value: str, edit: Callable[[ModelView], ModelView]) -> EditedSession:
        """Return the model, with its scores, with all that reads a value edited; see ``StagedSession``."""
        return self._session.edited(value, edit)

    def effect_of_edit(self, edited: EditedSession, further: Feeds) -> Effect:
        """Return the effect of an edit.

        Args:
            edited: from `edited`, of this probe or of one with other samples.
            further: one array per input that the edit added.
        """
        if edited.number > 0:
            self._trace()
        return self._effect(lambda run: edited.run(run.feed, further, run.trace))

    def _effect(self, run_again: Callable[[_Run], Feeds]) -> Effect:
        sums: dict[str, _Sums] = {}
        agreed = _Agreement(self._classes)
        for run in self._runs:
            places = real_places(run.feed)
            outputs = without_padding(run_again(run), places)
            for name, expected in run.expected.items():
                sums.setdefault(name, _Sums()).add(
                    expected, _cut(expected.of_outputs(outputs), expected.array)
                )
            first = self._session.output_names[0] if self._classes is None else self._classes.name
            agreed.add(run.expected[first].array, _cut(outputs[first], run.expected[first].array), places)
        floats = {name: total for name, total in sums.items() if total.of_floats and name not in self._counts}
        ratios = {name: total.ratio for name, total in (floats or sums).items()}
        for name, parts in self._parts.items():
            worst = max((ratios.pop(part_name(name, part), 0.0) for part in parts), default=0.0)
            if name in ratios:
                ratios[name] = max(ratios[name], worst)
        return Effect(ratios, agreed.share, agreed.compared)

    @property
    def is_comparable(self) -> bool:
        """Whether the outputs that count have a finite value; without one, any model compares as equal."""
        outputs = [item for run in self._runs for item in run.expected.items()]
        floats = [each.array for name, each in outputs if name not in self._counts and _is_float(each.array)]
        return not floats or any(bool(np.isfinite(array).any()) for array in floats)

    def relative_error(self, weights: Mapping[str, Array]) -> float:
        """Return the relative error alone."""
        return self.effect(weights).relative_error

    def on(self, samples: Dataset) -> OutputProbe:
        """Return the same session with other samples."""
        other = object.__new__(OutputProbe)
        other.__dict__.update(self.__dict__)
        other._runs = other._prepare(samples)
        return other

    def _prepare(self, samples: Dataset) -> list[_Run]:
        opened = self._session
        right: Runs = opened
        if self._reference is not None:
            right = open_session(self._reference, threads=self._threads)
        runs = []
        for batch in samples.batches(_BATCH):
            for run in run_samples(right, batch.feeds):
                feed = feed_at(opened, batch.feeds, run.start)
                if (places := real_places(feed)) is not None:
                    places = places[: run.stop - run.start]
                expected = without_padding(run.outputs, places)
                by_name = {k: _Expected.of(k, v, score_name(k) in expected) for k, v in expected.items()}
                for name in (name for name in self._parts if name in expected):
                    if not _is_float(expected[name]):
                        continue
                    by_name |= {
                        part_name(name, part): _Expected.of_part(
                            name, expected[name], part if places is None else part.plain
                        )
                        for part in self._parts[name]
                    }
                runs.append(_Run(feed, by_name))
        return runs

    def _exchanged(self, weights: Mapping[str, Array]) -> Callable[[_Run], Feeds]:
        """Return a function that runs the samples with other weights."""
        session = self._session
        if all(name in session.inputs for name in weights):
            if len(weights) == 1 and session.is_late(*weights):
                self._trace()
            return lambda run: session.run(run.feed, weights, run.trace)
        fork = self._model.fork()
        for name, array in weights.items():
            fork.replace(name, array)
        other = open_session(fork, threads=self._threads)
        return lambda run: other.run(run.feed)

    def _trace(self) -> None:
        """Keep the values that a run after an exchange of one weight can begin with."""
        for run in self._runs:
            if run.trace is None:
                run.trace = self._session.trace(run.feed, _MOST_TRACE_BYTES / len(self._runs))


# -- bookkeeping -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Expected:
    """Expected values of one output of one run, or of a part; and their energy. Only finite values count."""

    output: str
    array: Array
    whole: float
    part: OutputPart | None = None
    centre: float = 0.0

    @classmethod
    def of(cls, output: str, array: Array, squashed: bool) -> _Expected:
        if not _is_float(array):
            return cls(output, array, float(array.size))
        finite = array[np.isfinite(array)].astype(np.float64)
        least = _LEAST_SQUASHED**2 * finite.size if squashed else 0.0
        return cls(output, array, max(float(np.vdot(finite, finite)), least))

    @classmethod
    def of_part(cls, output: str, array: Array, part: OutputPart) -> _Expected:
        found = part.of(array)
        centre = part.centre(found)
        return replace(cls.of(output, found - centre, squashed=False), part=part, centre=centre)

    def of_outputs(self, outputs: Feeds) -> Array:
        array = outputs[self.output]
        return array if self.part is None else self.part.of(array) - self.centre

    def loss(self, got: Array) -> float:
        """Return the squared error, or the number of differing elements; all where the shape differs."""
        if got.shape != self.array.shape:
            return self.whole
        if not _is_float(got):
            return float(np.count_nonzero(got != self.array))
        there = np.isfinite(self.array)
        difference = got[there].astype(np.float64) - self.array[there]
        squared = float(np.vdot(difference, difference))
        return squared if math.isfinite(squared) else math.inf


@dataclass
class _Run:
    feed: Feeds
    expected: dict[str, _Expected]
    trace: Trace | None = None


@dataclass
class _Sums:
    lost: float = 0.0
    whole: float = 0.0
    of_floats: bool = True

    def add(self, expected: _Expected, got: Array) -> None:
        self.of_floats = _is_float(got)
        self.lost += expected.loss(got)
        self.whole += expected.whole

    @property
    def ratio(self) -> float:
        if self.lost == 0.0:
            return 0.0
        return self.lost / self.whole if self.whole > 0 and math.isfinite(self.lost) else math.inf


@dataclass
class _Agreement:
    classes: ClassAxis | None
    agreed: int = 0
    compared: int = 0
    classifies: bool = True

    def add(self, expected: Array, got: Array, places: Places | None) -> None:
        right, found = predictions(expected, self.classes), predictions(got, self.classes)
        if right is None or found is None or right.shape != found.shape:
            self.classifies = False
            return
        same = counted(right == found, None if places is None else places[: len(right)])
        self.agreed += int(np.count_nonzero(same))
        self.compared += same.size

    @property
    def share(self) -> float | None:
        return self.agreed / self.compared if self.classifies and self.compared else None


def _cut(got: Array, expected: Array) -> Array:
    """Return the output without samples that only pad a run."""
    return got[: len(expected)] if got.ndim and got.ndim == expected.ndim else got


def _is_float(array: Array) -> bool:
    return np.issubdtype(array.dtype, np.floating)
