"""Gradients of pools."""

from __future__ import annotations

import numpy as np

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.rules.windows import Windows, counted, windows_of
from onnx_admm.training.gradients.tape import Tape


@rule("MaxPool")
def max_pool(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Pass the gradient to the largest element of each window.

    Where windows tile images, elements are compared with the maximum of their window, and equal ones share
    the gradient. Elsewhere it is scattered to the operator's own ``Indices``, which costs more.
    """
    x_shape, y_shape = node.input_shapes[0], node.output_shapes[0]
    windows = windows_of(node, node.get("kernel_shape"), x_shape[2:], y_shape[2:])
    if node.gradients[0] is None:
        raise UnsupportedVariant("an output but the first is differentiated")
    if windows.tiles and windows.rank == 2:
        return {0: _by_comparison(tape, node, windows)}
    if node.get("storage_order", 0):
        raise UnsupportedVariant("storage_order 1")
    indices = tape.extra_output(node.outputs, 1)
    elements = int(np.prod(x_shape))
    scattered = tape.write(
        "ScatterElements",
        tape.zeros((elements,), node.dtype),
        tape.reshape(indices, [-1]),
        tape.reshape(node.dy, [-1]),
        axis=0,
        reduction="add",
    )
    return {0: tape.reshape(scattered, x_shape)}


def _by_comparison(tape: Tape, node: GradientNode, windows: Windows) -> str:
    """Return the gradient of a pool that tiles images.

    Behind a Relu that nothing else reads, its gradient is applied here, where there are fewer elements.
    """
    kernel, data = windows.kernel, windows.data
    used = tuple(o * k for o, k in zip(windows.places, kernel, strict=True))
    x = node.x if used == data else tape.cut(node.x, windows.axes, (0, 0), used)
    is_largest = tape.mask(tape.write("Equal", x, _repeated(tape, node.y, kernel)), node.dtype)
    share = tape.write("AveragePool", is_largest, kernel_shape=kernel, strides=kernel)
    dy = tape.scaled(node.dy, 1 / int(np.prod(kernel)), node.dtype)
    if node.x in tape.behind_relu:
        tape.absorbed.add(node.x)
        positive = tape.mask(tape.write("Greater", node.y, tape.constant(0, node.dtype)), node.dtype)
        dy = tape.write("Mul", dy, positive)
    gradient = tape.write("Mul", _repeated(tape, tape.write("Div", dy, share), kernel), is_largest)
    return tape.padded(gradient, [0] * 4, [0, 0, *(n - u for n, u in zip(data, used, strict=True))])


def _repeated(tape: Tape, value: str, factors: tuple[int, ...]) -> str:
    """Every element of images, repeated along both spatial axes."""
    scales = tape.constant([1, 1, *factors], np.float32)
    return tape.write(
        "Resize",
        value,
        "",
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@rule("AveragePool")
def average_pool(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Each element takes its share of the windows that it lies in."""
    x_shape, y_shape = node.input_shapes[0], node.output_shapes[0]
    windows = windows_of(node, node.get("kernel_shape"), x_shape[2:], y_shape[2:])
    size = int(np.prod(windows.kernel))
    covers_all = tuple(o * k for o, k in zip(windows.places, windows.kernel, strict=True)) == windows.data
    if windows.tiles and windows.rank == 2 and covers_all:
        return {0: tape.scaled(_repeated(tape, node.dy, windows.kernel), 1 / size, node.dtype)}
    counts = _divisors(windows, includes_pads=bool(node.get("count_include_pad", 0)))
    if (counts == counts.flat[0]).all():
        share = tape.scaled(node.dy, 1 / float(counts.flat[0]), node.dtype)
    else:
        share = tape.write("Mul", node.dy, tape.constant((1 / counts)[None, None], node.dtype))
    return {0: spread_over_windows(tape, share, windows, x_shape[1], node.dtype)}


def _divisors(windows: Windows, *, includes_pads: bool) -> np.ndarray:
    """Return the divisor of each place; with pads counted, those beyond them (``ceil_mode``) are not."""
    if not includes_pads:
        return counted(windows)
    padded = Windows(
        windows.kernel,
        windows.strides,
        windows.dilations,
        (0,) * windows.rank,
        (0,) * windows.rank,
        tuple(n + b + a for n, b, a in zip(windows.data, windows.before, windows.after, strict=True)),
        windows.places,
    )
    return counted(padded)


def spread_over_windows(
    tape: Tape, value: str, windows: Windows, channels: int, dtype: np.dtype[np.generic]
) -> str:
    """Add each place of (n, channels, *places) to every element under its window."""
    rank = windows.rank
    ones = tape.constant(np.ones((channels, 1, *windows.kernel)), dtype)
    full = tape.write(
        "ConvTranspose",
        value,
        ones,
        strides=windows.strides,
        dilations=windows.dilations,
        group=channels,
    )
    # That starts ``before`` elements ahead of the data and ends behind it or short of it.
    reach = [
        (o - 1) * s + span for o, s, span in zip(windows.places, windows.strides, windows.spans, strict=True)
    ]
    missing = [n + b - extent for n, b, extent in zip(windows.data, windows.before, reach, strict=True)]
    longer = tape.padded(full, [0] * (rank + 2), [0, 0, *(max(rows, 0) for rows in missing)])
    if not any(windows.before) and all(rows >= 0 for rows in missing):
        return longer
    stops = [start + n for start, n in zip(windows.before, windows.data, strict=True)]
    return tape.cut(longer, windows.axes, windows.before, stops)
