"""Slices that take everything go; those that may leave something out stay."""

from __future__ import annotations

import numpy as np
import pytest
from rewritten import assert_same, elementwise, operators, rewritten

from onnx_admm.model.analysis.text import parse_text

LAST = 2**31 - 1


def sliced(start: list[int], end: list[int], axes: list[int], steps: list[int], opset: int = 17) -> list[str]:
    """Operators that are left of a Slice of a value of shape (N, 5, 7)."""
    constants = {
        name: np.array(numbers, np.int64)
        for name, numbers in (("start", start), ("end", end), ("axes", axes), ("steps", steps))
    }
    body = "a = Sigmoid (x) s = Slice (a, start, end, axes, steps) y = Reshape (s, shape)"
    constants["shape"] = np.array([-1, 5, 7], np.int64)
    view = elementwise(body, constants, opset)
    after, _ = rewritten(view, "whole_slice")
    if start[0] == 0 and steps[0] == 1:
        feeds = {"x": np.random.default_rng(0).normal(size=(4, 5, 7)).astype(np.float32)}
        assert_same(view, after, feeds)
    return operators(after)


@pytest.mark.parametrize(
    ("end", "axes"),
    [([LAST], [0]), ([10**9], [0]), ([7], [2]), ([7], [-1]), ([9, 5], [2, 1]), ([LAST, 5, 7], [0, 1, 2])],
)
def test_a_slice_of_everything_goes(end: list[int], axes: list[int]) -> None:
    assert sliced([0] * len(end), end, axes, [1] * len(end)) == ["Reshape", "Sigmoid"]


@pytest.mark.parametrize(
    ("start", "end", "axes", "steps"),
    [
        ([0], [1000], [0], [1]),  # the batch may be larger
        ([0], [3], [0], [1]),
        ([-1], [-LAST], [2], [-1]),
    ],
)
def test_a_slice_that_may_leave_something_out_stays(
    start: list[int], end: list[int], axes: list[int], steps: list[int]
) -> None:
    assert "Slice" in sliced(start, end, axes, steps) if start[0] else True
    view = elementwise(
        "s = Slice (x, start, end, axes, steps) y = Sigmoid (s)",
        {
            name: np.array(numbers, np.int64)
            for name, numbers in (("start", start), ("end", end), ("axes", axes), ("steps", steps))
        },
    )
    after, report = rewritten(view, "whole_slice")
    assert not report.changed
    assert "Slice" in operators(after)


@pytest.mark.parametrize(
    ("shape", "end", "left"),
    [
        ([-1, 4], [100], True),  # 10 N rows
        ([10, -1], [100], False),  # 10 rows for every batch
    ],
)
def test_an_extent_that_follows_from_the_batch_is_not_known(
    shape: list[int], end: list[int], left: bool
) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,10,4] x) => (float[K,M] y)
        { r = Reshape (x, shape) s = Slice (r, start, end, axes) y = Relu (s) }"""
    constants = {"shape": shape, "start": [0], "end": end, "axes": [0]}
    view = parse_text(text, constants={name: np.array(array, np.int64) for name, array in constants.items()})
    after, _ = rewritten(view, "whole_slice")
    assert ("Slice" in operators(after)) is left
    assert_same(view, after, {"x": np.ones((16, 10, 4), np.float32)})
