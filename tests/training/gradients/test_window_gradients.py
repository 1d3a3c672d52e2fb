"""Gradients of convolutions, pools and resizing, over random geometries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from brute_force import conv, conv_transpose
from gradient_cases import Arrays, Case, check, node
from onnx import helper

KINDS = ("plain", "grouped", "depthwise", "pointwise")


def extents(rng: np.random.Generator, low: int, high: int, count: int) -> list[int]:
    return [int(value) for value in rng.integers(low, high + 1, count)]


def convolution(seed: int, operator: str) -> Case:
    """A convolution of random rank, groups, strides, dilations and pads."""
    rng = np.random.default_rng(seed)
    rank = int(rng.choice([1, 2, 2, 2, 3]))
    kind = KINDS[seed % len(KINDS)]
    groups = {"grouped": 2, "depthwise": 4}.get(kind, 1)
    channels, filters = (4, 4) if groups > 1 else extents(rng, 1, 9, 2)
    kernel = [1] * rank if kind == "pointwise" else extents(rng, 1, 3, rank)
    strides, dilations = extents(rng, 1, 3, rank), extents(rng, 1, 2, rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    data = [max(span, int(rng.integers(3, 7))) for span in spans]
    attributes = {"group": groups, "strides": strides, "dilations": dilations, "kernel_shape": kernel}
    mode = str(rng.choice(["pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if operator == "ConvTranspose" or (mode.startswith("SAME") and max(dilations) > 1):
        mode = "pads"
    if mode == "pads":
        attributes["pads"] = [int(rng.integers(0, span)) for _ in (0, 1) for span in spans]
    else:
        attributes["auto_pad"] = mode
    if operator == "Conv":
        weight = (filters, channels // groups, *kernel)
    else:
        weight = (channels, filters // groups, *kernel)
        attributes["output_padding"] = [int(rng.integers(0, stride)) for stride in strides]
        data = [extent + 1 for extent in data]
    shapes = {"x": (2, channels, *data), "w": weight, "b": (filters,)}
    return Case(
        f"{operator} {seed} {kind} rank {rank}",
        [node(operator, ["x", "w", "b"], ["y"], **attributes)],
        shapes,
        exact=False,
    )


def chosen_forms() -> Iterator[Case]:
    """Geometries that the forms of a weight's gradient are chosen by."""
    for name, x, w, attributes in (
        ("exchange", (2, 8, 9, 9), (3, 8, 5, 5), {}),
        ("exchange padded", (2, 8, 6, 6), (3, 8, 4, 4), {"pads": [2, 1, 2, 1]}),
        ("columns", (2, 3, 6, 6), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
        ("columns of a large kernel", (2, 1, 8, 8), (3, 1, 5, 5), {}),
        ("taps", (2, 8, 5, 5), (4, 8, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("taps of one element", (2, 8, 5, 5), (4, 8, 1, 1), {}),
        ("depthwise", (2, 4, 5, 5), (4, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 4}),
        ("depthwise multiplier", (2, 2, 5, 5), (4, 1, 3, 3), {"group": 2}),
    ):
        made = node("Conv", ["x", "w"], ["y"], **attributes)
        yield Case(f"Conv by {name}", [made], {"x": x, "w": w}, exact=False)


def pools() -> Iterator[Case]:
    shape = {"x": (2, 3, 7, 8)}
    for name, attributes in (
        ("tiles", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("tiles and a rest", {"kernel_shape": [3, 3], "strides": [3, 3]}),
        ("overlapping", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("same", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("ceiling", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("strides of 1", {"kernel_shape": [2, 2]}),
    ):
        made = node("MaxPool", ["x"], ["y"], **attributes)
        yield Case(f"MaxPool {name}", [made], shape, values="spread", exact=False)
        relu = [node("Relu", ["x"], ["r"]), node("MaxPool", ["r"], ["y"], **attributes)]
        yield Case(f"Relu and MaxPool {name}", relu, shape, values="spread", exact=False)
        made = node("AveragePool", ["x"], ["y"], **attributes)
        if name not in ("ceiling", "same"):
            yield Case(f"AveragePool {name}", [made], shape, exact=False)
    counted = node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    yield Case("AveragePool with pads counted", [counted], shape, exact=False)
    one = node("AveragePool", ["x"], ["y"], kernel_shape=[3], strides=[2], pads=[1, 1])
    yield Case("AveragePool of one axis", [one], {"x": (2, 3, 7)}, exact=False)
    for operator in ("GlobalAveragePool", "GlobalMaxPool"):
        yield Case(operator, [node(operator, ["x"], ["y"])], shape, values="spread")


def resizings() -> Iterator[Case]:
    scales = {"k": np.array([1, 1, 2, 2], np.float16), "half": np.array([1, 1, 1.5, 2], np.float16)}
    scales = {name: array.astype(np.float32) for name, array in scales.items()}
    sizes = {"s": np.array([2, 3, 5, 9], np.int64), "small": np.array([2, 3, 2, 2], np.int64)}
    shape = {"x": (2, 3, 4, 5)}
    asymmetric = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for name, inputs, attributes in (
        ("nearest twice", ["x", "", "k"], asymmetric),
        ("nearest", ["x", "", "", "s"], {"mode": "nearest"}),
        ("nearest ceil", ["x", "", "", "s"], {"mode": "nearest", "nearest_mode": "ceil"}),
        ("linear", ["x", "", "", "s"], {"mode": "linear"}),
        ("linear down", ["x", "", "", "small"], {"mode": "linear"}),
        (
            "linear corners",
            ["x", "", "", "s"],
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        ),
        (
            "linear pytorch",
            ["x", "", "", "s"],
            {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        ),
        ("cubic", ["x", "", "", "s"], {"mode": "cubic"}),
        ("cubic outside", ["x", "", "", "s"], {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}),
    ):
        yield Case(
            f"Resize {name}",
            [node("Resize", inputs, ["y"], **attributes)],
            shape,
            sizes | scales if "k" in inputs else sizes,
            opset=13,
        )


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_gradient_of_a_random_convolution(operator: str, seed: int) -> None:
    case = convolution(seed, operator)
    attributes = {one.name: helper.get_attribute_value(one) for one in case.nodes[0].attribute}
    attributes = {
        key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()
    }
    run = conv if operator == "Conv" else conv_transpose

    def forward(feeds: Arrays) -> np.ndarray:
        return run(feeds["x"], feeds["w"], feeds["b"], attributes)

    check(replace(case, forward=forward), seed=seed)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in (*chosen_forms(), *pools(), *resizings())]
)
def test_gradient_is_the_slope(case: Case) -> None:
    check(case)


def test_equal_elements_of_a_window_share_the_gradient() -> None:
    """Images have constant parts: there every element of a window comes from the same weights."""
    nodes = [
        node("Conv", ["image", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    image = np.zeros((2, 1, 8, 8))
    image[:, :, 2:4, 3:5] = 1
    check(Case("constant", nodes, {"w": (3, 1, 3, 3), "b": (3,)}, {"image": image}, "positive", exact=False))
