"""Requested weights of a layer, and the reconstruction that finds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnx_admm.admm.reconstruction.reconstruct import reconstruct
from onnx_admm.admm.sets.levels import Levels, SparseLevels, SupportLevels
from onnx_admm.admm.sets.reshaped import Reshaped
from onnx_admm.admm.sets.supports import AtMostK, ConstraintSet, Mask, NofM, Support
from onnx_admm.allocation.allocation import FLOAT_BITS
from onnx_admm.calibration.argmax_rows import ArgmaxRows
from onnx_admm.calibration.layer_inputs import Layout
from onnx_admm.calibration.moments import Moments
from onnx_admm.calibration.ridges import ridged
from onnx_admm.contracts import Array, PassContext, WeightSite

_SCALE_BITS = 11
"""Significant bits of float16, the type of stored scales; fewer where products would not be exact."""


@dataclass(frozen=True, kw_only=True)
class LayerRequest:
    """The set for one layer's weights.

    Attributes:
        kept: nonzero weights, at most.
        mask: mask of the stored tensor, where existing zeros must stay.
        bits: bits of a weight, 32 where it is not quantised.
        digits: significant bits of the weights' own type.
        per_channel: a scale for each output channel instead of one for all.
        pattern: n and m of n:m, along the input channels.
    """

    kept: int
    mask: Mask | None
    bits: int
    digits: int
    per_channel: bool
    pattern: tuple[int, int] | None

    def is_by_row(self, layout: Layout) -> bool:
        """Return whether the support can be chosen row by row, once each row's count is known.

        With levels alone there is little to choose, and it takes longest.
        """
        is_tied = self.bits != FLOAT_BITS and (not self.per_channel or layout.blocks > 1)
        return not is_tied and self.support_on_matrix(layout) is not None

    def of_row(self, layout: Layout, row: Array) -> LayerRequest:
        """Return the request for a row (d,): the same number of weights, and the same fixed zeros."""
        if self._is_twofold:
            return self.on_support((row != 0).reshape(layout.of_row.shape))
        mask = None if self.mask is None else (row != 0).reshape(layout.of_row.shape)
        return replace(self, kept=int(np.count_nonzero(row)), mask=mask)

    def on_support(self, mask: Mask) -> LayerRequest:
        """Return the same levels on a known support of the stored tensor."""
        return replace(self, pattern=None, mask=mask, kept=int(np.count_nonzero(mask)))

    def stages(self) -> tuple[LayerRequest, ...]:
        """Return successive requests where no set holds both n:m and bits: the support, then the levels."""
        return (replace(self, bits=FLOAT_BITS), self) if self._is_twofold else (self,)

    def nearest(self, site: WeightSite, weights: Array) -> Array:
        """Return the projection of a stored tensor; for n:m and bits: levels on its n:m support."""
        if self.pattern is None:
            return self._set(self.mask, site.shape, site.out_axis).project(weights)
        kept = NofM(*self.pattern, axis=-1 if site.in_axis is None else site.in_axis).project(weights)
        if self.bits == FLOAT_BITS:
            return kept
        return self.on_support(kept != 0).nearest(site, weights)

    def support_on_matrix(self, layout: Layout) -> ConstraintSet | None:
        """Return the constraint on the support alone; None where there is none."""
        is_free = self.pattern is None and self.mask is None and self.kept >= layout.rows * layout.columns
        return None if is_free else replace(self, bits=FLOAT_BITS).on_matrix(layout)

    def on_matrix(self, layout: Layout) -> ConstraintSet:
        """Return the set of matrices (rows, d); of n:m and bits: n:m alone."""
        if self.pattern is not None:
            return Reshaped(NofM(*self.pattern, axis=layout.in_axis), layout.ordered)
        rows, size = layout.rows // layout.together, layout.rows * layout.columns
        shape: tuple[int, ...] = (rows, size // rows)
        if layout.blocks > 1:
            shape = (layout.blocks, rows // layout.blocks, size // rows)
        mask = None if self.mask is None else layout.matrix(self.mask).reshape(shape)
        inside = self._set(mask, shape, len(shape) - 2)
        return inside if shape == (layout.rows, layout.columns) else Reshaped(inside, shape)

    @property
    def _is_twofold(self) -> bool:
        return self.pattern is not None and self.bits != FLOAT_BITS

    def _set(self, mask: Mask | None, shape: tuple[int, ...], out_axis: int | None) -> ConstraintSet:
        if self.bits == FLOAT_BITS:
            return AtMostK(self.kept) if mask is None else Support(mask)
        axis = out_axis if self.per_channel else None
        scale_bits = max(1, min(_SCALE_BITS, self.digits - self.bits))
        is_dense = self.kept >= math.prod(shape)
        if mask is None and is_dense and self.bits == 1:  # one bit has no level for zero
            mask = np.ones(shape, np.bool_)
        if mask is not None:
            return SupportLevels(mask, self.bits, axis=axis, scale_bits=scale_bits)
        if not is_dense:
            return SparseLevels(self.kept, self.bits, axis=axis, scale_bits=scale_bits)
        return Levels(self.bits, axis=axis, scale_bits=scale_bits)


@dataclass(frozen=True, eq=False)
class LayerSolution:
    """Solution for one layer.

    Attributes:
        weights: (rows, d), in the set.
        bias_shift: increase of the bias that keeps the mean outputs, (rows,).
        figures: figures of the report.
    """

    weights: Array
    bias_shift: Array
    figures: Mapping[str, Any] = field(default_factory=dict)


def solve_layer(moments: Moments, request: LayerRequest, layout: Layout) -> LayerSolution:
    """Solve for all rows together, from the layer's inputs as a whole."""
    first, *later = request.stages()
    solved = _solve(moments, first, layout)
    for stage in later:
        solved = _solve(moments, stage.on_support(layout.tensor(solved.weights) != 0), layout)
    return solved


def _solve(moments: Moments, request: LayerRequest, layout: Layout) -> LayerSolution:
    support = request.support_on_matrix(layout)
    problem = moments.problem if support is None else ridged(moments, support)
    found = reconstruct(problem, request.on_matrix(layout))
    figures = {
        "error": float(found.error),
        "status": found.status.value,
        "rows": moments.rows,
        "ridge": problem.ridge,
    }
    return LayerSolution(found.weights, moments.bias_shift(found.weights), figures)


def solve_argmax_rows(
    rows: ArgmaxRows,
    others: Moments,
    start: Array,
    request: LayerRequest,
    layout: Layout,
    context: PassContext,
) -> LayerSolution:
    """Solve for each row again, from the inputs where its channel is maximal; keep the counts of ``start``.

    Args:
        rows: inputs and targets at the channels' maxima.
        others: the layer's moments as a whole.
        start: (rows, d), the solution for these.
        request: the set; its rows are independent.
        layout: layout of the layer.
        context: executor for rows, and the memory that simultaneous problems may take.
    """
    weights, shifts = start.copy(), np.zeros(len(start))
    error = energy = 0.0
    at_once = max(1, context.memory_bytes // (8 * others.problem.gram[0].nbytes))
    with context.progress.task("channels", len(start)) as task:
        for first in range(0, len(start), at_once):
            channels = range(first, min(first + at_once, len(start)))
            known = [rows.moments(channel, others) for channel in channels]
            before = start[channels.start : channels.stop, None]
            sets = [request.of_row(layout, row[0]).on_matrix(layout.of_row) for row in before]
            better = context.map(_better, zip(known, sets, before, strict=True))
            for channel, moments, row in zip(channels, known, better, strict=True):
                weights[channel], shifts[channel] = row[0], moments.bias_shift(row)[0]
                error += moments.problem.error(row) * moments.problem.energy[0]
                energy += moments.problem.energy[0]
                task.advance()
    return LayerSolution(weights, shifts, {"argmax_error": float(error / energy) if energy else 0.0})


def _better(work: tuple[Moments, ConstraintSet, Array]) -> Array:
    """Return one row reconstructed, or unchanged where that is no better, (1, d)."""
    moments, constraint, row = work
    answer = reconstruct(moments.problem, constraint).weights
    return min(answer, row, key=moments.problem.loss)
