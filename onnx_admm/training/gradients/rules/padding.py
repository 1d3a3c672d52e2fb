"""The gradient of padding: what was added is cut off, and added to the elements that it repeats."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape


@rule("Pad")
def pad(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Zeros take no gradient; repeated elements take that of all their copies."""
    mode = node.get("mode", "constant")
    before, after = _pads(node)
    if mode == "constant":
        return {0: _cut_off(tape, node, before, after)}
    if min(*before, *after) < 0:
        raise UnsupportedVariant(f"negative pads of mode {mode}")
    gradient, rank = node.dy, len(node.input_shapes[0])
    for axis in range(rank):
        if before[axis] or after[axis]:
            sides = _Sides(axis, rank, node.input_shapes[0][axis], before[axis], after[axis])
            gradient = _folded(tape, gradient, sides, mode)
    return {0: gradient}


def _cut_off(tape: Tape, node: GradientNode, before: list[int], after: list[int]) -> str:
    """Return the gradient without the pads, zeros where elements were cut away (negative pads)."""
    extents = node.output_shapes[0]
    starts = [max(value, 0) for value in before]
    stops = [extent - max(value, 0) for extent, value in zip(extents, after, strict=True)]
    axes = [axis for axis, extent in enumerate(extents) if starts[axis] or stops[axis] != extent]
    gradient = node.dy
    if axes:
        gradient = tape.cut(gradient, axes, [starts[a] for a in axes], [stops[a] for a in axes])
    return tape.padded(gradient, *([max(-value, 0) for value in values] for values in (before, after)))


def _pads(node: GradientNode) -> tuple[list[int], list[int]]:
    rank = len(node.input_shapes[0])
    pads = node.get("pads", node.get("paddings"))
    if pads is None:
        pads = node.constant(1)
    if pads is None:
        raise UnsupportedVariant("no pads")
    chosen = node.constant(3) if node.has(3) else None
    axes = range(rank) if chosen is None else [int(axis) % rank for axis in chosen]
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = int(pads[place]), int(pads[place + len(pads) // 2])
    return before, after


@dataclass(frozen=True, slots=True)
class _Sides:
    """One padded axis of a value: its place, the extent without pads, and the pads."""

    axis: int
    rank: int
    extent: int
    before: int
    after: int

    def cut(self, tape: Tape, value: str, start: int, stop: int, *, turned: bool = False) -> str:
        """Return a part along the axis, turned round if asked."""
        part = tape.cut(value, [self.axis], [start], [stop])
        return tape.cut(part, [self.axis], [-1], [start - stop - 1], [-1]) if turned else part

    def placed(self, tape: Tape, value: str, start: int, length: int) -> str:
        """Return a part at its place among zeros along the unpadded axis."""
        front, back = [0] * self.rank, [0] * self.rank
        front[self.axis], back[self.axis] = start, self.extent - start - length
        return tape.padded(value, front, back)


def _folded(tape: Tape, value: str, sides: _Sides, mode: str) -> str:
    """Add the gradients of both pads of an axis to those of the elements they repeat.

    Raises:
        UnsupportedVariant: an unknown mode, or pads longer than the data.
    """
    before, after, extent = sides.before, sides.after, sides.extent
    most = {"reflect": extent - 1, "wrap": extent, "edge": max(before, after)}
    if mode not in most:
        raise UnsupportedVariant(f"mode {mode}")
    if max(before, after) > most[mode]:
        raise UnsupportedVariant(f"pads longer than the data, mode {mode}")
    end = before + extent + after
    total = sides.cut(tape, value, before, before + extent)
    for start, stop, is_front in ((0, before, True), (end - after, end, False)):
        length = stop - start
        if not length:
            continue
        part = sides.cut(tape, value, start, stop, turned=mode == "reflect")
        if mode == "edge":
            part, length = tape.sum(part, [sides.axis], keep=True), 1
        at = {
            "reflect": 1 if is_front else extent - 1 - length,
            "wrap": extent - length if is_front else 0,
            "edge": 0 if is_front else extent - 1,
        }[mode]
        total = tape.write("Add", total, sides.placed(tape, part, at, length))
    return total
