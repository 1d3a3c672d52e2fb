"""Notes on nodes: ``metadata_props``, which viewers show and runtimes ignore."""

from __future__ import annotations

from collections.abc import Mapping

from onnx_admm.model.view import ModelView

NODE_METADATA_SINCE = 10
"""IR version from which a node has ``metadata_props`` of its own."""


NodeKey = tuple[str, str]
"""Scope and name of a node."""


def annotate_nodes(view: ModelView, notes: Mapping[NodeKey, Mapping[str, str]]) -> None:
    """Write notes by scope and name: on the node where the IR version allows, else on the model.

    Model-level keys are ``<key>:<node>``, the node's scope before its name. Notes with the same key are
    replaced.
    """
    if view.ir_version < NODE_METADATA_SINCE:
        for (scope, name), entries in notes.items():
            place = f"{scope}/{name}" if scope else name
            view.metadata.update({f"{key}:{place}": text for key, text in entries.items()})
        return
    for node in view.nodes():
        node.ir_node.metadata_props.update(notes.get((node.scope, node.name), {}))
