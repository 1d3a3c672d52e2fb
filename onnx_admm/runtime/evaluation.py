"""Quality of a model on data: accuracy, agreement with a reference, output error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_admm.contracts import IGNORED, Array, Dataset, Feeds
from onnx_admm.contracts.metrics import metric_of
from onnx_admm.errors import DataError
from onnx_admm.model.analysis.class_axis import ClassAxis
from onnx_admm.model.analysis.output_parts import part_name
from onnx_admm.model.rewrite.expose_logits import OutputRoles, is_judged, scored_output
from onnx_admm.runtime.feeding import feed_at, run_samples
from onnx_admm.runtime.labels import known_labels
from onnx_admm.runtime.padding import Places, counted, real_places, without_padding
from onnx_admm.runtime.predictions import Classes, class_count, predictions, same_places
from onnx_admm.runtime.sessions import ModelSource, Session, open_session

SQNR_LIMIT_DB = 200.0
"""Ratio that is stated for identical outputs, which have no noise; its negative is the lower bound."""

LEAST_RMS, LEAST_SQUASHED_RMS = 1e-6, 1e-3
"""Root mean square that an output counts as at least where it is judged: smaller values change by a multiple
of themselves for nothing. The second is for outputs of a Softmax, a Sigmoid and the like."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Measured quality.

    Attributes:
        accuracy: share of labels that are predicted, 0 to 1; None without labels or classes. A label is for a
            sample, or for a place of a sample (pixel, token); ignored ones are left out. Where the data has a
            metric, that metric.
        agreement: share of predictions equal to the reference's, 0 to 1; None without reference or classes.
            Where several outputs have classes, the least of their shares.
        agreement_by_output: the share of each output with classes.
        sqnr_db: ``10 log10(sum ref^2 / sum (ref - out)^2)`` over all float outputs, within
            +-``SQNR_LIMIT_DB``; None without a reference or a float output.
        sqnr_by_output: the same for each float output by itself, and for each part of one that is joined of
            several (`OutputPart`).
        samples: number of samples.
        judged_db: as ``sqnr_by_output``, but a signal counts as its floor at least, and samples whose output
            has another shape than the reference's are left out.
        same_shape: share of the samples whose output has the reference's shape; outputs for which that is
            always so are left out.
        same_elements: share of equal elements of each output that is no float.
    """

    accuracy: float | None
    agreement: float | None
    sqnr_db: float | None
    samples: int
    agreement_by_output: Mapping[str, float] = field(default_factory=dict)
    sqnr_by_output: Mapping[str, float] = field(default_factory=dict)
    judged_db: Mapping[str, float] = field(default_factory=dict)
    same_shape: Mapping[str, float] = field(default_factory=dict)
    same_elements: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    model: ModelSource | Session,
    data: Dataset,
    *,
    reference: ModelSource | Session | None = None,
    roles: OutputRoles | None = None,
    batch_size: int = 256,
    threads: int = 0,
) -> Quality:
    """Run ``data`` through a model, and through a reference, a batch at a time.

    Padding, as an attention mask marks it, does not count in comparisons with the reference.

    Where the data has a metric (`ScoredDataset`), it replaces accuracy.

    Predictions are read from the first output, or from the one that ``roles`` names (see ``predictions``).

    Args:
        model: the model; an open session is used as it is.
        data: samples; labels are used where there are some.
        reference: the model whose predictions and outputs count as right.
        roles: the output with the classes, and outputs with a floor of their own, as ``output_roles`` reads
            them off the graph.
        batch_size: samples in memory at once.
        threads: intra-op threads; 0 lets the runtime choose.

    Raises:
        DataError: no samples, a label the model has no class for, dense labels of another shape than the
            predictions, or labels that are all ignored.
        OnnxAdmmError: from ``open_session`` and ``Session.run``.
    """
    roles = OutputRoles() if roles is None else roles
    classes = roles.classes
    session = _session(model, threads)
    original = _session(reference, threads) if reference is not None else None
    metric = metric_of(data)
    tally, state = _Tally(classes, roles), None if metric is None else metric.start()
    for batch in data.batches(batch_size):
        runs = run_samples(session, batch.feeds)
        originals = run_samples(original, batch.feeds) if original is not None else None
        for run in runs:
            labels = batch.labels[run.start : run.stop] if batch.labels is not None else None
            output = session.output_names[0] if classes is None else classes.name
            tally.add(run.stop - run.start, run.outputs[output], labels if state is None else None)
            pair = None if originals is None else next(originals).outputs
            if state is not None:
                expected = run.outputs if pair is None else pair
                names = _declared(run.outputs, output)
                got, right = ({name: each[name] for name in names} for each in (run.outputs, expected))
                state.update(got, labels, right, run.stop - run.start)
            if pair is not None:
                places = real_places(feed_at(session, batch.feeds, run.start))
                places = None if places is None else places[: run.stop - run.start]
                got, expected = (without_padding(each, places) for each in (run.outputs, pair))
                tally.compare(got, expected, output, places)
    if not tally.samples:
        raise DataError("no samples to evaluate on")
    quality = tally.quality(data.has_labels and state is None, original is not None)
    return quality if state is None else replace(quality, accuracy=state.compute())


def _declared(outputs: Feeds, first: str) -> list[str]:
    """Return the names of the model's outputs, the one with the predictions first."""
    return [first, *(name for name in outputs if name != first and scored_output(name) is None)]


def predicted_classes(
    model: ModelSource | Session,
    data: Dataset,
    *,
    classes: ClassAxis | None = None,
    batch_size: int = 64,
    threads: int = 0,
) -> Classes | None:
    """Return the predicted classes of samples, (n,), read as in ``evaluate``.

    None where the model is no classifier, or predicts more than one class for a sample.

    Raises:
        OnnxAdmmError: from ``open_session`` and ``Session.run``.
    """
    session = _session(model, threads)
    output = session.output_names[0] if classes is None else classes.name
    found: list[Classes] = []
    for batch in data.batches(batch_size):
        for run in run_samples(session, batch.feeds):
            chosen = predictions(run.outputs[output], classes)
            if chosen is None or chosen.size != run.stop - run.start:
                return None
            found.append(chosen.reshape(-1))
    return np.concatenate(found) if found else None


def _session(model: ModelSource | Session, threads: int) -> Session:
    return model if isinstance(model, Session) else open_session(model, threads=threads)


@dataclass
class _Tally:
    """Running sums over the batches."""

    classes: ClassAxis | None
    roles: OutputRoles
    samples: int = 0
    right: int = 0
    labelled: int = 0
    agreed: Counter[str] = field(default_factory=Counter)
    """Predictions that stay, by output with classes."""

    compared: Counter[str] = field(default_factory=Counter)
    classifies: bool = True
    fits_labels: bool = True
    errors: dict[str, _OutputError] = field(default_factory=dict)
    """Error of each float output."""

    parts: dict[str, _OutputError] = field(default_factory=dict)
    """Error of each part of an output that is joined of several."""

    equal: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Equal elements and all elements of each other output."""

    _found: Classes | None = field(default=None, repr=False)
    _labels: tuple[int, ...] | None = None

    def add(self, count: int, output: Array, labels: Array | None) -> None:
        self._labels = None if labels is None else labels.shape
        is_told = (
            self.roles.may_classify or labels is not None or not np.issubdtype(output.dtype, np.floating)
        )
        found = predictions(output, self.classes, self._labels) if is_told else None
        self._found = found if found is not None and found.ndim and len(found) == count else None
        self.classifies &= self._found is not None
        self.samples += count
        if labels is not None and self._found is not None:
            self._count(output, labels, self._found)

    def _count(self, output: Array, labels: Array, found: Classes) -> None:
        placed = same_places(labels, found)
        if placed is None:
            self.fits_labels = False
            return
        known = known_labels(placed, class_count(output, self.classes, self._labels))
        self.labelled += int(np.count_nonzero(known != IGNORED))
        self.right += int(np.count_nonzero((found == known) & (known != IGNORED)))

    def compare(
        self,
        outputs: Mapping[str, Array],
        expected: Mapping[str, Array],
        output: str,
        places: Places | None = None,
    ) -> None:
        right, found = predictions(expected[output], self.classes, self._labels), self._found
        if found is None or right is None or right.shape != found.shape:
            self.classifies = False
        else:
            self._count_same(output, found, right, places)
        for axis in self.roles.further:
            got, kept = (predictions(each[axis.name], axis) for each in (outputs, expected))
            if got is None or kept is None or got.shape != kept.shape:
                continue
            if got.size == len(got) or (found is not None and got.shape == found.shape):  # no attention maps
                self._count_same(axis.name, got, kept, places)
        for name in (name for name in outputs if name in expected):  # in order: sums depend on it
            if np.issubdtype(expected[name].dtype, np.floating):
                self.errors.setdefault(name, _OutputError()).add(expected[name], outputs[name])
                for part in self.roles.parts.get(name, ()):
                    of_part = self.parts.setdefault(part_name(name, part), _OutputError())
                    compared = part if places is None else part.plain
                    of_part.add(*compared.pair(expected[name], outputs[name]))
            else:
                same, count = self.equal.get(name, (0, 0))
                equal = _equal_elements(expected[name], outputs[name])
                self.equal[name] = same + equal, count + expected[name].size

    def _count_same(self, output: str, found: Classes, right: Classes, places: Places | None) -> None:
        stays = counted(found == right, places)
        self.agreed[output] += int(np.count_nonzero(stays))
        self.compared[output] += stays.size

    def quality(self, has_labels: bool, has_reference: bool) -> Quality:
        told = {name: e for name, e in self.errors.items() if is_judged(name, self.roles.counting)}
        told |= self.parts
        errors = {name: e for name, e in self.errors.items() if scored_output(name) is None}
        signal, noise = (sum(getattr(e, side) for e in errors.values()) for side in ("signal", "noise"))
        scored = self.classifies and self.fits_labels and has_labels
        if scored and not self.labelled:
            raise DataError("every label is ignored", where="labels")
        agreement = {name: self.agreed[name] / count for name, count in self.compared.items() if count}
        if not self.classifies or not has_reference:
            agreement = {}
        return Quality(
            accuracy=self.right / self.labelled if scored else None,
            agreement=min(agreement.values(), default=None),
            agreement_by_output=agreement,
            sqnr_db=_decibels(signal, noise) if errors else None,
            samples=self.samples,
            sqnr_by_output={name: _decibels(e.signal, e.noise) for name, e in (errors | self.parts).items()},
            judged_db={
                name: e.judged_db(name in self.roles.squashed) for name, e in told.items() if e.compared
            },
            same_shape={name: e.compared / e.runs for name, e in errors.items() if e.compared < e.runs},
            same_elements={name: same / count for name, (same, count) in self.equal.items() if count},
        )


@dataclass
class _OutputError:
    """Error of one output or of a part of it, summed over runs.

    Attributes:
        signal, noise: energies over all runs.
        compared, runs: runs with the reference's shape, and all runs.
        same_signal, same_noise, elements: energies and number of the values of those alone.
    """

    signal: float = 0.0
    noise: float = 0.0
    compared: int = 0
    runs: int = 0
    same_signal: float = 0.0
    same_noise: float = 0.0
    elements: int = 0

    def add(self, expected: Array, got: Array) -> None:
        signal, noise = _energies(expected, got)
        self.signal += signal
        self.noise += noise
        self.runs += 1
        if expected.shape == got.shape:
            self.compared += 1
            self.same_signal += signal
            self.same_noise += noise
            self.elements += expected.size

    def judged_db(self, is_squashed: bool) -> float:
        rms = LEAST_SQUASHED_RMS if is_squashed else LEAST_RMS
        return _decibels(max(self.same_signal, rms**2 * self.elements), self.same_noise)


def _energies(expected: Array, got: Array) -> tuple[float, float]:
    """Return signal and noise energy; non-finite values count as noise unless both are the same."""
    if expected.shape != got.shape:
        return 0.0, math.inf
    before, after = expected.astype(np.float64), got.astype(np.float64)
    equal = (before == after) | (np.isnan(before) & np.isnan(after))
    finite = np.isfinite(before) & np.isfinite(after)
    if not np.all(equal | finite):
        return 0.0, math.inf
    difference = np.where(equal, 0.0, np.where(finite, before, 0.0) - np.where(finite, after, 0.0))
    kept = np.where(finite, before, 0.0)
    return float(np.vdot(kept, kept)), float(np.vdot(difference, difference))


def _equal_elements(expected: Array, got: Array) -> int:
    """Return the number of equal elements; 0 where the shape differs."""
    return int(np.count_nonzero(expected == got)) if expected.shape == got.shape else 0


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return SQNR_LIMIT_DB
    if signal == 0.0 or math.isinf(noise):
        return -SQNR_LIMIT_DB
    return float(np.clip(10.0 * math.log10(signal / noise), -SQNR_LIMIT_DB, SQNR_LIMIT_DB))
