"""The gate of every result: which promises apply, and which are met.

- A stated bound (``max_drop``, ``min_ratio``, a budget) always applies.
- With labels, or with a stated drop, outputs have no other bound: their error is only reported.
- Without, the outputs must keep a signal-to-noise ratio, and a classifier its predictions: at least
  `WRECKED`, and `ROUNDED` where only a smaller file was requested (``docs/defaults.md``).
- The file must not be larger than the original, nor slower where less latency on this machine was requested.

Predictions that stay speak for the outputs that they are read from: all others keep the ratio.

The error of an output is judged with a floor (`QualityFacts.judged_db`), since values near zero change by a
multiple of themselves easily. An output whose shape depends on the data has no error; most samples must keep
its shape. Predictions count where the model ends in Softmax or ArgMax. Other outputs of that form may be
scores or figures: there, predictions may change where the outputs hardly do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from onnx_admm.errors import DataError
from onnx_admm.model.rewrite.expose_logits import scored_output
from onnx_admm.report.comparison import Comparison
from onnx_admm.report.facts import QualityFacts
from onnx_admm.report.promises import Promise

_logger = logging.getLogger(__name__)

HARDLY_CHANGED_DB = 20.0
"""Ratio, in dB, above which outputs count as unchanged where no classifier is known."""

_NOTHING_LEFT_DB = -200.0
"""Ratio that is stated where an error is not finite, or the signal is zero (``runtime.evaluation``)."""

_LEAST_SHAPES = 0.5
_FEWEST_PREDICTIONS = 4
"""Least number of predictions for a share: one or two say nothing."""

_ROUNDING = 1e-3
"""Points by which a quotient of counts may miss a bound through rounding."""

SLOWDOWN = 1.1
"""Ratio of latencies that counts as not slower: the error of interleaved timing on a busy machine."""

_LESS = "Compress less, or give "
_CHANGED_HINTS = {
    "synthetic": f"{_LESS}samples (--data), with labels for --max-drop.",
    "": f"{_LESS}labels and --max-drop.",
}


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Requirements on outputs where no label shows their quality.

    Attributes:
        least_db: signal-to-noise ratio of each output, in dB.
        least_agreement: share of the top-1 predictions that stay.
        either: whether one of the two is enough.
    """

    least_db: float
    least_agreement: float
    either: bool = False


WRECKED = Floor(least_db=10.0, least_agreement=0.5)
"""Floor below which a result is useless for any request."""

ROUNDED = Floor(least_db=20.0, least_agreement=0.99, either=True)
"""Floor of ``docs/defaults.md`` for a run that requests only a smaller file."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Requirements on a result.

    Attributes:
        max_drop: percentage points of accuracy that may be lost.
        min_ratio: how many times smaller the file must be.
        floor: requirements on outputs without labels; None: none.
        larger: whether the file may be larger than the original.
        naming: bytes by which it may be larger, for the longer name of its data file.
        slower: whether it may be slower; False where less latency on this machine was requested.
    """

    max_drop: float | None = None
    min_ratio: float | None = None
    floor: Floor | None = None
    larger: bool = True
    naming: int = 0
    slower: bool = True

    def judge(self, comparison: Comparison) -> tuple[Promise, ...]:
        """Return every promise that applies to the result, judged on the first of its samples.

        Raises:
            DataError: no sample shows the drop.
        """
        return tuple(self._promises(comparison))

    def _promises(self, comparison: Comparison) -> Iterator[Promise]:
        quality = comparison.quality[0] if comparison.quality else None
        if self.max_drop is not None:
            yield _drop(quality, self.max_drop)
        elif self.floor is not None and quality is not None and quality.accuracy_after is None:
            yield from _outputs(quality, self.floor)
        if self.min_ratio is not None:
            yield Promise(
                name="min_ratio",
                what="the file is not small enough",
                required=self.min_ratio,
                got=comparison.file_ratio,
                unit="times smaller",
                met=comparison.file_ratio >= self.min_ratio,
                stated=True,
            )
        if not self.slower and comparison.timing is not None:
            yield Promise(
                name="latency",
                what="the result is slower than the original on this machine, but the budget requests speed",
                required=SLOWDOWN,
                got=comparison.timing.ratio,
                unit="times the original's latency",
                bound="at most",
                met=comparison.timing.ratio <= SLOWDOWN,
                stated=True,
            )
        if not self.larger:
            before, after = comparison.before.file_bytes, comparison.after.file_bytes
            yield Promise(
                name="size",
                what="the result is larger than the original",
                required=before,
                got=after,
                unit="bytes",
                bound="at most",
                met=after <= before + self.naming,
                stated=False,
                hint="Use the original, or another --format.",
            )


def log_promises(comparison: Comparison) -> None:
    """Log the result in one line, and each promise with its measurement."""
    _logger.info("result: %s", comparison.summary())
    for promise in comparison.promises:
        verdict = "met" if promise.met else "missed"
        _logger.info("promise %s is %s: %s, %s", promise.name, verdict, promise.got, promise.unit)


def _drop(quality: QualityFacts | None, most: float) -> Promise:
    drop = None if quality is None else quality.drop_points
    if quality is None or drop is None:
        raise DataError(
            "the data cannot show a drop (--max-drop)", expected="a classifier's outputs, or data with labels"
        )
    kind = f"{quality.metric} drops" if quality.accuracy_after is not None else "predictions change"
    return Promise(
        name="max_drop",
        what=f"{kind} too much on {_samples(quality)}",
        required=most,
        got=drop,
        unit="points",
        bound="at most",
        met=drop <= most + _ROUNDING,
        stated=True,
    )


def _outputs(quality: QualityFacts, floor: Floor) -> Iterator[Promise]:
    agreement = quality.agreement if quality.samples >= _FEWEST_PREDICTIONS else None
    least_agreement = _least_agreement(floor, quality.samples)
    for name, share in quality.same_shape.items():
        yield Promise(
            name="shape",
            what=f"output {name} changes its shape on too many of {_samples(quality)}",
            required=100 * _LEAST_SHAPES,
            got=100 * share,
            unit="% of the samples keep it",
            met=share >= _LEAST_SHAPES,
            stated=False,
            hint=_changed_hint(quality),
        )
    agrees = floor.either and agreement is not None and agreement >= least_agreement
    worst = _worst(quality, agrees=agrees)
    found = None if worst is None else quality.judged_db[worst]
    if worst is not None and found is not None:
        agrees &= (scored_output(worst) or worst) in quality.agreement_by_output
        yield Promise(
            name="sqnr_db",
            what=f"output {worst} {_changes(found)} on {_samples(quality)}",
            required=floor.least_db,
            got=found,
            unit="dB signal to noise",
            met=found >= floor.least_db or agrees,
            stated=False,
            hint=_changed_hint(quality),
        )
    if found is None and quality.agreement is None and quality.same_elements:
        yield _elements(quality, floor)
    if agreement is None or (floor.either and found is not None):
        return
    same = found is not None and found >= HARDLY_CHANGED_DB and not quality.is_classifier
    yield Promise(
        name="agreement",
        what=f"too many predictions change on {_samples(quality)}",
        required=100 * least_agreement,
        got=100 * agreement,
        unit="% of the predictions stay",
        met=same or agreement >= least_agreement,
        stated=False,
        hint=_changed_hint(quality),
    )


def _worst(quality: QualityFacts, *, agrees: bool) -> str | None:
    """Return the output of least ratio; where predictions stay, of those without any, if there are some.

    Args:
        quality: what was measured.
        agrees: whether predictions stay.
    """
    judged = quality.judged_db
    others = [name for name in judged if (scored_output(name) or name) not in quality.agreement_by_output]
    among = others if agrees and others else list(judged)
    return min(among, key=lambda name: judged[name], default=None)


def _least_agreement(floor: Floor, samples: int) -> float:
    """Return the share of predictions that must stay; of few samples one may change."""
    return min(floor.least_agreement, 1 - 1 / samples) if samples else floor.least_agreement


def _elements(quality: QualityFacts, floor: Floor) -> Promise:
    """Return the promise on equal elements, for models without float outputs or classes."""
    worst = min(quality.same_elements, key=lambda name: quality.same_elements[name])
    share = quality.same_elements[worst]
    return Promise(
        name="elements",
        what=f"too many elements of output {worst} change on {_samples(quality)}",
        required=100 * floor.least_agreement,
        got=100 * share,
        unit="% of the elements stay",
        met=share >= floor.least_agreement,
        stated=False,
        hint=_changed_hint(quality),
    )


def _changed_hint(quality: QualityFacts) -> str:
    return _CHANGED_HINTS.get(quality.data, _CHANGED_HINTS[""])


def _changes(sqnr_db: float) -> str:
    if sqnr_db <= _NOTHING_LEFT_DB:
        return "changes altogether (it is not finite, or the original's was zero)"
    return "changes too much"


def _samples(quality: QualityFacts) -> str:
    return f"{quality.samples:,} {quality.data} samples"
