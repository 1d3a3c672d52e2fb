"""Names of nodes and of weights, made unique."""

from __future__ import annotations

import onnx_ir as ir


def label(node: ir.Node) -> str:
    """Return the name of a node, else of its first output, else its operator."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def unique(name: str, taken: set[str]) -> str:
    """Return ``name``, numbered from ``#2`` on if it is taken, and mark it as taken."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    taken.add(free)
    return free
