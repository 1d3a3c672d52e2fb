"""The inverse Hessian that SparseGPT and GPTQ walk along."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

Floats = npt.NDArray[np.float64]

DAMPING = 0.01
"""Share of the mean diagonal added to it, the papers' own."""


def damped(gram: Floats) -> Floats:
    """``H + 0.01 mean diag(H) I``, with 1 on the diagonal of dead inputs."""
    diagonal = np.diagonal(gram)
    dead = np.where(diagonal == 0, 1.0, 0.0)
    return gram + np.diag(dead) + DAMPING * (diagonal + dead).mean() * np.eye(len(gram))


def inverse_factor(gram: Floats) -> Floats:
    """Upper U with ``U^T U = (damped H)^-1``: row i serves column i once the columns before it are fixed."""
    inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(damped(gram), lower=True), np.eye(len(gram)))
    return np.linalg.cholesky(inverse).T
