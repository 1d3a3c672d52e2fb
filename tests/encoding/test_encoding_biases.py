"""Which constants are rounded as biases, and that none of them wrecks another."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.encoding.biases import layer_biases, round_biases
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime.sessions import open_session

HEADER = '<ir_version: 10, opset_import: ["" : 17]>'


def f32(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


# input, body, constants; names that are biases
ADDED = {
    "a convolution's own": ("float[1,2,4] x", "y = Conv (x, w, b)", {"w": (3, 2, 1), "b": (3,)}, {"b"}),
    "a Gemm's row": ("float[5,2] x", "y = Gemm (x, w, b)", {"w": (2, 3), "b": (1, 3)}, {"b"}),
    "a Gemm's column": ("float[3,2] x", "y = Gemm (x, w, b)", {"w": (2, 3), "b": (3, 1)}, set()),
    "a Gemm's scalar": ("float[3,2] x", "y = Gemm (x, w, b)", {"w": (2, 3), "b": ()}, set()),
    "behind MatMul": ("float[5,2] x", "t = MatMul (x, w) y = Add (t, b)", {"w": (2, 3), "b": (3,)}, {"b"}),
    "before, behind MatMul": (
        "float[5,2] x",
        "t = MatMul (x, w) y = Add (b, t)",
        {"w": (2, 3), "b": (1, 1, 3)},
        {"b"},
    ),
    "behind a convolution": (
        "float[1,2,4,4] x",
        "t = Conv (x, w) y = Add (t, b)",
        {"w": (4, 2, 1, 1), "b": (4, 1, 1)},
        {"b"},
    ),
    "along the width of an image": (
        "float[1,2,4,4] x",
        "t = Conv (x, w) y = Add (t, b)",
        {"w": (4, 2, 1, 1), "b": (4,)},
        set(),
    ),
    "a table behind MatMul": (
        "float[5,2] x",
        "t = MatMul (x, w) y = Add (t, b)",
        {"w": (2, 3), "b": (5, 3)},
        set(),
    ),
    "a mask behind a product of computed values": (
        "float[3,2] x",
        "q = Transpose (x) t = MatMul (x, q) y = Add (t, b)",
        {"b": (3,)},
        set(),
    ),
    "behind no layer": ("float[5,3] x", "t = Relu (x) y = Add (t, b)", {"b": (3,)}, set()),
    "read by something else too": (
        "float[5,2] x",
        "t = Gemm (x, w, b) y = Mul (t, b)",
        {"w": (2, 3), "b": (3,)},
        set(),
    ),
    "transposed convolution in groups": (
        "float[1,4,4] x",
        "y = ConvTranspose <group = 2> (x, w, b)",
        {"w": (4, 3, 2), "b": (6,)},
        {"b"},
    ),
}


@pytest.mark.parametrize("case", ADDED)
def test_a_bias_is_one_number_for_each_channel_right_behind_a_layer(case: str) -> None:
    given, body, constants, expected = ADDED[case]
    arrays = {name: f32(*shape) for name, shape in constants.items()}
    view = parse_text(f"{HEADER} g ({given}) => (float y) {{ {body} }}", constants=arrays)
    assert layer_biases(view) == expected


def rounded(values: list[np.ndarray], stored: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What is rounded, and why the rest is not, by number."""
    biases = [Weight(str(number), np.asarray(array, np.float32)) for number, array in enumerate(values)]
    result = round_biases(biases, stored)  # type: ignore[arg-type]
    assert {bias.name for bias in result.left} == {skip.layer for skip in result.skipped}
    return {bias.name: bias.flat for bias in result.rounded}, {s.layer: s.why for s in result.skipped}


def test_one_bias_of_large_numbers_does_not_wreck_the_others() -> None:
    values = [f32(64), f32(32, seed=1), np.full(10, -1e9)]
    kept, left = rounded(values, "int8")
    assert set(kept) == {"0", "1"}
    assert "more than 10%" in left["2"]
    scale = max(np.abs(values[0]).max(), np.abs(values[1]).max()) / 127
    for name, array in kept.items():
        np.testing.assert_allclose(array, values[int(name)], atol=0.501 * scale)


def test_a_single_large_number_leaves_its_own_bias_alone() -> None:
    values = [np.append(f32(63), np.float32(-1e4)), f32(32, seed=1)]
    kept, left = rounded(values, "int8")
    assert (set(kept), set(left)) == ({"1"}, {"0"})


def test_small_numbers_are_not_rounded_to_zero() -> None:
    kept, left = rounded([f32(64), f32(16, seed=1, scale=1e-3)], "int8")
    assert (set(kept), set(left)) == ({"0"}, {"1"})
    kept, left = rounded([f32(64), f32(16, seed=1, scale=1e-5)], "float8")  # below its smallest step
    assert (set(kept), set(left)) == ({"0"}, {"1"})


def test_what_a_type_cannot_hold_is_left() -> None:
    for stored in ("int8", "float8", "float16"):
        kept, left = rounded([f32(8), np.array([np.inf, 1]), np.array([np.nan])], stored)
        assert (set(kept), set(left)) == ({"0"}, {"1", "2"})
    assert set(rounded([f32(8), np.array([1e5])], "float16")[1]) == {"1"}
    assert rounded([np.zeros(4), f32(8)], "int8")[1] == {}


def attention() -> ModelView:
    """A projection with a bias, a score matrix with a mask of -1e9, another projection with a bias."""
    w = np.round(f32(16, 16) * 2).clip(-3, 3)
    constants = {"w": w, "v": w.T.copy(), "b": f32(16, seed=2), "c": f32(16, seed=3)}
    constants["mask"] = np.triu(np.full((12, 12), -1e9, np.float32), 1)
    text = f"""{HEADER} g (float[12,16] x) => (float[12,16] y)
        {{
            t = MatMul (x, w) q = Add (t, b) k = Transpose (q) s = MatMul (q, k) m = Add (s, mask)
            p = Softmax (m) o = MatMul (p, q) u = MatMul (o, v) y = Add (u, c)
        }}"""
    return parse_text(text, constants=constants)


def encode(view: ModelView, **settings: object) -> tuple[ModelView, PassReport]:
    fork = view.fork()
    step = Encode(format="packed", **settings)  # type: ignore[arg-type]
    return fork, step.run(fork, PassContext(reference=view))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_mask_is_no_bias_and_the_biases_survive(bits: int) -> None:
    view = attention()
    small, report = encode(view, bias_bits=bits)
    codings = {row["layer"]: row["coding"] for row in report.figures["biases"]}
    assert codings["b"] == codings["c"] == ("pooled int8" if bits == 8 else "pooled float16")
    feeds = {"x": f32(12, 16, seed=5, scale=0.1)}
    before, after = (open_session(model, threads=1).run(feeds)["y"] for model in (view, small))
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()


def test_encode_is_exact_unless_it_rounds_biases() -> None:
    assert Encode().exact
    assert not Encode(bias_bits=8).exact
