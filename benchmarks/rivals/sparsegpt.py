"""SparseGPT: columns from left to right, pruned in blocks, each error spread over the columns to come.

Frantar and Alistarh, ICML 2023 (arXiv 2301.00774), algorithm 1: masks chosen for 128 columns at a time over
the whole layer by ``w^2 / [H^-1]_jj^2`` (Cholesky form), or n of every m for each row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rivals.inverse import inverse_factor
from rivals.pruning import Density, keep_largest, keep_n_of_m

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BLOCK = 128


def sparsegpt(weights: Floats, gram: Floats, density: Density) -> Floats:
    """Pruned weights, (rows, d).

    Args:
        weights: (rows, d).
        gram: ``X^T X / n``, (d, d).
        density: share of weights that stay, or (n, m) with m a divisor of 128.
    """
    left = np.where(np.diagonal(gram) == 0, 0.0, weights)
    factor = inverse_factor(gram)
    out = np.zeros_like(left)
    for start in range(0, left.shape[1], BLOCK):
        stop = min(start + BLOCK, left.shape[1])
        block, local = left[:, start:stop].copy(), factor[start:stop, start:stop]
        errors, kept = np.zeros_like(block), np.zeros(block.shape, np.bool_)
        if not isinstance(density, tuple):
            scores = _scores(block, local)
            kept = keep_largest(scores.reshape(-1), density).reshape(block.shape)
        for j in range(stop - start):
            if isinstance(density, tuple) and j % density[1] == 0:
                ahead = slice(j, min(j + density[1], stop - start))
                kept[:, ahead] = keep_n_of_m(_scores(block[:, ahead], local[ahead, ahead]), *density)
            column = np.where(kept[:, j], block[:, j], 0.0)
            errors[:, j] = (block[:, j] - column) / local[j, j]
            block[:, j:] -= errors[:, j, None] * local[j, j:]
            out[:, start + j] = column
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return out


def _scores(block: Floats, local: Floats) -> Floats:
    scores: Floats = np.square(block / np.diagonal(local))
    return scores
