"""Best weights on a given support: exact, or by conjugate gradients where supports are large."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from onnx_admm.admm.reconstruction.layer_problem import Floats, LayerProblem
from onnx_admm.admm.sets.supports import Mask

_TOLERANCE = 1e-7
_EXACT = 15
"""Supports are solved exactly where the cube of their size is at most this many times d^2."""


def fit_support(problem: LayerProblem, mask: Mask, start: Floats, *, steps: int) -> Floats:
    """Return the weights that minimise the problem's loss among those that are zero off the mask.

    Row by row this is ``A_SS w_S = b_S``. Small supports are solved exactly, larger ones by
    ``conjugate_fit``, whichever takes less time.

    Args:
        problem: the layer.
        mask: bool (rows, d), where weights may be nonzero.
        start: (rows, d), a guess; only what lies on the mask counts.
        steps: most conjugate-gradient steps.
    """
    kept = mask.sum(axis=1)
    if np.mean(kept.astype(np.float64) ** 3) <= _EXACT * mask.shape[1] ** 2:
        return exact_fit(problem, mask)
    return conjugate_fit(problem, mask, start, steps=steps)


def exact_fit(problem: LayerProblem, mask: Mask) -> Floats:
    """Return the minimiser on the mask by one Cholesky factorisation for each row."""
    fitted = np.zeros(mask.shape)
    run = len(mask) // problem.groups
    for row, kept in enumerate(map(np.flatnonzero, mask)):
        if len(kept):
            part = problem.normal[row // run][np.ix_(kept, kept)]
            fitted[row, kept] = scipy.linalg.solve(part, problem.linear[row, kept], assume_a="pos")
    return fitted


def conjugate_fit(problem: LayerProblem, mask: Mask, start: Floats, *, steps: int) -> Floats:
    """Return the minimiser on the mask by conjugate gradients, preconditioned by A's diagonal.

    All rows are solved at once. A row is done once its gradient has fallen by seven digits against ``b``.
    Source: ALPS (arXiv 2406.07831), algorithm 2.
    """
    # The preconditioner is zero off the mask, so every direction stays on it.
    inverse = mask / problem.per_row(np.diagonal(problem.normal, axis1=1, axis2=2))
    weights = np.where(mask, start, 0.0)
    residual = problem.linear - problem.times(weights, problem.normal)
    goal = _TOLERANCE**2 * _dots(problem.linear, problem.linear * inverse)
    direction = residual * inverse
    left = _dots(residual, direction)
    for _ in range(steps):
        if not (left > goal).any():
            break
        image = problem.times(direction, problem.normal)
        length = _ratio(left, _dots(direction, image))
        weights += length * direction
        residual -= length * image
        improved = residual * inverse
        before, left = left, _dots(residual, improved)
        direction = improved + _ratio(left, before) * direction
    return weights


def _dots(one: Floats, other: Floats) -> Floats:
    products: Floats = np.einsum("ij,ij->i", one, other)[:, None]
    return products


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return the quotient of each row; 0 where the divisor is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
