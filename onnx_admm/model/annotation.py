"""Notes on nodes: ``metadata_props``, which viewers show and runtimes ignore."""

from __future__ import annotations

from collections.abc import Mapping

from onnx_admm.model.view import ModelView

NODE_METADATA_SINCE = 10
"""IR version from which a node has ``metadata_props`` of its own."""


def annotate_nodes(view: ModelView, notes: Mapping[str, Mapping[str, str]]) -> None:
    """Write notes by node name: on the node where the IR version has it, else on the model.

    Model-level keys are ``<key>:<node>``. Notes with the same key are replaced.
    """
    if view.ir_version < NODE_METADATA_SINCE:
        for node, entries in notes.items():
            view.metadata.update({f"{key}:{node}": text for key, text in entries.items()})
        return
    for reference in view.nodes():
        reference.ir_node.metadata_props.update(notes.get(reference.name, {}))
