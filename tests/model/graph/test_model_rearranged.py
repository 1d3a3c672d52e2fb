"""Stored weights that operators only rearrange before they are used."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.sessions import open_session

GATES = """
    <ir_version: 10, opset_import: ["" : 17]>
    recurrent (float[T,1,3] x) => (float[T,1,1,2] y, float[T,1,1,2] z)
    <
        float[8,3] w, float[8,2] r,
        int64[1] zero = {0}, int64[1] two = {2}, int64[1] six = {6}, int64[1] end = {8}
    >
    {
        first = Slice (w, zero, two, zero)
        last = Slice (w, six, end, zero)
        middle = Slice (w, two, six, zero)
        turned = Concat <axis = 0> (first, last, middle)
        wu = Unsqueeze (turned, zero)
        ru = Unsqueeze (r, zero)
        y = LSTM <hidden_size = 2> (x, wu, ru)
        z = LSTM <hidden_size = 2> (x, wu, ru)
    }
"""


def test_a_rearranged_weight_is_its_stored_matrix() -> None:
    model = parse_text(GATES)
    site, other = model.sites()
    assert (site.name, site.op_type, site.shape, site.editable) == ("w", "LSTM", (8, 3), True)
    assert site.out_axis is None
    assert len(site.users) == 2
    assert other.name == "r"


def test_new_values_go_the_same_way() -> None:
    model = parse_text(GATES)
    x = np.random.default_rng(0).normal(size=(4, 1, 3)).astype(np.float32)
    before = open_session(model, threads=1).run({"x": x})["y"]
    model.replace("w", np.zeros((8, 3), np.float32))
    after = open_session(model, threads=1).run({"x": x})["y"]
    assert not np.allclose(before, after)
    assert not after.any()  # without input, an LSTM at rest stays there


@pytest.mark.parametrize(
    "instead",
    [
        "twice = Concat <axis = 0> (turned, turned) wu = Unsqueeze (twice, zero)",
        "double = Add (turned, turned) wu = Unsqueeze (double, zero)",
    ],
)
def test_what_does_more_than_rearrange_is_no_stored_weight(instead: str) -> None:
    model = parse_text(GATES.replace("wu = Unsqueeze (turned, zero)", instead))
    site = model.sites()[0]
    assert not site.editable
    assert site.name == "wu"
