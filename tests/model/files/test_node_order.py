"""Models whose nodes stand in no topological order load, and compute the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CONV_NET

from onnx_admm.contracts import ModelView
from onnx_admm.errors import ModelError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.files.node_order import sort_nodes
from onnx_admm.runtime.sessions import open_session

NESTED = """
<ir_version: 10, opset_import: ["" : 17]>
nested (float[N,4] x, bool turned) => (float[N,4] y)
{
    b = Relu (a)
    a = Neg (x)
    [choice] y = If (turned) <
        then_branch = one () => (float[N,4] t) { t = Neg (u)  u = Add (b, b) },
        else_branch = two () => (float[N,4] e) { e = Identity (late) }
    >
    late = Abs (b)
}
"""


def shuffled(text: str, seed: int) -> onnx.ModelProto:
    proto = onnx.load_from_string(parse_text(text).to_bytes())
    order = np.random.default_rng(seed).permutation(len(proto.graph.node))
    nodes = [onnx.NodeProto.FromString(proto.graph.node[i].SerializeToString()) for i in order]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_model_loads_and_computes_the_same(tmp_path: Path, seed: int) -> None:
    proto = shuffled(CONV_NET, seed)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    view = ModelView.load(tmp_path / "net.onnx")
    onnx.checker.check_model(onnx.load_from_string(view.to_bytes()))
    x = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    expected = open_session(tmp_path / "net.onnx", threads=1, optimize=False).run({"x": x})["scores"]
    np.testing.assert_array_equal(
        open_session(view, threads=1, optimize=False).run({"x": x})["scores"], expected
    )


def test_order_inside_subgraphs_and_what_they_read_from_outside() -> None:
    proto = onnx.parser.parse_model(NESTED)
    assert sort_nodes(proto)
    assert [node.op_type for node in proto.graph.node] == ["Neg", "Relu", "Abs", "If"]
    onnx.checker.check_model(proto)
    before = proto.SerializeToString()
    assert not sort_nodes(proto)
    assert proto.SerializeToString() == before


def test_a_cycle_is_left_to_the_checker() -> None:
    proto = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    round (float[N] x) => (float[N] y) { y = Add (x, z)  z = Neg (y) }""")
    assert not sort_nodes(proto)
    with pytest.raises(ModelError, match="topologically sorted"):
        ModelView.from_bytes(proto.SerializeToString())


def test_long_chains_are_sorted_in_one_sweep() -> None:
    names = [f"v{i}" for i in range(20_001)]
    nodes = [onnx.helper.make_node("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    graph = onnx.helper.make_graph(nodes[::-1], "g", [], [])
    proto = onnx.helper.make_model(graph)
    assert sort_nodes(proto)
    assert proto.graph.node[0].input == ["v0"]
    assert proto.graph.node[-1].output == ["v20000"]
