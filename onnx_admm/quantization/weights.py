"""Weights and biases of integer kernels: on the grid that they already lie on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.grids import Grid
from onnx_admm.model.integers.plan import IntegerWeight

_LARGEST_CODE = 127
_MOST_BIAS = 2**31 - 1
_RAISED_TO = 2**30
"""Steps of a bias whose scale was raised, at most: the other half of int32 is for the products."""

_LEAST_SCALE = np.finfo(np.float32).tiny
"""Smallest normal float32: smaller scales are rounded to few digits, or to 0."""

Floats = npt.NDArray[np.float32]


def integer_weight(
    name: str, values: Floats, axis: int, largest: int = _LARGEST_CODE
) -> tuple[IntegerWeight, bool]:
    """Return the weight as int8 codes, and whether its own values were kept.

    A weight that lies on a grid of one scale, or of one scale per output channel, keeps its values exactly.
    Any other is rounded: a scale per output channel, the largest magnitude at the largest code.

    Args:
        name: name of the weight.
        values: fp32, finite.
        axis: axis of the output channels.
        largest: largest magnitude of a code; a grid with larger ones is not kept.
    """
    weight = Weight(name, values)
    for grid in (weight.grid, weight.channel_grid):
        kept = None if grid is None else _on_axis(grid, values.shape, axis)
        if kept is not None and (largest >= _LARGEST_CODE or _reach(kept.codes) <= largest):
            return kept, True
    return _rounded(values, axis, largest=largest), False


def _reach(codes: npt.NDArray[np.int8]) -> int:
    return int(np.abs(codes.astype(np.int16)).max(initial=0))


def integer_bias(bias: npt.NDArray[np.floating], scales: Floats) -> npt.NDArray[np.int32] | None:
    """Return the bias in steps of the products; None where int32 does not hold it.

    Args:
        bias: (channels,).
        scales: scale of the input times those of the weight, () or (channels,).
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = np.rint(bias.astype(np.float64) / scales.astype(np.float64))
    if not np.all(np.isfinite(steps)) or np.abs(steps).max(initial=0.0) > _MOST_BIAS:
        return None
    return np.broadcast_to(steps, bias.shape).astype(np.int32)


def with_bias(
    weight: IntegerWeight, values: Floats, bias: npt.NDArray[np.floating], scale: float
) -> tuple[IntegerWeight, npt.NDArray[np.int32]] | None:
    """Return the weight and the bias in steps of the products; None where int32 does not hold it.

    Where the weight of a channel is nearly zero, its steps are too small for the bias. The scale of such a
    channel is raised, up to which its codes may be 0: beside the bias its products are less than a rounding
    error. Other channels keep their scales; so does a weight with one scale for all.

    Args:
        weight: integer form of ``values``.
        values: dense weight.
        bias: (channels,), finite.
        scale: scale of the input.
    """
    steps = integer_bias(bias, _scales_of_products(weight, scale))
    if weight.scales.ndim and (steps is None or not weight.is_exact):
        least = np.maximum(np.abs(bias.astype(np.float64)) / _RAISED_TO, float(_LEAST_SCALE)) / scale
        if np.any(least > weight.scales):
            weight = _raised(weight, values, least)
            steps = integer_bias(bias, _scales_of_products(weight, scale))
    return None if steps is None else (weight, steps)


def _scales_of_products(weight: IntegerWeight, scale: float) -> Floats:
    return np.asarray(np.float32(scale) * weight.scales, np.float32)


def _on_axis(grid: Grid, shape: tuple[int, ...], axis: int) -> IntegerWeight | None:
    """Return the grid with its scales along the output channels; None where they lie along another axis.

    None as well where a scale is below the smallest normal float32.
    """
    if grid.scale.min(initial=np.inf) < _LEAST_SCALE:
        return None
    codes = grid.codes.astype(np.int8, copy=False).reshape(shape)
    if grid.scale.size == 1:
        return IntegerWeight(codes, grid.scale.reshape(()).astype(np.float32), axis, is_exact=True)
    if not grid.scale.size == grid.scale.shape[axis] == shape[axis]:  # one channel has one scale
        return None
    return IntegerWeight(codes, grid.scale.reshape(-1).astype(np.float32), axis, is_exact=True)


def _raised(weight: IntegerWeight, values: Floats, least: npt.NDArray[np.float64]) -> IntegerWeight:
    """Return the weight with scales of at least ``least``, (channels,); where they rise, with new codes."""
    scales = np.maximum(weight.scales, least).astype(np.float32)
    place = [1] * values.ndim
    place[weight.axis] = -1
    changed = (scales > weight.scales).reshape(place)
    codes = np.clip(np.rint(values / scales.reshape(place)), -_LARGEST_CODE, _LARGEST_CODE).astype(np.int8)
    return IntegerWeight(np.where(changed, codes, weight.codes), scales, weight.axis)


def _rounded(values: Floats, axis: int, *, largest: int = _LARGEST_CODE) -> IntegerWeight:
    """Return the weight with one scale per output channel."""
    others = tuple(place for place in range(values.ndim) if place != axis)
    most = np.abs(values).max(axis=others, keepdims=True, initial=0.0)
    scales = np.where(most > 0, np.maximum(most / largest, _LEAST_SCALE), 1.0)
    scales = scales.astype(np.float32)
    codes = np.clip(np.rint(values / scales), -largest, largest).astype(np.int8)
    return IntegerWeight(codes, scales.reshape(-1), axis)
