"""Gradients of products and normalisations, and of operators that are written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gradient_cases import Arrays, Case, check, node, single


def products() -> Iterator[Case]:
    for a, b in (
        ((3, 4), (4, 2)), ((2, 3, 4), (4, 2)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4, 5), (3, 5, 2)),
        ((1, 3, 4), (2, 4, 5)), ((4,), (4, 2)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,)),
        ((4,), (2, 4, 3)), ((3, 4), (2, 4, 5)),
    ):  # fmt: skip
        yield Case(f"MatMul {a} {b}", [node("MatMul", ["a", "b"], ["y"])], {"a": a, "b": b})
    for turned in range(4):
        left, right = turned & 1, turned >> 1
        shapes = {"a": (4, 3) if left else (3, 4), "b": (2, 4) if right else (4, 2)}
        for c in ((2,), (3, 1), (1,)):
            made = node("Gemm", ["a", "b", "c"], ["y"], transA=left, transB=right, alpha=0.5, beta=2.0)
            yield Case(f"Gemm {left} {right} {c}", [made], shapes | {"c": c})
    for equation, shapes in (
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("bhid,bhjd->bhij", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("bij,kj->bik", [(2, 3, 4), (5, 4)]), ("ij->ji", [(2, 3)]), ("ij->i", [(2, 3)]),
        ("ij,j", [(2, 3), (3,)]), ("i,j->ij", [(2,), (3,)]), ("ij,jk,kl->il", [(2, 3), (3, 2), (2, 4)]),
    ):  # fmt: skip
        names = [f"x{index}" for index in range(len(shapes))]
        made = node("Einsum", names, ["y"], equation=equation)
        yield Case(f"Einsum {equation}", [made], dict(zip(names, shapes, strict=True)))


def over(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon))


def grouped(feeds: Arrays) -> np.ndarray:
    """GroupNormalization of 2 groups; the reference evaluator computes it in float32."""
    x = feeds["x"]
    values = over(x.reshape(len(x), 2, -1), (2,), 1e-5).reshape(x.shape)
    return np.asarray(values * feeds["s"].reshape(-1, 1, 1) + feeds["b"].reshape(-1, 1, 1))


def centred(feeds: Arrays) -> np.ndarray:
    """MeanVarianceNormalization over its default axes; it is defined for float32."""
    x = feeds["x"]
    axes = (0, 2, 3)
    return np.asarray((x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9))


def by_root(feeds: Arrays) -> np.ndarray:
    """RMSNormalization; the reference evaluator computes it in float32."""
    x = feeds["x"]
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * feeds["s"])


def normalisations() -> Iterator[Case]:
    rng = np.random.default_rng(4)
    images, columns = {"x": (2, 4, 3, 3)}, {"s": (4,), "b": (4,)}
    stored = {"m": rng.normal(size=4), "v": rng.random(4) + 0.5}
    made = node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-2)
    yield Case("BatchNormalization", [made], images | columns, stored)
    yield Case(
        "BatchNormalization of all", [made], images | columns | {"m": (4,), "v": (4,)}, values="positive"
    )
    made = node("InstanceNormalization", ["x", "s", "b"], ["y"])
    yield Case("InstanceNormalization", [made], images | columns)
    for axis in (-1, 1):
        width = (4,) if axis == -1 else (3, 4)
        made = node("LayerNormalization", ["x", "s", "b"], ["y"], axis=axis)
        yield Case(f"LayerNormalization {axis}", [made], {"x": (2, 3, 4), "s": width, "b": width})
    made = node("LayerNormalization", ["x", "s"], ["y"])
    yield Case("LayerNormalization without a bias", [made], {"x": (2, 3, 4), "s": (4,)})
    made = node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    yield Case("GroupNormalization", [made], images | columns, opset=21, forward=grouped)
    made = node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    by_group = {"s": (2,), "b": (2,)}
    yield Case("GroupNormalization by group", [made], images | by_group, opset=18, exact=False)
    yield single("LpNormalization", (3, 4), axis=1)
    made = node("RMSNormalization", ["x", "s"], ["y"], axis=-1)
    yield Case("RMSNormalization", [made], {"x": (2, 3, 4), "s": (4,)}, opset=23, forward=by_root)


def written_out() -> Iterator[Case]:
    """Operators without a rule, and some whose rule is left aside."""
    yield single("Mish")
    yield single("Selu")
    yield single("Celu", exact=False, alpha=0.7)
    yield single("MeanVarianceNormalization", (2, 3, 4, 4), exact=False, forward=centred)
    yield single("ReduceLogSum", (2, 3), values="positive")
    yield single("Shrink", lambd=0.2, values="spread")
    for name, width, attributes in (
        ("plain", 8, {"q_num_heads": 2}),
        ("causal", 8, {"q_num_heads": 2, "is_causal": 1}),
        ("grouped", 16, {"q_num_heads": 4}),
    ):
        made = node("Attention", ["q", "k", "v"], ["y"], kv_num_heads=2, **attributes)
        shapes = {"q": (1, 5, width), "k": (1, 5, 8), "v": (1, 5, 8)}
        yield Case(f"Attention {name}", [made], shapes, opset=23)
    angles = {"c": np.cos(np.arange(6.0)).reshape(1, 3, 2), "s": np.sin(np.arange(6.0)).reshape(1, 3, 2)}
    made = node("RotaryEmbedding", ["x", "c", "s"], ["y"])
    yield Case("RotaryEmbedding", [made], {"x": (1, 2, 3, 4)}, angles, opset=23)
    made = node("SoftmaxCrossEntropyLoss", ["x", "l"], ["y"])
    yield Case("SoftmaxCrossEntropyLoss", [made], {"x": (4, 3)}, {"l": np.array([0, 1, 2, 1])})
    for operator in ("HardSwish", "Elu", "Softplus", "Softsign", "Softmax", "LogSoftmax"):
        yield single(operator, name=f"{operator} written out", written_out=(operator,))
    yield single("Gelu", name="Gelu written out", opset=20, approximate="tanh", written_out=("Gelu",))
    scaled = {"x": (2, 3, 4), "s": (4,), "b": (4,)}
    made = node("LayerNormalization", ["x", "s", "b"], ["y"])
    yield Case("LayerNormalization written out", [made], scaled, written_out=("LayerNormalization",))
    made = node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    shapes = {"x": (2, 4, 3, 3), "s": (4,), "b": (4,)}
    body: dict[str, Any] = {"written_out": ("GroupNormalization",), "exact": False, "forward": grouped}
    yield Case("GroupNormalization written out", [made], shapes, opset=21, **body)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in (*products(), *normalisations(), *written_out())]
)
def test_gradient_is_the_slope(case: Case) -> None:
    check(case)
