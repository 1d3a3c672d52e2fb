"""The W-step of a layer's reconstruction problem in closed form, preconditioned.

In the coordinates ``V = W D``, D the root of A's diagonal, the quadratic has unit diagonal and the penalty
``rho/2 ||V - target||^2`` weighs each weight by how much its input matters. There

    V  <-  (B D^-1 + rho target) (D^-1 A D^-1 + rho I)^-1

and with one eigendecomposition ``D^-1 A D^-1 = Q diag(l) Q^T`` for each Gram matrix, a step with any rho is
two matrix products. The loop runs in float32: it decides where weights stand, and what they are is then
found in float64. Source: ALPS (arXiv 2406.07831), sections 3.1 and 3.2, there without the diagonal penalty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnx_admm.admm.reconstruction.layer_problem import Floats, LayerProblem
from onnx_admm.admm.sets.supports import Blocks

Singles = npt.NDArray[np.float32]

BLOCK = "weights"
"""Name of the one block that the loop works on."""


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """Exact minimiser of ``f(V) + rho/2 ||V - target||^2``: f half the problem's loss, ``V = W D``.

    Args:
        problem: the layer.
        diagonal: D for each group, (group, d), positive.
    """

    problem: LayerProblem
    diagonal: Floats

    @classmethod
    def preconditioned(cls, problem: LayerProblem) -> ClosedForm:
        """Return the W-step with D the root of A's diagonal."""
        return cls(problem, np.sqrt(np.diagonal(problem.normal, axis1=1, axis2=2)))

    @classmethod
    def plain(cls, problem: LayerProblem) -> ClosedForm:
        """Return the W-step with D = I, for sets whose projection is exact in the plain metric alone."""
        return cls(problem, np.ones((problem.groups, problem.normal.shape[-1])))

    @cached_property
    def roots(self) -> Floats:
        """D for each row, (rows, d)."""
        return self.problem.per_row(self.diagonal)

    @cached_property
    def _linear(self) -> Floats:
        return self.problem.linear / self.roots

    @cached_property
    def _spectrum(self) -> tuple[Floats, Floats]:
        """Eigenvalues (group, d) and eigenvectors (group, d, d) of ``D^-1 A D^-1``."""
        scaled = self.problem.normal / (self.diagonal[:, :, None] * self.diagonal[:, None, :])
        values, vectors = np.linalg.eigh(scaled)
        return values, vectors

    @cached_property
    def _rotated(self) -> tuple[Singles, Singles]:
        """``B D^-1 Q`` and Q in the loop's own precision."""
        vectors = self._spectrum[1]
        return self.problem.times(self._linear, vectors).astype(np.float32), vectors.astype(np.float32)

    def minimise(self, targets: Blocks, rho: Mapping[str, float], iteration: int) -> Blocks:
        """Return ``(B D^-1 + rho target) (D^-1 A D^-1 + rho I)^-1``; exact whatever the iteration."""
        linear, vectors = self._rotated
        strength = rho[BLOCK]
        rotated = linear + np.float32(strength) * self.problem.times(targets[BLOCK], vectors)
        rotated /= self.problem.per_row((self._spectrum[0] + strength).astype(np.float32))
        return {BLOCK: self.problem.times(rotated, vectors.transpose(0, 2, 1))}

    def optimum(self) -> Floats:
        """Return the unconstrained minimiser ``B D^-1 (D^-1 A D^-1)^-1``, float64, in these coordinates."""
        values, vectors = self._spectrum
        rotated = self.problem.times(self._linear, vectors) / self.problem.per_row(values)
        return self.problem.times(rotated, vectors.transpose(0, 2, 1))

    def start(self) -> Blocks:
        """Return the unconstrained optimum as the loop's first block."""
        return {BLOCK: self.optimum().astype(np.float32)}
