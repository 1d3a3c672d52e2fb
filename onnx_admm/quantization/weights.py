"""Weights and biases of integer kernels: on the grid that they already lie on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_admm.encoding.coders.codebook import Grid, Weight
from onnx_admm.model.integers.plan import IntegerWeight

_LARGEST_CODE = 127
_MOST_BIAS = 2**31 - 1

Floats = npt.NDArray[np.float32]


def integer_weight(name: str, values: Floats, axis: int) -> tuple[IntegerWeight, bool]:
    """Return the weight as int8 codes, and whether its own values were kept.

    A weight that lies on a grid of one scale, or of one scale per output channel, keeps its values exactly.
    Any other is rounded: a scale per output channel, the largest magnitude at code 127.

    Args:
        name: name of the weight.
        values: fp32, finite.
        axis: axis of the output channels.
    """
    weight = Weight(name, values)
    for grid in (weight.grid, weight.channel_grid):
        if grid is not None and (kept := _on_axis(grid, values.shape, axis)) is not None:
            return kept, True
    return _rounded(values, axis), False


def integer_bias(bias: npt.NDArray[np.floating], scales: Floats) -> npt.NDArray[np.int32] | None:
    """Return the bias in steps of the products; None where int32 does not hold it.

    Args:
        bias: (channels,).
        scales: scale of the input times those of the weight, () or (channels,).
    """
    steps = np.rint(bias.astype(np.float64) / scales.astype(np.float64))
    if not np.all(np.isfinite(steps)) or np.abs(steps).max(initial=0.0) > _MOST_BIAS:
        return None
    return np.broadcast_to(steps, bias.shape).astype(np.int32)


def _on_axis(grid: Grid, shape: tuple[int, ...], axis: int) -> IntegerWeight | None:
    """Return the grid with its scales along the output channels; None where they lie along another axis."""
    codes = grid.codes.astype(np.int8, copy=False).reshape(shape)
    if grid.scale.size == 1:
        return IntegerWeight(codes, grid.scale.reshape(()).astype(np.float32), axis)
    if grid.scale.shape[axis] != shape[axis]:
        return None
    return IntegerWeight(codes, grid.scale.reshape(-1).astype(np.float32), axis)


def _rounded(values: Floats, axis: int) -> IntegerWeight:
    others = tuple(place for place in range(values.ndim) if place != axis)
    largest = np.abs(values).max(axis=others, keepdims=True, initial=0.0)
    scales = np.where(largest > 0, largest / _LARGEST_CODE, 1.0).astype(np.float32)
    codes = np.clip(np.rint(values / scales), -_LARGEST_CODE, _LARGEST_CODE).astype(np.int8)
    return IntegerWeight(codes, scales.reshape(-1), axis)
