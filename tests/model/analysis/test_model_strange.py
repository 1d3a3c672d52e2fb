"""Weights of integer operators and of other domains are recognised, left alone and named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.analysis.unsupported_weights import unsupported_weights
from onnx_admm.passes.auto_quantize import AutoQuantize

INTEGER = """
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[N,16] x) => (float[N,8] y) <uint8[16,16] q, uint8 z = {128}, float[16,8] w>
    {
        a, s, p = DynamicQuantizeLinear (x)
        m = MatMulInteger (a, q, p, z)
        f = Cast <to = 1> (m)
        h = Mul (f, s)
        y = MatMul (h, w)
    }"""

FOREIGN = """
    <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,16] x) => (float[N,8] y) <float[16,16] v, float[16,8] w>
    {
        h = com.microsoft.CDist <metric = "euclidean"> (x, v)
        y = MatMul (h, w)
    }"""


def integer_model(text: str = INTEGER) -> ModelView:
    return parse_text(text.replace("q,", f"q = {{{', '.join(str(i * 37 % 256) for i in range(256))}}},", 1))


def test_constants_of_integer_operators_stay_and_other_weights_are_worked_on() -> None:
    model = integer_model()
    (found,) = unsupported_weights(model)
    assert (found.name, found.operator, found.is_integer) == ("q", "MatMulInteger", True)
    report = AutoQuantize().run(model, PassContext(reference=model.fork()))
    assert {skip.layer: skip.why for skip in report.skipped} == {
        "q": "integers already, read by MatMulInteger"
    }
    assert [edit.layer for edit in report.edits] == ["w"]


def test_what_other_domains_read_is_left_and_named() -> None:
    model = parse_text(FOREIGN)
    report = AutoQuantize().run(after := model.fork(), PassContext(reference=model))
    assert [edit.layer for edit in report.edits] == ["w"]
    assert {skip.layer: skip.why for skip in report.skipped} == {
        "v": "read by com.microsoft::CDist, an operator outside the standard"
    }
    assert np.array_equal(after.read("w"), model.read("w")) is False


def test_integers_alone_are_a_sentence() -> None:
    text = re.sub(r", float\[16,8\] w|y = MatMul \(h, w\)", "", INTEGER).replace("h = Mul", "y = Mul")
    model = integer_model(text.replace("float[N,8] y", "float[N,16] y"))
    with pytest.raises(PassRefused, match="that the tool knows; got q of 256 bytes: int"):
        AutoQuantize().requires(model, PassContext(reference=model))


def test_trees_are_a_sentence() -> None:
    """Their numbers are attributes."""
    count = 1000
    tree = onnx.helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        "forest",
        domain="ai.onnx.ml",
        nodes_values=[0.5] * count,
        nodes_featureids=list(range(count)),
        nodes_modes=["LEAF"] * count,
    )
    ports = [onnx.helper.make_tensor_value_info(name, 1, ["N", 4]) for name in ("x", "y")]
    opsets = [onnx.helper.make_opsetid("", 13), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([tree], "g", ports[:1], ports[1:]), opset_imports=opsets, ir_version=8
    )
    model = ModelView.from_bytes(proto.SerializeToString())
    (found,) = unsupported_weights(model)
    assert found.name == "forest"
    assert 4 * count < found.nbytes < len(proto.SerializeToString())
    assert (
        found.why_left()
        == "attributes of ai.onnx.ml::TreeEnsembleRegressor, an operator outside the standard"
    )
    with pytest.raises(PassRefused, match=r"got forest of .* bytes: attributes of ai"):
        AutoQuantize().requires(model, PassContext(reference=model))


def test_real_models_hold_none(shared: Path) -> None:
    for name in ("squeezenet_fp16", "magika_v33", "resnet8-cifar10"):
        assert unsupported_weights(ModelView.load(shared / "models" / f"{name}.onnx")) == ()
