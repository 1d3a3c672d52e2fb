"""Scores that prune without repairing: magnitude and Wanda."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Density = float | tuple[int, int]
"""Share of weights that stay, or (n, m): n of every m along a row."""


def keep_largest(scores: Floats, share: float) -> Mask:
    """True at the ``round(share * size)`` largest scores of each last-axis lane; ties to the earlier one."""
    kept = round(share * scores.shape[-1])
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :kept]
    mask = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask


def keep_n_of_m(scores: Floats, n: int, m: int) -> Mask:
    """True at the n largest scores in every m consecutive columns; a shorter last group keeps n too."""
    padded = np.pad(scores, ((0, 0), (0, -scores.shape[1] % m)), constant_values=-1.0)
    groups = padded.reshape(len(scores), -1, m)
    return keep_largest(groups, n / m).reshape(padded.shape)[:, : scores.shape[1]]


def magnitude(weights: Floats, density: Density) -> Floats:
    """The largest weights of the whole layer, or of each group of m."""
    scores = np.abs(weights)
    if isinstance(density, tuple):
        return np.where(keep_n_of_m(scores, *density), weights, 0.0)
    return np.where(keep_largest(scores.reshape(-1), density).reshape(scores.shape), weights, 0.0)


def wanda(weights: Floats, gram: Floats, density: Density) -> Floats:
    """The largest ``|w_ij| ||x_j||`` of each row (Sun et al., ICLR 2024, arXiv 2306.11695, section 3)."""
    scores = np.abs(weights) * np.sqrt(np.diagonal(gram))
    mask = keep_n_of_m(scores, *density) if isinstance(density, tuple) else keep_largest(scores, density)
    return np.where(mask, weights, 0.0)
