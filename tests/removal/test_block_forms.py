"""A block's linear forms read the places that its branch reads, and replace it without other changes."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.calibration.stream import Calibration
from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.removal.block_forms import BlockForm, forms_of, put_form
from onnx_admm.removal.residual_blocks import ResidualBlock, residual_blocks
from onnx_admm.runtime.sessions import open_session

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'

CAUSAL = f"""{HEAD}
    g (float[N,4,12] x) => (float[N,4,12] y) <float[4,4,3] w1, float[4,4,1] w2>
    {{
        a = Conv <dilations = [2], pads = [4, 0]> (x, w1)
        r = Relu (a)
        c = Conv (r, w2)
        y = Add (x, c)
    }}
"""

STRIDED = f"""{HEAD}
    g (float[N,2,9,9] x) => (float[N,3,5,5] y) <float[2,2,3,3] w1, float[3,2,3,3] w2, float[3,2,1,1] w3>
    {{
        a = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2)
        p = Conv <strides = [2, 2]> (x, w3)
        y = Add (c, p)
    }}
"""

POOLED = f"""{HEAD}
    g (float[N,2,8,8] x) => (float[N,3,4,4] y) <float[3,2,3,3] w1, float[3,2,1,1] w3>
    {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
        q = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)
        p = Conv (q, w3)
        y = Add (m, p)
    }}
""".replace("w1, float[3,2,1,1]", "w1, float[3,3,3,3] w2, float[3,2,1,1]")


def forms(
    text: str, kinds: tuple[str, ...] = ("dropped", "merged")
) -> tuple[ModelView, ResidualBlock, list[BlockForm], str | None]:
    view = parse_text(text)
    (port,) = view.signature().inputs
    shape = [4, *(extent for extent in (port.shape or ())[1:] if isinstance(extent, int))]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (block,) = residual_blocks(view)[0]
    names = [block.entry.name, block.shortcut.name, block.output.name]
    values = Calibration(view, from_arrays({port.name: x}), threads=1).first_values(names)
    return view, block, *forms_of(block, values, kinds)  # type: ignore[arg-type]


def test_a_dilated_convolution_keeps_its_dilation_and_the_identity_is_at_its_last_place() -> None:
    _, _, (dropped, wide, narrow), why = forms(CAUSAL)
    assert why is None
    assert (dropped.op_type, dropped.weights) == ("Identity", None)
    assert wide.attributes == {"kernel_shape": (3,), "strides": (1,), "dilations": (2,), "pads": (4, 0)}
    assert wide.weights is not None
    assert np.array_equal(wide.weights[:, :, 2], np.eye(4))
    assert not wide.weights[:, :, :2].any()
    assert (narrow.attributes["kernel_shape"], narrow.attributes["pads"]) == ((1,), (0, 0))


def test_pads_follow_auto_pad_for_the_extents_at_hand() -> None:
    _, _, (dropped, wide, _), _ = forms(STRIDED)
    assert (dropped.kind, dropped.attributes["strides"], dropped.attributes["pads"]) == (
        "dropped", (2, 2), (0, 0, 0, 0),
    )  # fmt: skip
    assert wide.attributes["pads"] == (1, 1, 1, 1)  # nine places: one zero on either side
    assert wide.attributes["strides"] == (2, 2)


def test_pads_behind_a_stride_count_by_the_stride() -> None:
    text = STRIDED.replace("[2,2,3,3] w1", "[2,2,5,5] w1").replace("[1, 1, 1, 1]", "[0, 0, 2, 2]")
    _, _, (_, wide, *_), _ = forms(text)
    assert wide.attributes["kernel_shape"] == (5, 5)
    assert wide.attributes["pads"] == (0, 0, 4, 4)


def test_windows_of_pools_count() -> None:
    _, _, (dropped, wide, *_), _ = forms(POOLED)
    assert dropped.attributes == {
        "kernel_shape": (2, 2), "strides": (2, 2), "dilations": (1, 1), "pads": (0, 0, 0, 0),
    }  # fmt: skip
    assert wide.attributes["pads"] == (0, 0, 1, 1)
    assert wide.attributes["strides"] == (2, 2)


@pytest.mark.parametrize("text", [CAUSAL, STRIDED, POOLED])
def test_every_form_is_a_model_with_the_same_output_shape(text: str) -> None:
    view, block, found, _ = forms(text)
    (port,) = view.signature().inputs
    shape = [2, *(extent for extent in (port.shape or ())[1:] if isinstance(extent, int))]
    feeds = {port.name: np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    expected = open_session(view, threads=1).run(feeds)["y"]
    for form in found:
        fork = view.fork()
        name = put_form(fork, block, form)
        got = open_session(fork, threads=1).run(feeds)["y"]
        assert got.shape == expected.shape
        assert fork.signature() == view.signature()
        assert (name is None) == (form.weights is None)
        if block.is_identity:  # before they are fitted, all forms are the entry
            assert np.allclose(got, feeds["x"])


def test_a_branch_without_convolution_or_product_is_not_merged() -> None:
    text = f"""{HEAD} g (float[N,5,4] x) => (float[N,5,4] y) <float[1,16,4] w, float[1,16,4] r>
        {{ t = Transpose <perm = [1, 0, 2]> (x)
           a, h, c = LSTM <hidden_size = 4> (t, w, r)
           s = Squeeze (a, axis)
           b = Transpose <perm = [1, 0, 2]> (s)
           y = Add (x, b) }}""".replace("r>", "r, int64[1] axis = {1}>")
    _, _, found, why = forms(text)
    assert [form.kind for form in found] == ["dropped"]
    assert why == "its branch has no convolution or product"
