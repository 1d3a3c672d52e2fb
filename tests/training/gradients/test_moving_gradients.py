"""Gradients of operators that move, cut, pad, join and look up elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gradient_cases import Arrays, Case, check, node, single

from onnx_admm.errors import NoGradient


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def shaped() -> Iterator[Case]:
    x = {"x": (2, 3, 4)}
    yield Case("Reshape", [node("Reshape", ["x", "s"], ["y"])], x, {"s": ints(0, -1)})
    yield Case("Flatten", [node("Flatten", ["x"], ["y"], axis=2)], x)
    yield Case("Squeeze", [node("Squeeze", ["x", "a"], ["y"])], {"x": (2, 1, 3)}, {"a": ints(1)})
    yield Case("Unsqueeze", [node("Unsqueeze", ["x", "a"], ["y"])], x, {"a": ints(0, -1)})
    yield single("Transpose", (2, 3, 4))
    yield single("Transpose", (2, 3, 4), perm=[2, 0, 1])
    yield Case("Expand", [node("Expand", ["x", "s"], ["y"])], {"x": (3, 1)}, {"s": ints(2, 3, 4)})
    yield Case("Expand of equal shape", [node("Expand", ["x", "s"], ["y"])], {"x": (3, 2)}, {"s": ints(1, 1)})
    yield Case("Tile", [node("Tile", ["x", "r"], ["y"])], {"x": (2, 3)}, {"r": ints(2, 3)})
    yield single("DepthToSpace", (2, 8, 2, 3), blocksize=2)
    yield single("DepthToSpace", (2, 8, 2, 3), blocksize=2, mode="CRD")
    yield single("SpaceToDepth", (2, 2, 4, 6), blocksize=2)
    parts = {"a": (2, 3), "b": (2, 1), "c": (2, 2)}
    yield Case("Concat", [node("Concat", ["a", "b", "c"], ["y"], axis=-1)], parts)
    yield Case("Concat of one", [node("Concat", ["a"], ["y"], axis=0)], {"a": (2, 3)})
    split = node("Split", ["x", "s"], ["p", "q", "r"], axis=1)
    joined = [split, node("Mul", ["p", "r"], ["y"])]
    yield Case("Split with an unused part", joined, {"x": (2, 7)}, {"s": ints(3, 1, 3)})
    equal = [node("Split", ["x"], ["p", "q"], axis=0, num_outputs=2), node("Mul", ["p", "q"], ["y"])]
    yield Case("Split in equal parts", equal, {"x": (4, 3)})


def slices() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    for index in range(16):
        shape = tuple(int(extent) for extent in rng.integers(4, 9, 3))
        axes = sorted(rng.choice(3, size=int(rng.integers(1, 4)), replace=False).tolist())
        steps = [int(rng.choice([1, 1, 2, 3, -1, -2])) for _ in axes]
        starts, ends = [], []
        for axis, step in zip(axes, steps, strict=True):
            low, high = sorted(int(value) for value in rng.choice(shape[axis], size=2, replace=False))
            starts.append(low if step > 0 else high)
            ends.append(high + 1 if step > 0 else (low - 1 if low else -shape[axis] - 1))
        signed = [
            start - shape[axis] if rng.random() < 0.3 else start
            for start, axis in zip(starts, axes, strict=True)
        ]
        constants = {"s": ints(*signed), "e": ints(*ends), "a": ints(*axes), "p": ints(*steps)}
        made = node("Slice", ["x", "s", "e", "a", "p"], ["y"])
        yield Case(f"Slice {index} {shape} {axes} {steps}", [made], {"x": shape}, constants)
    far = {"s": ints(1), "e": ints(2**62)}
    yield Case("Slice to the end", [node("Slice", ["x", "s", "e"], ["y"])], {"x": (4, 3)}, far)


def cut_and_padded(feeds: Arrays) -> np.ndarray:
    return np.pad(feeds["x"][:, 1:, :-2], [(0, 0), (0, 1), (2, 0)])


def pads() -> Iterator[Case]:
    x = {"x": (2, 4, 5)}
    for mode in ("constant", "reflect", "edge", "wrap"):
        made = node("Pad", ["x", "p"], ["y"], mode=mode)
        yield Case(f"Pad {mode}", [made], x, {"p": ints(0, 2, 1, 1, 0, 3)}, opset=19)
    axes = {"p": ints(1, 2), "a": ints(-1)}
    yield Case("Pad of an axis", [node("Pad", ["x", "p", "", "a"], ["y"])], x, axes)
    negative = {"p": ints(0, -1, 2, 0, 1, -2)}
    made = node("Pad", ["x", "p"], ["y"])
    yield Case("Pad with negative pads", [made], x, negative, exact=False, forward=cut_and_padded)


def lookups() -> Iterator[Case]:
    for axis in (0, 1, -1):
        for indices in (np.array(2), np.array([[1, -1], [0, 1]])):
            made = node("Gather", ["x", "i"], ["y"], axis=axis)
            yield Case(f"Gather {axis} {indices.shape}", [made], {"x": (4, 3, 5)}, {"i": indices})
    computed = [node("Abs", ["i"], ["j"]), node("Gather", ["x", "j"], ["y"])]
    yield Case("Gather by int32", computed, {"x": (4, 3)}, {"i": np.array([-1, 2, 2], np.int32)})
    elements = {"i": np.array([[0, 1, 1], [2, 0, 2]])}
    yield Case("GatherElements", [node("GatherElements", ["x", "i"], ["y"], axis=0)], {"x": (3, 3)}, elements)
    yield Case(
        "GatherND",
        [node("GatherND", ["x", "i"], ["y"])],
        {"x": (3, 2, 2)},
        {"i": np.array([[0, 1], [2, 0], [0, 1]])},
    )
    for reduction in ("none", "add"):
        made = node("ScatterND", ["x", "i", "u"], ["y"], reduction=reduction)
        shapes, places = {"x": (4, 3), "u": (2, 3)}, {"i": np.array([[2], [0]])}
        yield Case(f"ScatterND {reduction}", [made], shapes, places)
        made = node("ScatterElements", ["x", "i", "u"], ["y"], axis=1, reduction=reduction)
        shapes, places = {"x": (2, 4), "u": (2, 2)}, {"i": np.array([[2, 0], [1, 3]])}
        yield Case(f"ScatterElements {reduction}", [made], shapes, places)
    top = node("TopK", ["x", "k"], ["y", ""], axis=1)
    yield Case("TopK", [top], {"x": (3, 5)}, {"k": ints(2)}, "spread", exact=False)
    for upper in (0, 1):
        yield single("Trilu", (2, 3, 4), upper=upper)
    yield Case("Trilu with an offset", [node("Trilu", ["x", "k"], ["y"])], {"x": (4, 4)}, {"k": np.array(1)})


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in (*shaped(), *slices(), *pads(), *lookups())]
)
def test_gradient_is_the_slope(case: Case) -> None:
    check(case)


PLACES = {"i": np.array([[0], [1]])}


@pytest.mark.parametrize(
    ("made", "shapes", "constants", "why"),
    [
        (node("Pad", ["x", "p"], ["y"], mode="wrap"), {"x": (2,)}, {"p": ints(3, 0)}, "longer than the data"),
        (node("GatherND", ["x", "i"], ["y"], batch_dims=1), {"x": (2, 3)}, PLACES, "batch_dims"),
        (node("ScatterND", ["x", "i", "u"], ["y"], reduction="mul"), {"x": (3,), "u": (2,)}, PLACES, "mul"),
        (node("Einsum", ["x"], ["y"], equation="ii->i"), {"x": (3, 3)}, {}, "a diagonal"),
        (node("Det", ["x"], ["y"]), {"x": (3, 3)}, {}, "no gradient rule for Det"),
    ],
)
def test_what_has_no_gradient_is_named(made: Any, shapes: Any, constants: Any, why: str) -> None:
    made.name = "here"
    with pytest.raises(NoGradient, match=f"node here: .*{why}"):
        check(Case("none", [made], shapes, constants, opset=19, exact=False))
