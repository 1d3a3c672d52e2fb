"""A model with additional outputs: the values before a Softmax, Sigmoid or ArgMax."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_admm.model.analysis.class_axis import (
    MOVING,
    ClassAxis,
    Head,
    class_axis,
    classifier_head,
    first_computed,
    further_classes,
    written_out,
)
from onnx_admm.model.analysis.output_parts import Parts, output_parts
from onnx_admm.model.analysis.shapes import infer
from onnx_admm.model.constants import constant_tensor
from onnx_admm.model.edit import free_name, taken_names
from onnx_admm.model.operators import Trait, operators_with
from onnx_admm.model.view import ModelView

_SQUASHING = operators_with(Trait.SQUASHES)

_COMPARING = operators_with(Trait.COMPARES)
"""Operators whose result is only that of a comparison."""

_COUNTING = {
    "Add", "And", "Concat", "CumSum", "Div", "Gather", "Max", "Min", "Mul", "Neg", "Not", "Or", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceSum", "Slice", "Sub", "Sum", "Where", "Xor",
}  # fmt: skip


_AXES_ARE_AN_INPUT = 18
"""Opset from which ReduceMean has its axes as an input."""

_SCORE = "::score"
_SCORE_NAME = re.compile(r"logit|prob|score|class|label|softmax|pred", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OutputRoles:
    """Roles of a model's outputs, as far as the graph determines them.

    Attributes:
        classes: the class axis; None where the graph makes it no classifier.
        squashed: outputs of a Softmax, a Sigmoid or the like.
        counting: outputs that only compare, round or count computed values.
        may_classify: whether floats of the form of scores, (n, c), may be scores without labels; not a
            regressor's.
        parts: parts of outputs that are joined of several.
        further: class axes of a classifier's other outputs.
    """

    classes: ClassAxis | None = None
    squashed: frozenset[str] = frozenset()
    counting: frozenset[str] = frozenset()
    may_classify: bool = True
    parts: Parts = field(default_factory=dict)
    further: tuple[ClassAxis, ...] = ()


def output_roles(view: ModelView) -> OutputRoles:
    """Return the roles of a model's outputs."""
    squashed, counting = squashed_outputs(view), counting_outputs(view)
    parts = {name: found for name, found in output_parts(view).items() if name not in counting}
    return OutputRoles(class_axis(view), squashed, counting, parts=parts, further=further_classes(view))


def may_classify(view: ModelView) -> bool:
    """Return whether the first output may be scores of classes, by the graph or by its name."""
    if not view.graph_ir.graph.outputs:
        return False
    first = first_computed(view.graph_ir.graph).name or ""
    known = class_axis(view) is not None or first in squashed_outputs(view)
    return known or _SCORE_NAME.search(first) is not None


def with_scores(view: ModelView) -> ModelView:
    """Return a fork with the inputs of a closing Softmax, Sigmoid or ArgMax as outputs ``<output>::score``.

    Where those saturate, an output hardly changes with the values before it; in front of them a difference
    shows. The values that an output only compares, rounds or counts are further ones: ``<output>::score.1``
    and so on. A Softmax may be written out as ``Exp`` over its sum. Other outputs add nothing.

    From the scores of classes their mean over the classes is subtracted: neither a probability nor a choice
    depends on it.
    """
    fork = view.fork()
    outputs, head = fork.graph_ir.graph.outputs, classifier_head(fork.graph_ir)
    for output in tuple(outputs):
        score = _score(output)
        scores = _compared(output) if score is None else [score]
        for number, score in enumerate(scores):
            mean = _mean(score, head, fork) if head is not None and head.value is score else None
            node = ir.node("Identity", [score]) if mean is None else ir.node("Sub", [score, mean])
            name = score_name(output.name or "") + (f".{number}" if number else "")
            node.outputs[0].name, node.outputs[0].type = name, score.type
            fork.graph_ir.graph.append(node)
            outputs.append(node.outputs[0])
    return fork


def _mean(score: ir.Value, head: Head, view: ModelView) -> ir.Value | None:
    """Append the mean of the scores over the class axis; return None where its axes are not known."""
    axes = [head.axis.scores]
    if head.axis.joint:
        shape = infer(view).inferred_copies[score].shape if score.shape is None else score.shape
        if shape is None:
            return None
        axes = list(range(head.axis.scores % len(shape), len(shape)))
    graph = view.graph_ir.graph
    if view.opset >= _AXES_ARE_AN_INPUT:
        constant = ir.node("Constant", [], {"value_ints": axes})
        constant.outputs[0].name = free_name("class_axes", taken_names(view.graph_ir))
        node = ir.node("ReduceMean", [score, constant.outputs[0]])
        graph.append(constant)
    else:
        node = ir.node("ReduceMean", [score], {"axes": axes})
    node.outputs[0].name = free_name("class_mean", taken_names(view.graph_ir))
    graph.append(node)
    return node.outputs[0]


def squashed_outputs(view: ModelView) -> frozenset[str]:
    """Return the outputs of the main graph that a Softmax, a Sigmoid or the like gives."""
    outputs = view.graph_ir.graph.outputs
    return frozenset(output.name or "" for output in outputs if _score(output) is not None)


def counting_outputs(view: ModelView) -> frozenset[str]:
    """Return the outputs of the main graph that only compare, round or count what is computed before them."""
    outputs = view.graph_ir.graph.outputs
    return frozenset(output.name or "" for output in outputs if _compared(output))


def score_name(output: str) -> str:
    """Return the name of an output's score."""
    return f"{output}{_SCORE}"


def scored_output(name: str) -> str | None:
    """Return the output of a score with this name; None for an output of the model's own."""
    output, mark, _ = name.rpartition(_SCORE)
    return output if mark else None


def is_judged(name: str, counting: Collection[str]) -> bool:
    """Return whether an output's own error is meaningful: a count's is not, the values before it are used.

    Args:
        name: name of an output, or of a score.
        counting: outputs that only compare, round or count.
    """
    output = scored_output(name)
    return name not in counting if output is None else output in counting


def _score(output: ir.Value) -> ir.Value | None:
    """Return the input of the last squashing operator before the output; None without one."""
    value, score = output, output
    while (node := value.producer()) is not None and (source := _source(node)) is not None:
        value = source
        if node.op_type not in MOVING:
            score = source
    return None if score is output or score.producer() is None else score


def _compared(output: ir.Value) -> list[ir.Value]:
    """Return the real values that an output only compares, rounds or counts; else nothing."""
    found: dict[ir.Value, None] = {}
    pending, seen = [output], {output}
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            if constant_tensor(value) is None:
                return []
            continue
        inputs = [source for source in node.inputs if source is not None]
        if node.op_type in _COMPARING:
            found.update(dict.fromkeys(v for v in inputs if _is_real(v)))
        elif node.op_type in _COUNTING | MOVING:
            fresh = [v for v in inputs if v not in seen]
            seen.update(fresh)
            pending += fresh
        elif node.op_type != "Constant":
            return []
    return list(found)


def _is_real(value: ir.Value) -> bool:
    """Return whether a node computes it, and it is not known to be of whole numbers."""
    node = value.producer()
    is_whole = value.dtype is not None and not value.dtype.is_floating_point()
    return node is not None and node.op_type not in ("Constant", "Shape", "Size") and not is_whole


def _source(node: ir.Node) -> ir.Value | None:
    """Return the data input of a squashing or moving operator; None for any other."""
    if node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    if node.op_type == "Div":
        return written_out(node)
    return node.inputs[0] if node.op_type in _SQUASHING | MOVING else None
