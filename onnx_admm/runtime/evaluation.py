"""How good a model is on data: accuracy, agreement with a reference, output error."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array, Dataset
from onnx_admm.errors import DataError
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.sessions import ModelSource, Session, open_session

SQNR_LIMIT_DB = 200.0
"""Identical outputs have no noise; their ratio is stated as this, and its negative bounds the other end."""

LEAST_RMS, LEAST_SQUASHED_RMS = 1e-6, 1e-3
"""Root mean square that an output counts as at least where it is judged: smaller values change by a multiple
of themselves for nothing. The second is for outputs of a Softmax, a Sigmoid and the like."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured.

    Attributes:
        accuracy: share of samples whose prediction is the label, 0 to 1; None without labels or classes.
        agreement: share whose prediction is the reference's, 0 to 1; None without reference or classes.
        sqnr_db: ``10 log10(sum ref^2 / sum (ref - out)^2)`` over all float outputs, within
            +-``SQNR_LIMIT_DB``; None without a reference or a float output.
        sqnr_by_output: the same for each float output by itself.
        samples: how many were run.
        judged_db: as ``sqnr_by_output``, but no signal is taken for less than its floor, and samples whose
            output has another shape than the reference's are left out.
        same_shape: share of the samples whose output has the reference's shape; outputs for which that is
            always so are left out.
    """

    accuracy: float | None
    agreement: float | None
    sqnr_db: float | None
    samples: int
    sqnr_by_output: Mapping[str, float] = field(default_factory=dict)
    judged_db: Mapping[str, float] = field(default_factory=dict)
    same_shape: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    model: ModelSource | Session,
    data: Dataset,
    *,
    reference: ModelSource | Session | None = None,
    squashed: Collection[str] = (),
    batch_size: int = 256,
    threads: int = 0,
) -> Quality:
    """Run ``data`` through a model, and through a reference beside it, a batch at a time.

    The prediction is read from the first output (see ``predictions``).

    Args:
        model: what to measure; an open session is used as it is.
        data: samples; labels are used where there are some.
        reference: the model whose predictions and outputs count as right.
        squashed: outputs of a Softmax, a Sigmoid and the like, which have a floor of their own.
        batch_size: samples held in memory at once.
        threads: intra-op threads; 0 lets the runtime choose.

    Raises:
        DataError: no samples, or a label the model has no class for.
        OnnxAdmmError: whatever ``open_session`` and ``Session.run`` raise.
    """
    session = _session(model, threads)
    original = _session(reference, threads) if reference is not None else None
    tally = _Tally()
    for batch in data.batches(batch_size):
        runs = run_samples(session, batch.feeds)
        originals = run_samples(original, batch.feeds) if original is not None else None
        for run in runs:
            labels = batch.labels[run.start : run.stop] if batch.labels is not None else None
            tally.add(run.stop - run.start, session.output_names[0], run.outputs, labels)
            if originals is not None and original is not None:
                tally.compare(run.outputs, next(originals).outputs, original.output_names[0])
    if not tally.samples:
        raise DataError("no samples to evaluate on")
    return tally.quality(data.has_labels, original is not None, squashed)


def predictions(output: Array) -> npt.NDArray[np.int64] | None:
    """The class of each sample, or None where the output is no classifier's.

    Scores ``(n, c)`` with ``c >= 2``, trailing axes of size 1 dropped: argmax over ``c`` (the first of
    equals). Integers ``(n,)`` or ``(n, 1)``: the class itself. Anything else: None.
    """
    squeezed = output
    while squeezed.ndim > 2 and squeezed.shape[-1] == 1:
        squeezed = squeezed[..., 0]
    if np.issubdtype(squeezed.dtype, np.integer):
        if squeezed.ndim == 2 and squeezed.shape[1] == 1:
            squeezed = squeezed[:, 0]
        return squeezed.astype(np.int64) if squeezed.ndim == 1 else None
    if squeezed.ndim != 2 or squeezed.shape[1] < 2 or not np.issubdtype(squeezed.dtype, np.floating):
        return None
    classes: npt.NDArray[np.int64] = np.argmax(squeezed, axis=1).astype(np.int64)
    return classes


def predicted_classes(
    model: ModelSource | Session, data: Dataset, *, batch_size: int = 64, threads: int = 0
) -> npt.NDArray[np.int64] | None:
    """What a model takes samples for, (n,), read as in ``evaluate``; None where it is no classifier.

    Raises:
        OnnxAdmmError: whatever ``open_session`` and ``Session.run`` raise.
    """
    session = _session(model, threads)
    found: list[npt.NDArray[np.int64]] = []
    for batch in data.batches(batch_size):
        for run in run_samples(session, batch.feeds):
            classes = predictions(run.outputs[session.output_names[0]])
            if classes is None or len(classes) != run.stop - run.start:
                return None
            found.append(classes)
    return np.concatenate(found) if found else None


def _session(model: ModelSource | Session, threads: int) -> Session:
    return model if isinstance(model, Session) else open_session(model, threads=threads)


@dataclass
class _Tally:
    """Running sums over the batches."""

    samples: int = 0
    right: int = 0
    agreed: int = 0
    classifies: bool = True
    errors: dict[str, _OutputError] = field(default_factory=dict)
    """Of each float output."""

    _classes: npt.NDArray[np.int64] | None = field(default=None, repr=False)

    def add(self, count: int, output: str, outputs: Mapping[str, Array], labels: Array | None) -> None:
        found = predictions(outputs[output])
        self._classes = found if found is not None and len(found) == count else None
        self.classifies &= self._classes is not None
        self.samples += count
        if labels is not None and self._classes is not None:
            _check_labels(labels, outputs[output])
            self.right += int(np.count_nonzero(self._classes == labels))

    def compare(self, outputs: Mapping[str, Array], expected: Mapping[str, Array], output: str) -> None:
        classes = predictions(expected[output])
        count = 0 if self._classes is None else len(self._classes)
        if self._classes is None or classes is None or len(classes) != count:
            self.classifies = False
        else:
            self.agreed += int(np.count_nonzero(self._classes == classes))
        for name in outputs.keys() & expected.keys():
            if np.issubdtype(expected[name].dtype, np.floating):
                self.errors.setdefault(name, _OutputError()).add(expected[name], outputs[name])

    def quality(self, has_labels: bool, has_reference: bool, squashed: Collection[str]) -> Quality:
        errors = self.errors
        signal, noise = (sum(getattr(e, side) for e in errors.values()) for side in ("signal", "noise"))
        return Quality(
            accuracy=self.right / self.samples if self.classifies and has_labels else None,
            agreement=self.agreed / self.samples if self.classifies and has_reference else None,
            sqnr_db=_decibels(signal, noise) if errors else None,
            samples=self.samples,
            sqnr_by_output={name: _decibels(e.signal, e.noise) for name, e in errors.items()},
            judged_db={name: e.judged_db(name in squashed) for name, e in errors.items() if e.compared},
            same_shape={name: e.compared / e.runs for name, e in errors.items() if e.compared < e.runs},
        )


@dataclass
class _OutputError:
    """Error of one output, summed over runs.

    Attributes:
        signal, noise: energies over all runs.
        compared, runs: how many runs gave the reference's shape, and how many there were.
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
    """Signal and noise; values that are not finite count as noise unless both sides hold the same."""
    if expected.shape != got.shape:
        return 0.0, math.inf
    wanted, met = expected.astype(np.float64), got.astype(np.float64)
    equal = (wanted == met) | (np.isnan(wanted) & np.isnan(met))
    finite = np.isfinite(wanted) & np.isfinite(met)
    if not np.all(equal | finite):
        return 0.0, math.inf
    difference = np.where(equal, 0.0, np.where(finite, wanted, 0.0) - np.where(finite, met, 0.0))
    kept = np.where(finite, wanted, 0.0)
    return float(np.vdot(kept, kept)), float(np.vdot(difference, difference))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return SQNR_LIMIT_DB
    if signal == 0.0 or math.isinf(noise):
        return -SQNR_LIMIT_DB
    return float(np.clip(10.0 * math.log10(signal / noise), -SQNR_LIMIT_DB, SQNR_LIMIT_DB))


def _check_labels(labels: Array, scores: Array) -> None:
    if np.issubdtype(scores.dtype, np.floating) and len(labels) and int(labels.max()) >= scores.shape[1]:
        raise DataError(
            "a label the model has no class for",
            got=int(labels.max()),
            expected=f"0 to {scores.shape[1] - 1}",
        )
