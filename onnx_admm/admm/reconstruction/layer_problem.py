"""Reconstruction problem of one layer: a quadratic in its weights, from second moments.

    minimise  sum_g || X_g W_g^T - T_g ||^2 / n  +  r || W - W_original ||^2

X are a layer's inputs (n samples of d numbers, a convolution's patches as rows), T its targets, both centred:
the bias corrects the means. With ``H = X^T X / n`` and ``C = T^T X / n`` this is, up to a constant,

    sum_g tr( W_g A_g W_g^T - 2 W_g B_g^T ),    A = H + r I,    B = C + r W_original
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnx_admm.admm.sets.supports import Array

Floats = npt.NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


_LEAST_RIDGE = 1e-8


def ridge_for(inputs: int, samples: int) -> float:
    """Return a ridge for second moments of few samples: ``max(0.01, inputs / (4 samples))``.

    Where samples are few, H fits them and not future inputs; the ridge then keeps weights near the original
    ones. The quarter was found on held-out samples of layers with 0.1 to 4 inputs per sample.
    """
    return max(0.01, inputs / (4 * max(samples, 1)))


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """Second moments of one layer's (centred) inputs X and targets T, and its weights.

    Rows are output channels; ``group`` equally long runs of consecutive rows have inputs of their own.

    Args:
        gram: float64 (group, d, d), ``X^T X / n``, no ridge added.
        cross: float64 (rows, d), ``T^T X / n``: T the original layer's outputs, X the inputs it will have.
        original: floating (rows, d), the weights to compress; the result has their dtype.
        energy: float64 (rows,), mean square of T.
        ridge: r in units of the Gram's mean diagonal, >= 0.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """

    gram: Floats
    cross: Floats
    original: Array
    energy: Floats
    ridge: float = 1e-2

    def __post_init__(self) -> None:
        groups, inputs = self.gram.shape[0], self.gram.shape[-1]
        rows = self.original.shape[0]
        if self.gram.shape != (groups, inputs, inputs) or groups == 0 or rows % groups:
            raise ValueError(f"Gram matrices of shape {self.gram.shape} for {rows} rows")
        if self.original.shape != (rows, inputs) or self.cross.shape != (rows, inputs):
            found = f"weights {self.original.shape} and cross moments {self.cross.shape}"
            raise ValueError(f"{found}, expected {(rows, inputs)}")
        if self.energy.shape != (rows,):
            raise ValueError(f"energies of shape {self.energy.shape}, expected {(rows,)}")
        if not (np.isfinite(self.ridge) and self.ridge >= 0):
            raise ValueError(f"ridge must be 0 or more, got {self.ridge}")
        if not all(np.isfinite(part).all() for part in (self.gram, self.cross, self.original, self.energy)):
            raise ValueError("second moments and weights must be finite")

    @property
    def groups(self) -> int:
        """Number of runs of rows that have a Gram matrix of their own."""
        return len(self.gram)

    @cached_property
    def diagonal(self) -> Floats:
        """Mean squares of the inputs, (group, d)."""
        return np.diagonal(self.gram, axis1=1, axis2=2)

    @cached_property
    def normal(self) -> Floats:
        """``A = H + r I``, (group, d, d), positive definite."""
        ridges: Floats = self._strength[:, None, None] * np.eye(self.gram.shape[-1])
        return self.gram + ridges

    @cached_property
    def linear(self) -> Floats:
        """``B = C + r W_original``, (rows, d); the ridge keeps dead inputs' weights at the original."""
        alive = self.per_row(self.diagonal > 0)
        return self.cross + self.per_row(self._strength[:, None]) * np.where(alive, self.original, 0.0)

    @cached_property
    def _strength(self) -> Floats:
        """Ridge r of each group; large enough that A has an inverse, 1 without any input."""
        mean = self.diagonal.mean(axis=1)
        return np.where(mean > 0, max(self.ridge, _LEAST_RIDGE) * mean, 1.0)

    def per_row(self, per_group: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Return a value of each group, repeated for each of its rows: (group, ...) -> (rows, ...)."""
        run = len(self.original) // self.groups
        repeated = np.broadcast_to(per_group[:, None], (self.groups, run, *per_group.shape[1:]))
        return repeated.reshape(-1, *per_group.shape[1:])

    def times(self, weights: npt.NDArray[Scalar], matrices: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Return each group's rows times its matrix: (rows, m) with (group, m, n) -> (rows, n)."""
        rows, inner = weights.shape
        products: npt.NDArray[Scalar] = np.matmul(weights.reshape(self.groups, -1, inner), matrices)
        return products.reshape(rows, matrices.shape[-1])

    def optimum(self) -> Floats:
        """Return the unconstrained minimiser ``B A^-1``, (rows, d)."""
        rows, inputs = self.original.shape
        blocks = self.linear.reshape(self.groups, -1, inputs)
        solved = [
            scipy.linalg.solve(normal, block.T, assume_a="pos").T
            for normal, block in zip(self.normal, blocks, strict=True)
        ]
        return np.stack(solved).reshape(rows, inputs)

    def row_losses(self, weights: Array) -> Floats:
        """Return ``w A w^T - 2 w b^T`` for each row, (rows,): the loss up to a constant."""
        exact = weights.astype(np.float64)
        losses: Floats = np.einsum("ij,ij->i", exact, self.times(exact, self.normal) - 2 * self.linear)
        return losses

    def loss(self, weights: Array) -> float:
        """Return the sum of the rows' losses."""
        return float(self.row_losses(weights).sum())

    def error(self, weights: Array) -> float:
        """Return ``||X W^T - T||^2 / ||T||^2`` over all rows, without the ridge; never negative.

        Where T is zero the error is 0 if the weights reproduce it, else infinite.
        """
        exact = weights.astype(np.float64)
        squares = float(np.vdot(exact, self.times(exact, self.gram) - 2 * self.cross)) + self.energy.sum()
        total = float(self.energy.sum())
        squares = max(squares, 0.0)
        return squares / total if total > 0 else (0.0 if squares == 0 else float("inf"))
