"""Gradients of convolutions of any number of spatial axes, groups, strides, dilations and pads."""

from __future__ import annotations

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.rules.weight_gradient import Convolution, weight_gradient
from onnx_admm.training.gradients.rules.windows import Windows, windows_of
from onnx_admm.training.gradients.tape import Tape


@rule("Conv")
def conv(tape: Tape, node: GradientNode) -> dict[int, str]:
    """dX: the transposed convolution of dY; dW: see ``weight_gradient``; dB: the sum of dY over places."""
    x_shape, w_shape = node.input_shapes[:2]
    y_shape = node.output_shapes[0]
    groups = int(node.get("group", 1))
    windows = windows_of(node, w_shape[2:], x_shape[2:], y_shape[2:])
    found = {}
    if node.wants(0):
        found[0] = _input_gradient(tape, node, windows, groups)
    if node.wants(1):
        at = Convolution(node.x, node.dy, x_shape[0], x_shape[1], y_shape[1], groups, windows, w_shape)
        found[1] = weight_gradient(tape, at)
    if node.wants(2):
        found[2] = tape.sum(node.dy, [0, *windows.axes])
    return found


def _input_gradient(tape: Tape, node: GradientNode, windows: Windows, groups: int) -> str:
    channels = node.input_shapes[0][1]
    weight = node.inputs[1]
    reach = [k - 1 for k in windows.kernel]
    is_depthwise = groups == channels == node.output_shapes[0][1] and groups > 1
    fits = all(r >= max(b, a) for r, b, a in zip(reach, windows.before, windows.after, strict=True))
    if is_depthwise and windows.is_dense and fits:
        flipped = _flipped(tape, weight, windows) if any(reach) else weight
        before = [r - b for r, b in zip(reach, windows.before, strict=True)]
        after = [r - a for r, a in zip(reach, windows.after, strict=True)]
        return tape.write("Conv", node.dy, flipped, pads=(*before, *after), group=groups)
    return _transposed(tape, node.dy, weight, windows, groups)


def _transposed(tape: Tape, dy: str, weight: str, windows: Windows, groups: int) -> str:
    """Return a transposed convolution that gives the data's extents.

    Rows behind the last place of the window take no gradient: they make up for the pads there, or zeros are
    added, as ``output_padding`` may not be as large as the stride.
    """
    rank = windows.rank
    ends = list(zip(windows.after, windows.unread, strict=True))
    pads = (*windows.before, *(max(after - unread, 0) for after, unread in ends))
    extra = [max(unread - after, 0) for after, unread in ends]
    result = tape.write(
        "ConvTranspose",
        dy,
        weight,
        strides=windows.strides,
        dilations=windows.dilations,
        pads=pads,
        group=groups,
    )
    return tape.padded(result, [0] * (rank + 2), [0, 0, *extra])


def _flipped(tape: Tape, weight: str, windows: Windows) -> str:
    ends = [-k - 1 for k in windows.kernel]
    steps = [-1] * windows.rank
    return tape.cut(weight, windows.axes, steps, ends, steps)


@rule("ConvTranspose")
def conv_transpose(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Mirror ``Conv``: dX is the convolution of dY, and in dW the data and dY change places."""
    x_shape, w_shape = node.input_shapes[:2]
    y_shape = node.output_shapes[0]
    groups = int(node.get("group", 1))
    windows = _mirrored(node, w_shape[2:], x_shape[2:], y_shape[2:])
    found = {}
    if node.wants(0):
        found[0] = tape.write(
            "Conv",
            node.dy,
            node.inputs[1],
            strides=windows.strides,
            dilations=windows.dilations,
            pads=(*windows.before, *windows.after),
            group=groups,
        )
    if node.wants(1):
        at = Convolution(node.dy, node.x, x_shape[0], y_shape[1], x_shape[1], groups, windows, w_shape)
        found[1] = weight_gradient(tape, at)
    if node.wants(2):
        found[2] = tape.sum(node.dy, [0, *windows.axes])
    return found


def _mirrored(
    node: GradientNode, kernel: tuple[int, ...], data: tuple[int, ...], output: tuple[int, ...]
) -> Windows:
    """Return the windows of the convolution whose input gradient a transposed convolution is.

    ``output_padding`` and ``output_shape`` only say which extent the output has; where pads follow from the
    extents (``auto_pad``, ``output_shape``), they are worked out as the operator does.

    Source: ConvTranspose of opset 11.
    """
    rank = len(kernel)
    ones = (1,) * rank
    strides, dilations = tuple(node.get("strides", ones)), tuple(node.get("dilations", ones))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    added = tuple(node.get("output_padding", (0,) * rank))
    mode = node.get("auto_pad", "NOTSET")
    full = [s * (n - 1) + a + span for s, n, a, span in zip(strides, data, added, spans, strict=True)]
    if node.get("output_shape") is not None or mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max(extent - out, 0) for extent, out in zip(full, output, strict=True)]
        low = [total - total // 2 if mode == "SAME_LOWER" else total // 2 for total in totals]
        if node.get("output_shape") is not None and mode != "SAME_UPPER":
            low = [total - total // 2 for total in totals]
    elif mode == "VALID":
        low = [0] * rank
    else:
        low = list(node.get("pads", (0,) * 2 * rank))[:rank]
    high = [
        (n - 1) * s + span - before - out
        for n, s, span, before, out in zip(data, strides, spans, low, output, strict=True)
    ]
    if any(value < 0 for value in low):
        raise UnsupportedVariant("negative pads")
    high = [max(value, 0) for value in high]
    return Windows(kernel, strides, dilations, tuple(low), tuple(high), tuple(output), tuple(data))
