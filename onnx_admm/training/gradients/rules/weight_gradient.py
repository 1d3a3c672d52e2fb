"""The gradient of a convolution's weight, in the form that is fastest on a CPU for its geometry.

A wrong form costs up to 1.4 times a whole training step. The choice is a fixed rule: timing at run time would
make two equal runs differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_admm.model.differentiation.records import Shape
from onnx_admm.training.gradients.rules.windows import Windows
from onnx_admm.training.gradients.tape import Tape

_FEW_CHANNELS = 8
"""Below which products of one offset each are too thin."""

_LARGE_KERNEL, _FEW_PLACES = 9, 256
"""More offsets than the first and no more places than the second: the output gradient is a small kernel."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """What the weight's gradient is computed from.

    Attributes:
        x, dy: values of (n, channels, *data) and (n, filters, *places).
        samples, channels, filters, groups: their number.
        windows: the geometry.
        shape: of the weight: (filters, channels / groups, *kernel).
    """

    x: str
    dy: str
    samples: int
    channels: int
    filters: int
    groups: int
    windows: Windows
    shape: Shape


def weight_gradient(tape: Tape, at: Convolution) -> str:
    """Write the gradient of the weight."""
    windows = at.windows
    offsets, places = int(np.prod(windows.kernel)), int(np.prod(windows.places))
    if at.groups == 1 and windows.is_dense and offsets > _LARGE_KERNEL and places <= _FEW_PLACES:
        few = at.channels < _FEW_CHANNELS
        return _by_columns(tape, at) if few else _by_exchange(tape, at)
    if at.groups == 1 and at.channels < _FEW_CHANNELS and offsets > 1:
        return _by_columns(tape, at)
    return _by_offsets(tape, at)


def _by_exchange(tape: Tape, at: Convolution) -> str:
    """One convolution with samples and channels exchanged, the output gradient as its kernel."""
    windows, axes = at.windows, at.windows.axes
    order = [1, 0, *axes]
    result = tape.write(
        "Conv",
        tape.transpose(at.x, order),
        tape.transpose(at.dy, order),
        pads=(*windows.before, *windows.after),
    )
    if any(windows.unread):
        result = tape.cut(result, axes, [0] * len(axes), windows.kernel)
    return tape.transpose(result, order)


def _by_columns(tape: Tape, at: Convolution) -> str:
    """Return the data of all offsets side by side (im2col), and one product for each sample."""
    offsets = list(np.ndindex(*at.windows.kernel))
    places = int(np.prod(at.windows.places))
    padded = _padded(tape, at)
    parts = [
        tape.reshape(_at_offset(tape, at, padded, offset), [at.samples, at.channels, 1, places])
        for offset in offsets
    ]
    columns = tape.write("Concat", *parts, axis=2)
    columns = tape.reshape(columns, [at.samples, at.channels * len(offsets), places])
    rows = tape.reshape(at.dy, [at.samples, at.filters, places])
    product = tape.matmul(rows, columns, 3, turn_b=True)
    return tape.reshape(tape.sum(product, [0]), at.shape)


def _by_offsets(tape: Tape, at: Convolution) -> str:
    """One product for each offset of the kernel; for depthwise convolutions a multiplication and sums."""
    offsets = list(np.ndindex(*at.windows.kernel))
    padded = _padded(tape, at)
    per_group = at.channels // at.groups
    is_depthwise = at.channels == at.filters == at.groups
    one = _depthwise_tap if is_depthwise else _tap_product
    parts = [one(tape, at, _at_offset(tape, at, padded, offset)) for offset in offsets]
    if len(parts) == 1:
        return tape.reshape(parts[0], at.shape)
    parts = [tape.reshape(part, [at.filters, per_group, 1]) for part in parts]
    return tape.reshape(tape.write("Concat", *parts, axis=2), at.shape)


def _tap_product(tape: Tape, at: Convolution, data: str) -> str:
    places, groups = int(np.prod(at.windows.places)), at.groups
    stack = at.samples * groups
    rows = tape.reshape(at.dy, [stack, at.filters // groups, places])
    columns = tape.reshape(data, [stack, at.channels // groups, places])
    product = tape.matmul(rows, columns, 3, turn_b=True)
    if groups > 1:
        product = tape.reshape(product, [at.samples, at.filters, at.channels // groups])
    return tape.sum(product, [0])


def _depthwise_tap(tape: Tape, at: Convolution, data: str) -> str:
    return tape.sum(tape.sum(tape.write("Mul", at.dy, data), at.windows.axes), [0])


def _padded(tape: Tape, at: Convolution) -> str:
    return tape.padded(at.x, [0, 0, *at.windows.before], [0, 0, *at.windows.after])


def _at_offset(tape: Tape, at: Convolution, padded: str, offset: tuple[int, ...]) -> str:
    """Return the padded data that one offset of the kernel meets at every place."""
    windows = at.windows
    starts = [t * d for t, d in zip(offset, windows.dilations, strict=True)]
    steps = windows.strides
    stops = [
        start + step * (count - 1) + 1
        for start, step, count in zip(starts, steps, windows.places, strict=True)
    ]
    extents = [n + lo + hi for n, lo, hi in zip(windows.data, windows.before, windows.after, strict=True)]
    if not any(starts) and stops == extents and all(step == 1 for step in steps):
        return padded
    return tape.cut(padded, windows.axes, starts, stops, steps)
