"""Residual blocks are found in graphs of several kinds, and what cannot go has a reason."""

from __future__ import annotations

import pytest

from onnx_admm.model.analysis.text import parse_text
from onnx_admm.removal.residual_blocks import ResidualBlock, residual_blocks

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'

IDENTITY = f"""{HEAD}
    g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[4] b2>
    {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        s = Add (c, x)
        y = Relu (s)
    }}
"""

PROJECTION = f"""{HEAD}
    g (float[N,4,8,8] x) => (float[N,6,4,4] y)
    <float[6,4,3,3] w1, float[6,6,3,3] w2, float[6,4,1,1] w3>
    {{
        a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2)
        p = Conv <strides = [2, 2]> (x, w3)
        s = Add (p, c)
        y = Relu (s)
    }}
"""

TRANSFORMER = f"""{HEAD}
    g (float[N,5,8] x, float[N,5,1] mask) => (float[N,5,8] y)
    <float[8] g1, float[8] g2, float[8,8] wq, float[8,8] wo, float[8,16] w1, float[16] b1, float[16,8] w2>
    {{
        n = LayerNormalization (x, g1)
        q = MatMul (n, wq)
        m = Mul (q, mask)
        o = MatMul (m, wo)
        s = Add (x, o)
        k = LayerNormalization (s, g2)
        u = MatMul (k, w1)
        v = Add (u, b1)
        r = Relu (v)
        t = MatMul (r, w2)
        y = Add (t, s)
    }}
"""


def blocks_of(text: str) -> tuple[ResidualBlock, ...]:
    return residual_blocks(parse_text(text))[0]


def test_an_identity_block_has_its_entry_for_a_shortcut() -> None:
    (block,) = blocks_of(IDENTITY)
    assert (block.name, block.entry.name, block.branch.name, block.output.name) == ("s", "x", "c", "s")
    assert block.is_identity
    assert block.layers == ("w1", "w2")
    assert [node.op_type for node in block.nodes] == ["Conv", "Relu", "Conv"]


def test_a_projection_block_has_the_operand_with_one_layer_for_a_shortcut() -> None:
    (block,) = blocks_of(PROJECTION)
    assert (block.entry.name, block.branch.name, block.shortcut.name) == ("x", "c", "p")
    assert not block.is_identity
    assert block.layers == ("w1", "w2", "w3")


def test_sublayers_of_a_transformer_are_blocks_with_inputs_beside() -> None:
    first, second = blocks_of(TRANSFORMER)
    assert (first.entry.name, first.layers) == ("x", ("wq", "wo"))
    assert (second.entry.name, second.layers) == ("s", ("w1", "w2"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("=> (float[N,4,8,8] y)", "=> (float[N,4,8,8] y, float[N,4,8,8] r)"), "is an output of the model"),
        (("y = Relu (s)", "z = Relu (r)\n y = Mul (z, s)"), "r, a value inside it, is read elsewhere too"),
    ],
)
def test_a_branch_that_is_read_elsewhere_stays(change: tuple[str, str], sentence: str) -> None:
    found, left = residual_blocks(parse_text(IDENTITY.replace(*change)))
    assert found == ()
    assert sentence in left["s"]


def test_two_long_branches_are_no_shortcut() -> None:
    text = PROJECTION.replace("(x, w3)", "(x, w3)\n e = Conv (p, w4)").replace("Add (p, c)", "Add (e, c)")
    found, left = residual_blocks(parse_text(text.replace("w3>", "w3, float[6,6,1,1] w4>")))
    assert found == ()
    assert "both have several layers" in left["s"]


def test_a_block_with_several_inputs_is_no_projection() -> None:
    text = PROJECTION.replace("x) =>", "x, float[N,6,4,4] z) =>")
    text = text.replace("r = Relu (a)", "r = Mul (a, z)")
    found, left = residual_blocks(parse_text(text))
    assert found == ()
    assert "several inputs: x and z" in left["s"]


@pytest.mark.parametrize("sum_", ["s = Add (x, x)", "s = Add (x, z)", "r = Relu (x)\n s = Add (x, r)"])
def test_sums_without_layers_between_are_no_blocks(sum_: str) -> None:
    text = f"{HEAD} g (float[N,4] x, float[N,4] z) => (float[N,4] s) {{ {sum_} }}"
    assert residual_blocks(parse_text(text)) == ((), {})
