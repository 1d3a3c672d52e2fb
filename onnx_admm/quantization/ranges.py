"""Ranges of activations: candidates from a histogram, and the grid of a range.

A range [low, high] contains 0, which padding adds and which a grid must represent exactly. With
n steps the grid is

    scale = (high - low) / n,    zero_point = round(-low / scale),

n being 255, or 127 where products of 8-bit codes would saturate (see ``saturation``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from onnx_admm.model.integers.plan import TensorGrid
from onnx_admm.quantization.histograms import BINS, Histogram

Floats = npt.NDArray[np.float64]

STEPS, STEPS_OF_7_BITS = 255, 127
_SHARES = np.geomspace(1.0, 0.05, 48)
"""Shares of the whole range that are tried."""

_PERCENTILES = (99.99, 99.9)
_SMALLEST = 1e-12


class RangeMethod(StrEnum):
    """How a range is found.

    ``min_max``: the extremes. ``percentile``: without the outermost elements. ``mse``: the least squared
    error of the rounded values. ``entropy``: the least Kullback-Leibler divergence of the rounded
    distribution. ``output``: another one, each side narrowed while the error of the model's outputs falls.
    """

    MIN_MAX = "min_max"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """A range that holds 0, and the method that found it."""

    low: float
    high: float
    method: RangeMethod

    def grid(self, steps: int = STEPS) -> TensorGrid:
        """Return the grid of this range with so many steps.

        Example:
            >>> ActivationRange(0.0, 2.55, RangeMethod.MIN_MAX).grid()
            TensorGrid(scale=0.009999999776482582, zero_point=0)
        """
        scale = np.float32((self.high - self.low) / steps)
        if not scale > _SMALLEST:
            return TensorGrid(1.0, 0)
        return TensorGrid(float(scale), int(np.clip(np.rint(-self.low / scale), 0, steps)))


def range_of_extremes(histogram: Histogram) -> ActivationRange:
    """Return the range from the least to the largest element; the histogram has seen finite ones."""
    return ActivationRange(min(histogram.low, 0.0), max(histogram.high, 0.0), RangeMethod.MIN_MAX)


def candidate_ranges(histogram: Histogram, steps: int = STEPS) -> tuple[ActivationRange, ...]:
    """Return the ranges to choose from, widest first; the first is that of the extremes.

    Args:
        histogram: of the value; it has seen finite elements.
        steps: steps of the grid.
    """
    found = [range_of_extremes(histogram)]
    if histogram.counts.any():
        found += [_percentile(histogram, share) for share in _PERCENTILES]
        found += [_least_squares(histogram, steps), _least_divergence(histogram, steps)]
    different = {(round(each.low, 9), round(each.high, 9)): each for each in reversed(found)}
    return tuple(sorted(different.values(), key=lambda each: each.low - each.high))


def _percentile(histogram: Histogram, percent: float) -> ActivationRange:
    """Return the range without the outermost elements on each side that has any beyond 0."""
    share: Floats = np.cumsum(histogram.counts) / histogram.counts.sum()
    edge = 1.0 - percent / 100
    centres = histogram.centres
    first, last = (min(BINS - 1, int(place)) for place in np.searchsorted(share, [edge, 1.0 - edge]))
    low = float(centres[first]) if histogram.low < 0 else 0.0
    high = float(centres[last]) if histogram.high > 0 else 0.0
    return ActivationRange(min(low, 0.0), max(high, 0.0), RangeMethod.PERCENTILE)


def _shares(histogram: Histogram) -> list[tuple[float, float]]:
    """Return parts of the whole range: both sides shortened alike, but no side below 0 or above it."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    widest = max(-low, high)
    return [(max(low, -widest * share), min(high, widest * share)) for share in _SHARES]


def _least_squares(histogram: Histogram, steps: int) -> ActivationRange:
    """Return the range of least expected squared error: clipping and, inside, step^2 / 12."""
    counts, centres = histogram.counts.astype(np.float64), histogram.centres

    def error(low: float, high: float) -> float:
        clipped = centres - np.clip(centres, low, high)
        inside = (centres >= low) & (centres <= high)
        return float(counts @ clipped**2 + counts[inside].sum() * ((high - low) / steps) ** 2 / 12)

    low, high = min(_shares(histogram), key=lambda ends: error(*ends))
    return ActivationRange(low, high, RangeMethod.MSE)


def _least_divergence(histogram: Histogram, steps: int) -> ActivationRange:
    """Return the range whose rounded distribution diverges least from the clipped one.

    The reference holds the clipped elements in its outermost bins; the rounded distribution is made of the
    elements inside alone, so that clipping costs. Only nonzero elements count: those at exactly 0 (half of
    the elements behind a Relu) are kept by any grid, and would hide all others.

    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017.
    """
    counts, centres = histogram.counts.astype(np.float64), histogram.centres
    zero = int(np.clip(np.searchsorted(centres, 0.0), 0, BINS - 1))
    if histogram.low >= 0:
        counts[0] = min(counts[0], counts[1])
    elif histogram.low < 0 < histogram.high:
        counts[zero] = min(counts[zero], counts[max(0, zero - 2)])

    def divergence(low: float, high: float) -> float:
        first, last = np.searchsorted(centres, [low, high])
        inside = counts[first : max(last, first + 1)]
        if not inside.any():
            return np.inf
        reference = inside.copy()
        reference[0] += counts[:first].sum()
        reference[-1] += counts[first + len(inside) :].sum()
        return _divergence(reference, _rounded(inside, steps))

    low, high = min(_shares(histogram), key=lambda ends: divergence(*ends))
    return ActivationRange(low, high, RangeMethod.ENTROPY)


def _rounded(counts: Floats, steps: int) -> Floats:
    """Return the counts after rounding to ``steps + 1`` codes, even over the nonzero bins of a code."""
    codes = np.minimum((np.arange(len(counts)) * (steps + 1)) // len(counts), steps)
    filled = counts > 0
    totals = np.bincount(codes, counts, steps + 1)
    bins = np.bincount(codes, filled, steps + 1)
    spread = np.divide(totals, bins, out=np.zeros_like(totals), where=bins > 0)
    return np.where(filled, spread[codes], 0.0)


def _divergence(reference: Floats, rounded: Floats) -> float:
    """Return sum p log(p / q) of the normalised counts; bins that only p has count with a tiny q."""
    p, q = reference / reference.sum(), rounded / max(rounded.sum(), _SMALLEST)
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], _SMALLEST))))
