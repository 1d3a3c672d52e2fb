"""Shapes of random samples: what the model fixes, and sizes to try where it leaves them open."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from onnx_admm.contracts import PortSpec

Ports = tuple[PortSpec, ...]
Extent = int | str | None
Shape = tuple[int, ...]

_IMAGE_SIDES = (224, 256, 640, 320, 416, 720, 128, 64)
_LENGTHS = (64, 16, 224, 256, 512, 640, 1000, 1)
MOST_ELEMENTS = 1 << 22
"""Of a made-up sample of one input, where the model leaves the size open."""

_SMALLEST_IMAGE = 8
_STATE_RANK = 3


def extents(port: PortSpec) -> tuple[Extent, ...]:
    """The port's shape, with None for sizes that the file gives as negative numbers."""
    return tuple(None if isinstance(size, int) and size < 0 else size for size in port.shape or ())


def image_axes(port: PortSpec) -> tuple[tuple[int, int], int] | None:
    """Height and width, and the channels, of what looks like images; axes counted from the last."""
    shape = extents(port)
    for axes, channels in (((-2, -1), -3), ((-3, -2), -1)):
        if len(shape) == 4 and shape[channels] in (1, 3):
            sides = [shape[axis] for axis in axes]
            if all(not isinstance(side, int) or side >= _SMALLEST_IMAGE for side in sides):
                return axes, channels
    return None


def candidate_shapes(ports: Ports, outputs: Ports, sizes: Mapping[str, int]) -> Iterator[tuple[Shape, ...]]:
    """Sample shapes of all inputs, a set for each choice of the open sizes, the likeliest first.

    Inputs whose first axes agree are stacked along them; otherwise a sample is a whole feed of batch 1,
    where a dynamic second axis of a state ``[layers, batch, hidden]`` is a batch too. Open axes of images
    take the sizes of image models, those that an output fixes before all; others take lengths of sequences.
    An axis named as a sum (``past + 1``) is one. Sizes go down where a sample would be too large.

    Args:
        ports: the inputs.
        outputs: the outputs.
        sizes: of open axes, by symbol.
    """
    shapes = [_sample_shape(port, ports) for port in ports]
    fixed = [size for port in outputs if image_axes(port) for size in extents(port)[2:]]
    sides = tuple(dict.fromkeys((*(size for size in fixed if isinstance(size, int)), *_IMAGE_SIDES)))
    known: set[tuple[Shape, ...]] = set()
    for side, length in zip(sides, _LENGTHS, strict=False):
        chosen = tuple(
            _bounded(shape, side if image_axes(port) else length, sizes)
            for port, shape in zip(ports, shapes, strict=True)
        )
        if chosen not in known:
            known.add(chosen)
            yield chosen


def _bounded(shape: tuple[Extent, ...], size: int, sizes: Mapping[str, int]) -> Shape:
    """The shape with ``size`` for its open axes, or a power of 2 below with which it is not too large."""
    while True:
        chosen = tuple(_size(extent, size, sizes) for extent in shape)
        if math.prod(chosen) <= MOST_ELEMENTS or size == 1:
            return chosen
        size = 1 << ((size - 1).bit_length() - 1)


def _sample_shape(port: PortSpec, ports: Ports) -> tuple[Extent, ...]:
    shape = extents(port)
    if _stacks(ports):
        return shape[1:]
    batches = {size for other in ports for size in extents(other)[:1] if isinstance(size, str)}
    is_state = len(shape) >= _STATE_RANK and isinstance(shape[0], int)
    return tuple(
        1
        if not isinstance(size, int) and (axis == 0 or size in batches or (axis == 1 and is_state))
        else size
        for axis, size in enumerate(shape)
    )


def _stacks(ports: Ports) -> bool:
    """Whether every input has a first axis, and all are open or of one size."""
    firsts = {size if isinstance(size, int) else None for port in ports for size in extents(port)[:1]}
    return len(firsts) == 1 and all(extents(port) for port in ports)


def _size(extent: Extent, size: int, sizes: Mapping[str, int]) -> int:
    if extent is None or isinstance(extent, int):
        return size if extent is None else extent
    if extent in sizes:
        return sizes[extent]
    terms = [term.strip() for term in extent.split("+")]
    return sum(int(term) if re.fullmatch("[0-9]{1,9}", term) else sizes.get(term, size) for term in terms)
