"""A model that gives, beside its outputs, what they are before anything squashes them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.model.class_axis import CHOOSING, MOVING, ClassAxis, class_axis, written_out
from onnx_admm.model.view import ModelView

_SQUASHING = {*CHOOSING - {"TopK"}, "Sigmoid", "HardSigmoid", "Tanh"}


@dataclass(frozen=True, slots=True)
class OutputRoles:
    """What the outputs of a model are, as far as the graph tells.

    Attributes:
        classes: where the classes are; None where the graph makes it no classifier.
        squashed: outputs that a Softmax, a Sigmoid or the like gives.
    """

    classes: ClassAxis | None = None
    squashed: frozenset[str] = frozenset()


def output_roles(view: ModelView) -> OutputRoles:
    """What the outputs of a model are."""
    return OutputRoles(class_axis(view), squashed_outputs(view))


def with_scores(view: ModelView) -> ModelView:
    """A fork that also gives what goes into a closing Softmax, Sigmoid or ArgMax, as ``<output>::score``.

    Where those saturate, an output hardly moves whatever happens before it; in front of them a difference
    shows. A Softmax may be written out as ``Exp`` over its sum. Other outputs add nothing.
    """
    fork = view.fork()
    outputs = fork.graph_ir.graph.outputs
    for output in tuple(outputs):
        score = _score(output)
        if score is not None:
            node = ir.node("Identity", [score])
            node.outputs[0].name, node.outputs[0].type = score_name(output.name or ""), score.type
            fork.graph_ir.graph.append(node)
            outputs.append(node.outputs[0])
    return fork


def squashed_outputs(view: ModelView) -> frozenset[str]:
    """Outputs of the main graph that a Softmax, a Sigmoid or the like gives."""
    outputs = view.graph_ir.graph.outputs
    return frozenset(output.name or "" for output in outputs if _score(output) is not None)


def score_name(output: str) -> str:
    """How an output's score is called."""
    return f"{output}::score"


def _score(output: ir.Value) -> ir.Value | None:
    """What goes into the last squashing operator before the output; None without one."""
    value, score = output, output
    while (node := value.producer()) is not None and (source := _source(node)) is not None:
        value = source
        if node.op_type not in MOVING:
            score = source
    return None if score is output or score.producer() is None else score


def _source(node: ir.Node) -> ir.Value | None:
    """What a squashing or moving operator works on; None for any other."""
    if node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    if node.op_type == "Div":
        return written_out(node)
    return node.inputs[0] if node.op_type in _SQUASHING | MOVING else None
