"""Equal constants are stored once, wherever they lie; what must stay as it is stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import pytest

from onnx_admm.api import compress
from onnx_admm.contracts import PassContext
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.share_constants import ShareConstants
from onnx_admm.runtime.sessions import open_session

FLOAT = onnx.TensorProto.FLOAT
RNG = np.random.default_rng(0)
MATRIX: npt.NDArray[np.float32] = RNG.normal(0, 0.2, (32, 48)).astype(np.float32)
HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
TWO = HEAD + "(float[N,32] x) => (float[N,48] y) { a = MatMul (x, w) b = MatMul (x, v) y = Add (a, b) }"
TURNED = HEAD + "(float[N,32] x) => (float[N,32] y) { a = MatMul (x, w) y = MatMul (a, v) }"


def branches(*, as_nodes: bool) -> ModelView:
    def branch(op: str) -> onnx.GraphProto:
        nodes = [
            oh.make_node("MatMul", ["x", f"{op}_w"], [f"{op}_y"]),
            oh.make_node(op, [f"{op}_y"], [f"{op}_z"]),
        ]
        tensor = nh.from_array(MATRIX, f"{op}_w")
        if as_nodes:
            nodes.insert(0, oh.make_node("Constant", [], [f"{op}_w"], value=tensor))
        output = oh.make_tensor_value_info(f"{op}_z", FLOAT, None)
        return oh.make_graph(nodes, op, [], [output], [] if as_nodes else [tensor])

    node = oh.make_node("If", ["flag"], ["y"], then_branch=branch("Relu"), else_branch=branch("Tanh"))
    inputs = [
        oh.make_tensor_value_info("x", FLOAT, ["N", 32]),
        oh.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []),
    ]
    graph = oh.make_graph([node], "g", inputs, [oh.make_tensor_value_info("y", FLOAT, ["N", 48])])
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    return ModelView.from_bytes(proto.SerializeToString())


def shared(model: ModelView) -> tuple[ModelView, dict[str, str]]:
    """The model with constants shared, checked to compute the same."""
    after = model.fork()
    report = ShareConstants().run(after, PassContext(reference=model))
    feeds: dict[str, npt.NDArray[np.generic]] = {"x": RNG.normal(size=(3, 32)).astype(np.float32)}
    for flag in (True, False):
        given = feeds | ({"flag": np.array(flag)} if len(model.signature().inputs) == 2 else {})
        expected, got = (open_session(each).run(given) for each in (model, after))
        assert expected.keys() == got.keys()
        for name in expected:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)
    return after, {edit.layer: edit.what for edit in report.edits}


@pytest.mark.parametrize("as_nodes", [True, False])
def test_branches_share_their_weights(as_nodes: bool) -> None:
    model = branches(as_nodes=as_nodes)
    after, edits = shared(model)
    assert len(edits) == 1
    assert len(after.to_bytes()) < len(model.to_bytes()) - MATRIX.nbytes + 100
    (site,) = after.sites()
    assert len(site.users) == 2
    assert shared(after)[1] == {}


def test_equal_and_transposed_constants_are_one() -> None:
    after, edits = shared(parse_text(TWO, constants={"w": MATRIX, "v": MATRIX.copy()}))
    assert edits == {"v": "equal to w, stored once"}
    after, edits = shared(parse_text(TURNED, constants={"w": MATRIX, "v": MATRIX.T.copy()}))
    assert edits == {"v": "the transpose of w, stored once"}
    (site,) = after.sites()
    assert (site.name, len(site.users)) == ("w", 2)


def test_what_differs_or_belongs_to_the_contract_stays() -> None:
    other = MATRIX.copy()
    other[3, 5] = np.nextafter(other[3, 5], np.float32(1))
    assert shared(parse_text(TWO, constants={"w": MATRIX, "v": other}))[1] == {}
    as_output = TWO.replace("=> (float[N,48] y)", "=> (float[N,48] y, float[32,48] v)")
    assert shared(parse_text(as_output, constants={"w": MATRIX, "v": MATRIX.copy()}))[1] == {}
    vectors = HEAD + "(float[N,32] x) => (float[N,32] y) { a = Add (x, b) y = Add (a, c) }"
    same = np.ones(32, np.float32)
    assert shared(parse_text(vectors, constants={"b": same, "c": same.copy()}))[1] == {}


def test_an_untied_copy_of_a_table_takes_no_bytes(tmp_path: Path) -> None:
    text = HEAD + "(int64[N,4] x) => (float[N,4,64] y) { h = Gather (table, x) y = MatMul (h, head) }"
    table = RNG.normal(0, 0.3, (64, 32)).astype(np.float32)
    model = parse_text(text, constants={"table": table, "head": table.T.copy()})
    model.save(tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    assert report.comparison.after.parameters == table.size
    assert report.comparison.after.file_bytes < table.size + 1500


def test_a_lifted_constant_hides_no_value_of_another_branch() -> None:
    """Branches may use one name for different constants: what moves out of one must not take it."""
    other = RNG.normal(0, 0.2, (32, 48)).astype(np.float32)

    def chosen(number: int, arrays: tuple[npt.NDArray[np.float32], ...]) -> onnx.NodeProto:
        graphs = []
        for side, array in zip(("then_branch", "else_branch"), arrays, strict=True):
            result = f"{side}_{number}"
            nodes = [oh.make_node("MatMul", ["x", "w"], [result])]
            output = oh.make_tensor_value_info(result, FLOAT, None)
            graphs.append(oh.make_graph(nodes, side, [], [output], [nh.from_array(array, "w")]))
        return oh.make_node("If", ["flag"], [f"y{number}"], then_branch=graphs[0], else_branch=graphs[1])

    nodes = [
        chosen(1, (MATRIX, MATRIX)),
        chosen(2, (other, MATRIX)),
        oh.make_node("Add", ["y1", "y2"], ["y"]),
    ]
    inputs = [
        oh.make_tensor_value_info("x", FLOAT, ["N", 32]),
        oh.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []),
    ]
    graph = oh.make_graph(nodes, "g", inputs, [oh.make_tensor_value_info("y", FLOAT, ["N", 48])])
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    after, edits = shared(ModelView.from_bytes(proto.SerializeToString()))
    assert len(edits) >= 1
    written = onnx.ModelProto.FromString(after.to_bytes())
    outer = {tensor.name for tensor in written.graph.initializer}
    inner = {t.name for n in written.graph.node for a in n.attribute for t in a.g.initializer}
    assert outer
    assert inner == {"w"}
    assert not outer & inner
