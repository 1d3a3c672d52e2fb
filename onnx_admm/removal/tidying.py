"""Removal of nodes that dropped blocks leave without effect."""

from __future__ import annotations

from onnx_admm.contracts import ModelView


def tidy(model: ModelView) -> None:
    """Remove Identity nodes of the main graph, then each Relu of a Relu."""
    for node in model.nodes("Identity"):
        source = node.input(0)
        if source is not None and not node.scope and source.constant_shape is None:
            model.bypass(node, source)
    for node in model.nodes("Relu"):
        source = node.input(0)
        before = None if source is None else source.producer()
        if (
            source is not None
            and before is not None
            and before.op_type == "Relu"
            and before.shares_graph(node)
        ):
            model.bypass(node, source)
    model.strip_unused()
