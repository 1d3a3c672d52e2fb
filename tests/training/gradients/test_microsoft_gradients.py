"""Gradients of the operators that ONNX Runtime's optimisers make of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gradient_cases import Arrays, Case, Shape, check, node
from scipy.special import erf


def gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * (1 + erf(x / np.sqrt(2))) / 2)


def fast_gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def normalised(x: np.ndarray, *, centred: bool) -> np.ndarray:
    if centred:
        x = x - x.mean(-1, keepdims=True)
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3))


def case(
    operator: str, shapes: dict[str, Shape], forward: Callable[[Arrays], np.ndarray], **attributes: Any
) -> Case:
    made = node(operator, list(shapes), ["y"], domain="com.microsoft", **attributes)
    label = " ".join([operator, str(list(shapes)), str(attributes)])
    return Case(label, [made], shapes, exact=False, forward=forward)


def cases() -> Iterator[Case]:
    x, biased = {"x": (2, 3, 4)}, {"x": (2, 3, 4), "b": (4,)}
    yield case("Gelu", x, lambda feeds: gelu(feeds["x"]))
    yield case("QuickGelu", x, lambda feeds: feeds["x"] / (1 + np.exp(-1.5 * feeds["x"])), alpha=1.5)
    yield case("BiasGelu", biased, lambda feeds: gelu(feeds["x"] + feeds["b"]))
    yield case("FastGelu", x, lambda feeds: fast_gelu(feeds["x"]))
    yield case("FastGelu", biased, lambda feeds: fast_gelu(feeds["x"] + feeds["b"]))
    skipped = {"x": (2, 3, 4), "s": (2, 3, 4), "g": (4,)}
    yield case(
        "SkipLayerNormalization",
        {**skipped, "beta": (4,), "bias": (4,)},
        lambda f: normalised(f["x"] + f["s"] + f["bias"], centred=True) * f["g"] + f["beta"],
        epsilon=1e-3,
    )
    yield case(
        "SkipSimplifiedLayerNormalization",
        {**skipped, "bias": (4,)},
        lambda f: normalised(f["x"] + f["s"] + f["bias"], centred=False) * f["g"],
        epsilon=1e-3,
    )
    for turned in range(4):
        left, right = turned & 1, turned >> 1
        shapes = {"a": (2, 4, 3) if left else (2, 3, 4), "b": (5, 4) if right else (4, 5)}

        def forward(feeds: Arrays, left: int = left, right: int = right) -> np.ndarray:
            a = feeds["a"].swapaxes(-1, -2) if left else feeds["a"]
            b = feeds["b"].T if right else feeds["b"]
            return np.asarray(0.5 * a @ b)

        yield case("FusedMatMul", shapes, forward, transA=left, transB=right, alpha=0.5)


@pytest.mark.parametrize("case", [pytest.param(one, id=one.name) for one in cases()])
def test_gradient_is_the_slope(case: Case) -> None:
    check(case)
