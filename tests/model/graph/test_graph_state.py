"""Lists of sites are kept as long as the graph is the same, and no longer, whichever way it is edited."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_admm.model import ModelView
from onnx_admm.model.graph_state import GraphState
from onnx_admm.model.sites import SiteFinder

TEXT = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N,4] x, bool c) => (float[N,3] y)
{
    r = Relu (x)
    z = If (c) <then_branch = h () => (float[A,B] a) { a = MatMul (r, w) },
                else_branch = k () => (float[A,B] b) { b = Gemm (r, w) }>
    m = MatMul (x, w)
    n = Add (z, m)
    y = Identity (n)
}"""


def fresh() -> ModelView:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    return ModelView.from_bytes(proto.SerializeToString())


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each walk over a model for its weights."""
    found, original = list[None](), SiteFinder.find

    def find(self: SiteFinder, scopes: object) -> object:
        found.append(None)
        return original(self, scopes)  # type: ignore[arg-type]

    monkeypatch.setattr(SiteFinder, "find", find)
    return found


def test_a_graph_that_stays_is_looked_through_once(sweeps: list[None]) -> None:
    view = fresh()
    first = view.sites()
    assert (view.sites(), view.site("w"), view.sites()) == (first, first[0], first)
    assert len(sweeps) == 1
    view.replace("w", np.zeros((4, 3), np.float32))
    assert view.sites() == first
    assert len(sweeps) == 2


def _node(view: ModelView, op_type: str) -> ir.Node:
    return next(ref.ir_node for ref in view.nodes() if ref.ir_node.op_type == op_type)


def _rename(view: ModelView) -> None:
    view.graph_ir.graph.initializers["w"].name = "v"


def _other_tensor(view: ModelView) -> None:
    view.graph_ir.graph.initializers["w"].const_value = ir.tensor(np.ones((4, 3), np.float16), name="w")


def _other_input(view: ModelView) -> None:
    _node(view, "MatMul").replace_input_with(1, _node(view, "Relu").outputs[0])


def _other_attribute(view: ModelView) -> None:
    _node(view, "Gemm").attributes.add(ir.AttrInt64("transB", 1))


def _other_operator(view: ModelView) -> None:
    _node(view, "MatMul").op_type = "Add"


def _other_name(view: ModelView) -> None:
    _node(view, "MatMul").name = "first"


def _becomes_output(view: ModelView) -> None:
    view.graph_ir.graph.outputs.append(view.graph_ir.graph.initializers["w"])


def _becomes_input(view: ModelView) -> None:
    view.graph_ir.graph.inputs.append(view.graph_ir.graph.initializers["w"])


def _node_goes(view: ModelView) -> None:
    node = _node(view, "Identity")
    ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0], replace_graph_outputs=True)
    view.graph_ir.graph.remove(node, safe=True)


def _node_comes(view: ModelView) -> None:
    relu = _node(view, "Relu")
    view.graph_ir.graph.append(ir.node("Relu", [relu.outputs[0]]))


def _other_opset(view: ModelView) -> None:
    view.graph_ir.opset_imports[""] = 18


EDITS: list[Callable[[ModelView], None]] = [
    _rename,
    _other_tensor,
    _other_input,
    _other_attribute,
    _other_operator,
    _other_name,
    _becomes_output,
    _becomes_input,
    _node_goes,
    _node_comes,
    _other_opset,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__.strip("_"))
def test_every_edit_is_seen_though_it_goes_past_the_view(
    edit: Callable[[ModelView], None], sweeps: list[None]
) -> None:
    view = fresh()
    view.sites()
    state = GraphState(view.graph_ir)
    assert state.holds_for(view.graph_ir)
    edit(view)
    assert not state.holds_for(view.graph_ir)
    kept = view.sites()
    assert len(sweeps) == 2
    assert kept == view.fork().sites()


def test_a_fork_is_another_graph() -> None:
    view = fresh()
    assert not GraphState(view.graph_ir).holds_for(view.fork().graph_ir)
