"""Names of nodes and of weights, made unique."""

from __future__ import annotations

import onnx_ir as ir


def label(node: ir.Node) -> str:
    """How a node is called: its name, else its first output's, else its operator."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def unique(name: str, taken: set[str]) -> str:
    """``name``, numbered from ``#2`` on where it is taken; it is taken from then on."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    taken.add(free)
    return free
