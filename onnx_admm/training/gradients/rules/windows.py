"""The geometry of convolutions and pools: kernel, strides, dilations and pads, ``auto_pad`` resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.training.gradients.node import GradientNode


@dataclass(frozen=True, slots=True)
class Windows:
    """How a window moves over the spatial axes; one number for each axis.

    Attributes:
        kernel, strides, dilations: of the window.
        before, after: zeros added in front of and behind the data.
        data, places: extents of the data, and number of places of the window.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    data: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def axes(self) -> tuple[int, ...]:
        """The spatial axes."""
        return tuple(range(2, 2 + self.rank))

    @property
    def spans(self) -> tuple[int, ...]:
        """What a dilated kernel reaches over."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def unread(self) -> tuple[int, ...]:
        """Rows of the padded data behind the last place of the window."""
        zipped = zip(self.data, self.before, self.after, self.places, self.strides, self.spans, strict=True)
        return tuple(n + lo + hi - ((o - 1) * s + span) for n, lo, hi, o, s, span in zipped)

    @property
    def is_dense(self) -> bool:
        """Whether neither strides nor dilations leave anything out."""
        return all(value == 1 for value in (*self.strides, *self.dilations))

    @property
    def is_padded(self) -> bool:
        """Whether zeros are added."""
        return any(self.before) or any(self.after)

    @property
    def tiles(self) -> bool:
        """Whether windows lie side by side from the first element on, all within the data."""
        fits = all(o * k <= n for o, k, n in zip(self.places, self.kernel, self.data, strict=True))
        return (
            self.kernel == self.strides
            and not any(self.before)
            and all(value == 1 for value in self.dilations)
            and fits
        )


def windows_of(
    node: GradientNode, kernel: Sequence[int], data: Sequence[int], places: Sequence[int]
) -> Windows:
    """Return the windows of a convolution or pool.

    Args:
        node: has the attributes.
        kernel: extents of the kernel.
        data: spatial extents of the data.
        places: spatial extents of what comes out.
    """
    rank = len(kernel)
    ones = (1,) * rank
    strides, dilations = tuple(node.get("strides", ones)), tuple(node.get("dilations", ones))
    pads = tuple(node.get("pads", (0,) * (2 * rank)))
    mode = node.get("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = (0,) * (2 * rank)
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(kernel, strides, dilations, data, places, is_upper=mode == "SAME_UPPER")
    return Windows(tuple(kernel), strides, dilations, pads[:rank], pads[rank:], tuple(data), tuple(places))


def _same(
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    data: Sequence[int],
    places: Sequence[int],
    *,
    is_upper: bool,
) -> tuple[int, ...]:
    totals = [
        max((o - 1) * s + (k - 1) * d + 1 - n, 0)
        for k, s, d, n, o in zip(kernel, strides, dilations, data, places, strict=True)
    ]
    before = [total // 2 if is_upper else total - total // 2 for total in totals]
    return (*before, *(total - low for total, low in zip(totals, before, strict=True)))


def counted(windows: Windows) -> np.ndarray:
    """How many elements of the data each place of the window covers; shape: the places."""
    count = np.ones(windows.places)
    for axis in range(windows.rank):
        starts = np.arange(windows.places[axis])[:, None] * windows.strides[axis] - windows.before[axis]
        reads = starts + np.arange(windows.kernel[axis]) * windows.dilations[axis]
        inside = ((reads >= 0) & (reads < windows.data[axis])).sum(axis=1)
        count = count * inside.reshape([-1 if other == axis else 1 for other in range(windows.rank)])
    return count
