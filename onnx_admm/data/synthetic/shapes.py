"""Shapes of random samples: what the model fixes, and sizes to try where it leaves them open."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx_admm.contracts import PortSpec
from onnx_admm.data.synthetic.caches import is_cache, is_of_encoder, is_sequence, known_size, tokens_axis

Ports = tuple[PortSpec, ...]
Extent = int | str | None
Shape = tuple[int, ...]

_IMAGE_SIDES = (224, 256, 640, 320, 416, 720, 128, 64)
_LENGTHS = (64, 16, 224, 256, 512, 640, 1000, 1)
MOST_ELEMENTS = 1 << 22
"""Most elements of a random sample of one input, where the model leaves the size open."""

_PROMPT_LENGTHS, _STEP_LENGTHS = (16, 64, 4, 1), (4, 1, 16, 64)
"""New tokens of a decoder with a cache: at the start, and behind earlier ones."""

_PAST_TOKENS = 12
_SMALLEST_IMAGE = 8
MASK_NAME = re.compile(r"mask", re.IGNORECASE)
_BATCH_NAME = re.compile(r"batch|^(n|b|bs)$", re.IGNORECASE)
_STATE_RANK = 3
_WAYS = ((True, True), (False, True), (False, False))
"""Ways to read first axes, in the order in which they are tried: samples are stacked along them, a feed has
one sample, or they are axes of that sample, such as a graph's nodes or frames."""


def port_extents(port: PortSpec) -> tuple[Extent, ...]:
    """Return the port's shape, with None for sizes that the file gives as negative numbers."""
    return tuple(None if isinstance(size, int) and size < 0 else size for size in port.shape or ())


def image_axes(port: PortSpec) -> tuple[tuple[int, int], int] | None:
    """Return height and width, and the channels, of an image-like input; axes counted from the last."""
    shape = port_extents(port)
    if is_cache(port):
        return None
    for axes, channels in (((-2, -1), -3), ((-3, -2), -1)):
        if len(shape) == 4 and shape[channels] in (1, 3):
            sides = [shape[axis] for axis in axes]
            if all(not isinstance(side, int) or side >= _SMALLEST_IMAGE for side in sides):
                return axes, channels
    return None


@dataclass(frozen=True)
class Candidate:
    """One choice of all open sizes.

    Attributes:
        shapes: shape of a sample of each input.
        length: tokens or frames, where an axis of them is open.
        past: earlier tokens in caches.
    """

    shapes: tuple[Shape, ...]
    length: int
    past: int = 0

    @property
    def inner_extents(self) -> tuple[int, ...]:
        """Sizes that a length may count, the largest first."""
        return tuple(sorted({n for shape in self.shapes for n in shape[:2] if n > 1}, reverse=True))


def candidate_families(
    ports: Ports, outputs: Ports, sizes: Mapping[str, int]
) -> tuple[tuple[Candidate, ...], ...]:
    """Return the sample shapes of all inputs for each choice of the open sizes, the likeliest first.

    Inputs whose first axes agree are stacked along them; otherwise, and where that does not run, a sample is
    a whole feed of batch 1, where a dynamic second axis of a state ``[layers, batch, hidden]`` is one too. At
    last, first axes are taken for axes of one sample.
    Open axes of images take the sizes of image models, first those that an output fixes; others take lengths
    of sequences. An axis named as a sum (``past + 1``) is computed. A decoder with a cache of open length has
    two families of choices: the first begins with an empty cache, the second with a filled one. Sizes are
    reduced where a sample would be too large.

    Args:
        ports: the inputs.
        outputs: the outputs.
        sizes: sizes of open axes, by symbol.
    """
    fixed = [size for port in outputs if image_axes(port) for size in port_extents(port)[2:]]
    sides = tuple(dict.fromkeys((*(size for size in fixed if isinstance(size, int)), *_IMAGE_SIDES)))
    kept = {port_extents(port)[axis] for port in ports if (axis := tokens_axis(port)) is not None}
    known = [size for size in kept if isinstance(size, int)]
    pasts = [0, _PAST_TOKENS] if kept and not known else (known or [0])[:1]
    families = []
    for past in pasts:
        lengths = (_STEP_LENGTHS if past else _PROMPT_LENGTHS) if kept else _LENGTHS
        chosen: dict[tuple[Shape, ...], Candidate] = {}
        for stacked, counts in _WAYS if _stacks(ports) else _WAYS[1:]:
            for side, length in zip(sides, lengths, strict=False):
                sizing = _Sizing(sizes, side, length, past, ports, counts)
                shapes = tuple(sizing.sample_shape(port, stacked) for port in ports)
                chosen.setdefault(shapes, Candidate(shapes, length, past))
        families.append(tuple(chosen.values()))
    return tuple(families)


def _stacks(ports: Ports) -> bool:
    """Return whether all first axes count samples: open or of one size, and none an inner one of others."""
    if any(isinstance(size, str) and is_sequence(size) for port in ports for size in port_extents(port)[:1]):
        return False
    firsts = {size if isinstance(size, int) else None for port in ports for size in port_extents(port)[:1]}
    if len(firsts) != 1 or not all(port_extents(port) for port in ports):
        return False
    symbols = {port_extents(port)[0] for port in ports}
    return not any(
        size in symbols and size != shape[0] and isinstance(size, str)
        for port in ports
        for shape in [port_extents(port)]
        for size in shape[1:]
    )


@dataclass(frozen=True)
class _Sizing:
    """Sizes for open axes: ``side`` of images, ``length`` of sequences, ``past`` of caches.

    ``counts``: whether first axes count samples; otherwise they are axes of one sample.
    """

    sizes: Mapping[str, int]
    side: int
    length: int
    past: int
    ports: Ports
    counts: bool

    def sample_shape(self, port: PortSpec, stacked: bool) -> Shape:
        """Return the shape of a sample: a row of a stack, or a whole feed of batch 1.

        Sizes are halved, to powers of 2, until it is not too large.
        """
        shape = port_extents(port)
        axes = range(1 if stacked else 0, len(shape))
        chosen = tuple(self._size(port, axis, shape[axis], stacked) for axis in axes)
        if math.prod(chosen) <= MOST_ELEMENTS or max(self.side, self.length) == 1:
            return chosen
        side, length = (1 << max(size - 1, 1).bit_length() - 1 for size in (self.side, self.length))
        return replace(self, side=side, length=length).sample_shape(port, stacked)

    def _size(self, port: PortSpec, axis: int, extent: Extent, stacked: bool) -> int:
        if isinstance(extent, int):
            return extent
        if extent is not None and extent in self.sizes:
            return self.sizes[extent]
        if not stacked and self._is_batch(port, axis, extent):
            return 1
        if axis == tokens_axis(port):
            return self.past
        if self._has_caches and self._spans_all(port, axis, extent):
            return self.past + self.length
        size = self.side if image_axes(port) else self.length
        return size if extent is None else self._sum(extent, size)

    def _is_batch(self, port: PortSpec, axis: int, extent: Extent) -> bool:
        if isinstance(extent, str) and is_sequence(extent):
            return False
        firsts = {size for other in self.ports for size in port_extents(other)[:1] if isinstance(size, str)}
        is_state = len(port_extents(port)) >= _STATE_RANK and isinstance(port_extents(port)[0], int)
        is_named = isinstance(extent, str) and _BATCH_NAME.search(extent) is not None
        is_first = self.counts and (axis == 0 or extent in firsts)
        return is_first or is_named or (axis == 1 and is_state)

    def _spans_all(self, port: PortSpec, axis: int, extent: Extent) -> bool:
        """Return whether this is the last axis of a mask over earlier and new tokens."""
        if not MASK_NAME.search(port.name) or is_of_encoder(port.name) or axis != len(port_extents(port)) - 1:
            return False
        others = {
            size for other in self.ports if not MASK_NAME.search(other.name) for size in port_extents(other)
        }
        return extent is None or extent not in others

    def _sum(self, symbol: str, size: int) -> int:
        """Return the value of ``a + b`` and ``n * a``."""
        total = 0
        for term in symbol.split("+"):
            value = 1
            for factor in term.split("*"):
                value *= self._term(factor.strip(" ()"), size)
            total += value
        return total

    def _term(self, term: str, size: int) -> int:
        if re.fullmatch("[0-9]{1,9}", term):
            return int(term)
        if term in self.sizes:
            return self.sizes[term]
        known = known_size(term, self.past, size) if self._has_caches else None
        return size if known is None else known

    @property
    def _has_caches(self) -> bool:
        return any(tokens_axis(port) is not None for port in self.ports)
