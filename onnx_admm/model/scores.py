"""A model that gives, beside its outputs, what they are before anything squashes them."""

from __future__ import annotations

import onnx_ir as ir

from onnx_admm.model.view import ModelView

_SQUASHING = {"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh", "ArgMax", "ArgMin", "Hardmax"}
_CHOOSING = {"Softmax", "LogSoftmax", "ArgMax", "ArgMin", "Hardmax", "Div"}
"""Of what `_source` follows, the operators that give or compare the probabilities of classes."""

_MOVING = {"Identity", "Cast", "Squeeze", "Unsqueeze", "Flatten", "Reshape", "Transpose", "Expand"}


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


def gives_classes(view: ModelView) -> bool:
    """Whether the first output is what a Softmax, ArgMax or the like gives, at most moved afterwards."""
    outputs = view.graph_ir.graph.outputs
    value = outputs[0] if outputs else None
    while value is not None and (node := value.producer()) is not None:
        source = _source(node)
        if source is not None and node.op_type in _CHOOSING:
            return True
        value = source if node.op_type in _MOVING else None
    return False


def score_name(output: str) -> str:
    """How an output's score is called."""
    return f"{output}::score"


def _score(output: ir.Value) -> ir.Value | None:
    """What goes into the last squashing operator before the output; None without one."""
    value, score = output, output
    while (node := value.producer()) is not None and (source := _source(node)) is not None:
        value = source
        if node.op_type not in _MOVING:
            score = source
    return None if score is output or score.producer() is None else score


def _source(node: ir.Node) -> ir.Value | None:
    """What a squashing or moving operator works on; None for any other."""
    if node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    if node.op_type == "Div":
        return _written_out(node)
    return node.inputs[0] if node.op_type in _SQUASHING | _MOVING else None


def _written_out(node: ir.Node) -> ir.Value | None:
    """The x of ``Exp(x) / Expand(ReduceSum(Exp(x)))``; None for any other quotient."""
    exponential, total = (None if value is None else value.producer() for value in node.inputs)
    while total is not None and total.op_type in _MOVING and total.inputs[0] is not None:
        total = total.inputs[0].producer()
    if exponential is None or exponential.op_type != "Exp" or total is None or total.op_type != "ReduceSum":
        return None
    return exponential.inputs[0] if total.inputs[0] is node.inputs[0] else None
