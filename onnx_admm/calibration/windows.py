"""Sliding windows: the inputs of each output position of a convolution, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np

from onnx_admm.calibration.row_sampling import Positions
from onnx_admm.contracts import Array
from onnx_admm.model import NodeRef


@dataclass(frozen=True, slots=True)
class Windows:
    """Geometry of a convolution, any number of spatial axes (ONNX Conv-11).

    Attributes:
        kernel, strides, dilations: one number for each spatial axis.
        pads: zeros before and after each spatial axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    def extents(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the output extents for an input of the given spatial extents."""
        return tuple(
            (size + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, kernel, stride, dilation in zip(
                spatial, self.pads, self.kernel, self.strides, self.dilations, strict=True
            )
        )

    def rows(self, x: Array, positions: Positions) -> Array:
        """Return the inputs of the kernel at ``positions``.

        Args:
            x: (n, c, *spatial).
            positions: indices into the flattened output extents.

        Returns:
            (n * p, c, prod(kernel)).
        """
        padded = np.pad(x, ((0, 0), (0, 0), *self.pads))
        places = np.unravel_index(positions, self.extents(x.shape[2:]))
        starts = [place * stride for place, stride in zip(places, self.strides, strict=True)]
        columns = []  # prod(kernel) arrays (n, c, p)
        for offset in product(*map(range, self.kernel)):
            reach = zip(starts, offset, self.dilations, strict=True)
            seen: Any = tuple(start + step * dilation for start, step, dilation in reach)
            columns.append(padded[(slice(None), slice(None), *seen)])
        stacked = np.stack(columns, axis=-1)  # (n, c, p, prod(kernel))
        return np.moveaxis(stacked, 2, 1).reshape(-1, x.shape[1], len(columns))


def convolution_windows(node: NodeRef, kernel: tuple[int, ...], spatial: Sequence[int]) -> Windows:
    """Return windows of a Conv node, ``auto_pad`` resolved for inputs of the given spatial extents."""
    rank = len(kernel)
    strides = tuple(node.attribute("strides", (1,) * rank))
    dilations = tuple(node.attribute("dilations", (1,) * rank))
    auto = node.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((ceil(size / stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
            for size, stride, dilation, k in zip(spatial, strides, dilations, kernel, strict=True)
        ]
        lower = auto == "SAME_LOWER"
        pads = tuple((t - t // 2, t // 2) if lower else (t // 2, t - t // 2) for t in totals)
    else:
        given = (0,) * (2 * rank) if auto == "VALID" else tuple(node.attribute("pads", (0,) * (2 * rank)))
        pads = tuple(zip(given[:rank], given[rank:], strict=True))
    return Windows(kernel, strides, dilations, pads)


@dataclass(frozen=True, slots=True)
class TransposedWindows:
    """Geometry of a transposed convolution as windows over its input spread apart by the strides.

    ``y = conv_transpose(x, w)`` is the plain convolution of x, with ``stride - 1`` zeros between neighbours,
    with the flipped kernel (ONNX ConvTranspose-11).
    """

    spread: tuple[int, ...]
    windows: Windows

    def extents(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the output extents for an input of the given spatial extents."""
        return self.windows.extents(self._spread_extents(spatial))

    def rows(self, x: Array, positions: Positions) -> Array:
        """Return the inputs of the kernel at ``positions``; see `Windows.rows`."""
        apart = np.zeros((*x.shape[:2], *self._spread_extents(x.shape[2:])), x.dtype)
        apart[(slice(None), slice(None), *(slice(None, None, step) for step in self.spread))] = x
        return self.windows.rows(apart, positions)

    def _spread_extents(self, spatial: Sequence[int]) -> tuple[int, ...]:
        return tuple((size - 1) * step + 1 for size, step in zip(spatial, self.spread, strict=True))


def transposed_windows(node: NodeRef, kernel: tuple[int, ...], spatial: Sequence[int]) -> TransposedWindows:
    """Return windows of a ConvTranspose node for inputs of the given spatial extents."""
    rank = len(kernel)
    strides = tuple(node.attribute("strides", (1,) * rank))
    dilations = tuple(node.attribute("dilations", (1,) * rank))
    extra = tuple(node.attribute("output_padding", (0,) * rank))
    given = tuple(node.attribute("pads", (0,) * (2 * rank)))
    crops = list(zip(given[:rank], given[rank:], strict=True))
    reach = [dilation * (k - 1) for dilation, k in zip(dilations, kernel, strict=True)]
    stated = node.attribute("output_shape")
    auto = node.attribute("auto_pad", "NOTSET")
    if stated is not None or auto.startswith("SAME"):
        targets = stated if stated is not None else [s * n for s, n in zip(strides, spatial, strict=True)]
        for axis, target in enumerate(targets):
            total = strides[axis] * (spatial[axis] - 1) + extra[axis] + reach[axis] + 1 - target
            small, large = total // 2, total - total // 2
            crops[axis] = (small, large) if auto == "SAME_UPPER" else (large, small)
    pads = tuple(
        (r - before, r - after + e) for r, (before, after), e in zip(reach, crops, extra, strict=True)
    )
    return TransposedWindows(strides, Windows(kernel, (1,) * rank, dilations, pads))
