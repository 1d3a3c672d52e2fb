"""Layer-wise reconstruction: weights of a constraint set that reproduce a layer's outputs, without labels.

ADMM on a quadratic: the W-step has a closed form (``closed_form``), the loop and the sets are those of
fine-tuning. The result of the loop is then refined exactly:

- a set on the support: the loop finds the support while rho is driven by how much it still changes; entries
  are exchanged while that lowers the loss (``exchange``); the weights become the optimum on the support
  (``support_fit``);
- levels: successive rounding chooses the scales (``successive``); the loop then works on the fixed grid; both
  solutions are improved by coordinate descent with refitted scales (``descent``); each row keeps the better;
- both: the support first, then levels on it;
- any other set: the loop alone, the best iterate kept.

Where a row has one input (a table that is looked up) the loss is a sum of squares, and the projection in its
metric is the solution: no loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnx_admm.admm.loop.schedule import RhoSchedule, SupportDriven
from onnx_admm.admm.loop.solver import Record, Solution, Status, Stopping, solve
from onnx_admm.admm.reconstruction.closed_form import BLOCK, ClosedForm
from onnx_admm.admm.reconstruction.descent import descend
from onnx_admm.admm.reconstruction.exchange import exchange_entries
from onnx_admm.admm.reconstruction.grids import EntryGrid, better_rows, grids_of, rounded
from onnx_admm.admm.reconstruction.layer_problem import Floats, LayerProblem
from onnx_admm.admm.reconstruction.successive import round_successively
from onnx_admm.admm.reconstruction.support_fit import fit_support
from onnx_admm.admm.sets.blocks import Separable
from onnx_admm.admm.sets.reshaped import Reshaped
from onnx_admm.admm.sets.set_decomposition import SetDecomposition, decompose, exchange_groups_of
from onnx_admm.admm.sets.supports import Array, ConstraintSet, Mask

__all__ = ["LayerProblem", "Reconstructed", "ReconstructionSettings", "reconstruct"]

_FIRST_SWEEPS = 3
"""Passes of coordinate descent before two solutions are compared."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """Effort of the solver; the benchmarks use the defaults.

    Attributes:
        iterations: iterations of the loop at most.
        rho: penalty of the first iterations, for a Gram matrix of unit diagonal.
        every: iterations between two updates of rho; 1 is quick, 3 is better.
        fit_steps: conjugate-gradient steps on a fixed support, at most.
        trade_rounds: rounds in which entries of supports move between rows; None: supports are not searched.
        sweeps: passes of coordinate descent over codes, at most.
    """

    iterations: int = 120
    rho: float = 0.03
    every: int = 3
    fit_steps: int = 15
    trade_rounds: int | None = 8
    sweeps: int = 20


@dataclass(frozen=True, eq=False)
class Reconstructed:
    """Result of ``reconstruct``.

    Attributes:
        weights: (rows, d), in the set exactly, of the original weights' dtype.
        error: ``LayerProblem.error`` of the weights.
        status: how the loop ended.
        history: one record for each iteration of the loop, in the preconditioned coordinates.
    """

    weights: Array
    error: float
    status: Status
    history: tuple[Record, ...]


def reconstruct(
    problem: LayerProblem, constraint: ConstraintSet, settings: ReconstructionSettings | None = None
) -> Reconstructed:
    """Return weights of ``constraint`` of low loss: a local minimum, bit-identical in every run.

    Args:
        problem: the layer.
        constraint: a set of matrices (rows, d).
        settings: effort of the search.
    """
    settings = settings or ReconstructionSettings()
    decomposition = decompose(constraint)
    if decomposition is None:
        found = _with_any_set(problem, constraint, settings)
        nearest = constraint.project(found.z[BLOCK].astype(problem.original.dtype))
        return _finished(problem, nearest, found)
    step = ClosedForm.preconditioned(problem)
    weights, mask = step.optimum() / step.roots, None
    if problem.gram.shape[-1] == 1:
        return _uncoupled(step, weights, decomposition, settings)
    if decomposition.support is not None:
        found = _with_support(step, _in_shape(decomposition.support, decomposition.shape), settings)
        mask = _searched(problem, decomposition, found.z[BLOCK] != 0, settings)
        weights = fit_support(problem, mask, found.z[BLOCK] / step.roots, steps=settings.fit_steps)
    if decomposition.levels is not None:
        grids = grids_of(decomposition.levels, weights, decomposition.shape, mask)
        weights, found = _with_levels(step, grids, weights, decomposition.levels.scale_bits, settings)
    return _finished(problem, weights, found)


def _finished(problem: LayerProblem, weights: Array, found: Solution) -> Reconstructed:
    weights = weights.astype(problem.original.dtype)
    return Reconstructed(weights, problem.error(weights), found.status, found.history)


def _in_shape(constraint: ConstraintSet, shape: tuple[int, ...] | None) -> ConstraintSet:
    return constraint if shape is None else Reshaped(constraint, shape)


def _uncoupled(
    step: ClosedForm, optimum: Floats, decomposition: SetDecomposition, settings: ReconstructionSettings
) -> Reconstructed:
    """Return the point nearest to the optimum where the Gram matrix is diagonal; scales by Lloyd."""
    problem, weights, mask = step.problem, optimum, None
    if decomposition.support is not None:
        mask = _in_shape(decomposition.support, decomposition.shape).project(optimum * step.roots) != 0
        weights = np.where(mask, optimum, 0.0)
    if decomposition.levels is not None:
        grid = grids_of(decomposition.levels, weights, decomposition.shape, mask)[0]
        codes = grid.codes(weights)
        grid, codes = descend(problem, grid, codes, sweeps=settings.sweeps, fit_scales=True)
        grid = rounded(grid, decomposition.levels.scale_bits, problem.original.dtype)
        weights = grid.codes(weights) * grid.units
    weights = weights.astype(problem.original.dtype)
    return Reconstructed(weights, problem.error(weights), Status.CONVERGED, ())


def _with_any_set(
    problem: LayerProblem, constraint: ConstraintSet, settings: ReconstructionSettings
) -> Solution:
    """Run the loop in the plain coordinates, the only ones where the projection is exact."""
    step = ClosedForm.plain(problem)
    scale = float(np.diagonal(problem.normal, axis1=1, axis2=2).mean())
    return solve(
        step,
        Separable({BLOCK: constraint}),
        step.start(),
        rho=_rising(settings, scale),
        stopping=Stopping(max_iterations=settings.iterations),
        monitor=lambda blocks: -problem.loss(blocks[BLOCK].astype(problem.original.dtype)),
    )


def _with_support(step: ClosedForm, support: ConstraintSet, settings: ReconstructionSettings) -> Solution:
    """Run the loop until the support is stable: rescaling keeps a support, so any metric serves."""
    start = step.start()
    kept = int(np.count_nonzero(support.project(start[BLOCK])))
    return solve(
        step,
        Separable({BLOCK: support}),
        start,
        rho=SupportDriven(kept=max(kept, 1), start=settings.rho, every=settings.every),
        stopping=Stopping(max_iterations=settings.iterations, eps_abs=0.0, eps_rel=0.0, stable_iterations=3),
    )


def _with_levels(
    step: ClosedForm,
    grids: list[EntryGrid],
    target: Floats,
    scale_bits: int,
    settings: ReconstructionSettings,
) -> tuple[Floats, Solution]:
    """Return scales and codes, row by row the better of successive rounding and the loop."""
    problem, sweeps = step.problem, settings.sweeps
    grid, codes = round_successively(problem, grids, target)
    found = solve(
        step,
        Separable({BLOCK: replace(grid, metric=step.roots)}),
        {BLOCK: (target * step.roots).astype(np.float32)},
        rho=_rising(settings),
        stopping=Stopping(max_iterations=settings.iterations),
    )
    rounds = [codes, grid.codes(found.z[BLOCK] / step.roots)]
    answers = [descend(problem, grid, each, sweeps=_FIRST_SWEEPS, fit_scales=True) for each in rounds]
    grid, codes = descend(problem, *better_rows(problem, *answers), sweeps=sweeps, fit_scales=True)
    grid = rounded(grid, scale_bits, problem.original.dtype)
    grid, codes = descend(problem, grid, codes, sweeps=sweeps, fit_scales=False)
    return codes * grid.units, found


def _rising(settings: ReconstructionSettings, unit: float = 1.0) -> RhoSchedule:
    """Return a slowly rising schedule, five per cent an iteration: levels have no support to drive it."""
    start = settings.rho * unit
    return RhoSchedule(start=start, end=start * 1.05**settings.iterations, iterations=settings.iterations + 1)


def _searched(
    problem: LayerProblem, decomposition: SetDecomposition, mask: Mask, settings: ReconstructionSettings
) -> Mask:
    """Return the support after exchanges, where the set allows any."""
    shape = mask.shape if decomposition.shape is None else decomposition.shape
    exchange_groups = exchange_groups_of(decomposition.support, shape)
    if exchange_groups is None or settings.trade_rounds is None:
        return mask
    return exchange_entries(problem, mask, exchange_groups.reshape(mask.shape), rounds=settings.trade_rounds)
