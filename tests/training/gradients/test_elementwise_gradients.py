"""Gradients of elementwise operators, activations and reductions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gradient_cases import Arrays, Case, check, node, single
from scipy.special import erf

SMOOTH = (
    "Sigmoid", "Tanh", "Exp", "Neg", "Sin", "Cos", "Identity", "Softplus", "Softsign", "Elu", "HardSwish",
)  # fmt: skip
KINKED = ("Relu", "LeakyRelu", "Abs", "HardSigmoid")
POSITIVE = ("Log", "Sqrt", "Reciprocal")
AXES = ((0,), (1, 2), (-1,), ())


def same(feeds: Arrays) -> np.ndarray:
    return feeds["x"]


def unary() -> Iterator[Case]:
    yield from (single(operator) for operator in SMOOTH)
    yield from (single(operator, values="spread") for operator in KINKED)
    yield from (single(operator, values="positive") for operator in POSITIVE)
    yield single("LeakyRelu", alpha=0.3, values="spread")
    yield single("Elu", alpha=1.7)
    yield single("HardSigmoid", alpha=0.4, beta=0.3, values="spread")
    yield single("ThresholdedRelu", alpha=0.2, values="spread")
    yield single("Gelu", opset=20, approximate="tanh")
    yield single("Swish", opset=24, alpha=1.5)
    yield Case("Cast", [node("Cast", ["x"], ["y"], to=1)], {"x": (3, 4)}, exact=False, forward=same)
    there_and_back = [
        node("Cast", ["x"], ["h"], to=11),
        node("Mul", ["h", "h"], ["s"]),
        node("CastLike", ["s", "x"], ["y"]),
    ]
    yield Case("CastLike", there_and_back, {"x": (3, 4)})
    for axis in (0, 1, -1):
        yield single("Softmax", (3, 4, 2), axis=axis)
        yield single("LogSoftmax", (3, 4, 2), axis=axis)


def binary() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    for operator in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"):
        for _ in range(3):
            rank = int(rng.integers(1, 4))
            full = tuple(int(extent) for extent in rng.integers(2, 5, rank))
            shapes = [tuple(1 if rng.random() < 0.3 else extent for extent in full) for _ in range(2)]
            shapes[int(rng.integers(2))] = full[int(rng.integers(rank)) :]
            a, b = shapes
            values = {"Div": "positive", "Max": "spread", "Min": "spread"}.get(operator, "normal")
            name = f"{operator} {a} {b}"
            yield Case(name, [node(operator, ["a", "b"], ["y"])], {"a": a, "b": b}, values=values)
    yield Case("Mul by itself", [node("Mul", ["x", "x"], ["y"])], {"x": (2, 3)})
    yield Case("Add to itself", [node("Add", ["x", "x"], ["y"])], {"x": (2, 3)})
    for exponent in (2.0, 3.0, -0.5):
        constants = {"e": np.array(exponent)}
        yield Case(f"Pow {exponent}", [node("Pow", ["x", "e"], ["y"])], {"x": (3, 4)}, constants, "positive")
    yield Case("Pow of both", [node("Pow", ["x", "e"], ["y"])], {"x": (3, 4), "e": (4,)}, values="positive")
    yield Case("PRelu", [node("PRelu", ["x", "s"], ["y"])], {"x": (2, 3, 4), "s": (3, 1)}, values="spread")
    bounds = {"low": np.array(-0.4), "high": np.array(0.3)}
    yield Case("Clip", [node("Clip", ["x", "low", "high"], ["y"])], {"x": (5, 6)}, bounds, "spread")
    yield Case("Clip above", [node("Clip", ["x", "", "high"], ["y"])], {"x": (5, 6)}, bounds, "spread")
    chosen = {"c": np.array([[True], [False], [True]])}
    yield Case("Where", [node("Where", ["c", "a", "b"], ["y"])], {"a": (3, 4), "b": (4,)}, chosen)
    yield Case("Dropout", [node("Dropout", ["x"], ["y"])], {"x": (3, 4)})


def reductions() -> Iterator[Case]:
    values = {"ReduceMax": "spread", "ReduceMin": "spread", "ReduceProd": "positive", "ReduceL1": "spread"}
    for operator in (
        "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
        "ReduceSumSquare", "ReduceLogSumExp",
    ):  # fmt: skip
        for axes in AXES:
            for keep in (0, 1):
                if not axes and keep:
                    continue
                inputs = ["x", "axes"] if axes else ["x"]
                yield Case(
                    f"{operator} {axes} keep {keep}",
                    [node(operator, inputs, ["y"], keepdims=keep)],
                    {"x": (2, 3, 4)},
                    {"axes": np.array(axes, np.int64)} if axes else {},
                    values.get(operator, "normal"),
                )
    yield Case(
        "ReduceMean by attribute", [node("ReduceMean", ["x"], ["y"], axes=[1])], {"x": (2, 3)}, opset=17
    )
    for exclusive in (0, 1):
        for reverse in (0, 1):
            made = node("CumSum", ["x", "axis"], ["y"], exclusive=exclusive, reverse=reverse)
            axis = {"axis": np.array(1, np.int64)}
            yield Case(f"CumSum {exclusive} {reverse}", [made], {"x": (2, 4)}, axis)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in (*unary(), *binary(), *reductions())]
)
def test_gradient_is_the_slope(case: Case) -> None:
    check(case)


def erf_of(feeds: Arrays) -> np.ndarray:
    return np.asarray(erf(feeds["x"]))


def gelu_of(feeds: Arrays) -> np.ndarray:
    return np.asarray(feeds["x"] * (1 + erf(feeds["x"] / np.sqrt(2))) / 2)


def test_gradients_of_the_error_function() -> None:
    """The reference evaluator computes it in float32."""
    check(single("Erf", forward=erf_of))
    check(single("Gelu", opset=20, forward=gelu_of))


def test_equal_extremes_share_the_gradient() -> None:
    """All of them move together where they come from the same weight."""
    nodes = [node("Mul", ["w", "ones"], ["x"]), node("ReduceMax", ["x", "axes"], ["y"])]
    constants = {"ones": np.ones((2, 5)), "axes": np.array([1], np.int64)}
    check(Case("equal", nodes, {"w": (1,)}, constants))
