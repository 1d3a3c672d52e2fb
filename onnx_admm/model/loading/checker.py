"""The ONNX checker, with its findings as errors of this project; its C++ code runs in the worker process."""

from __future__ import annotations

from functools import cache

import onnx

from onnx_admm.errors import ModelError, OutputError, UnsupportedModel
from onnx_admm.model.files.guards import all_graphs, all_nodes
from onnx_admm.model.files.sparse_tensors import densify_sparse
from onnx_admm.model.loading.onnx_worker import inferred_shapes, refusal, shape_refusal


def check_input(proto: onnx.ModelProto, where: str) -> None:
    """Check a model from outside.

    Args:
        proto: the model; external contents are not read.
        where: name of the model in errors.

    Raises:
        UnsupportedModel: an operator that no operator set of the default domain has.
        ModelError: anything else the checker refuses.
        LimitReached: the checker takes too much time or memory.
    """
    why = refusal(_with_ranks(_self_contained(proto)), full=False, where=where)
    if why is None:
        return
    reason = first_line(why)
    for node in _unknown_nodes(proto):
        if node.op_type in reason:
            raise UnsupportedModel(
                f"operator {node.op_type} is in no ONNX operator set (opset {_opset(proto)})",
                where=f"{where}: node {node.name or (node.output[0] if node.output else '')}",
                hint="Export the model with standard operators, or put this one in a domain of its own.",
            )
    raise ModelError(f"not a valid ONNX model ({reason})", where=where)


def check_shapes(proto: onnx.ModelProto, where: str) -> None:
    """Check declared shapes against inferred ones; remove stored intermediate shapes that contradict.

    Raises:
        ModelError: inputs, outputs and operators contradict one another without them too.
        LimitReached: shape inference takes too much time or memory.
    """
    if shape_refusal(proto, where) is None:
        return
    for graph in all_graphs(proto):
        del graph.value_info[:]
    why = shape_refusal(proto, where)
    if why is not None:
        raise ModelError(
            f"the shapes it declares contradict one another ({_inference_reason(why)})",
            where=where,
            hint="Export the model again, or correct the shapes of its outputs.",
        )


def check_output(proto: onnx.ModelProto, where: str) -> None:
    """Check a model to be written, or just written, shape inference included.

    Raises:
        OutputError: the checker refuses it.
        LimitReached: the checker takes too much time or memory.
    """
    subject, why = _with_ranks(_self_contained(proto)), None
    if any(graph.sparse_initializer for graph in all_graphs(subject)):
        why = refusal(subject, full=False, where=where)  # shape inference has no sparse tensors (onnx 1.23)
        if subject is proto:
            subject = onnx.ModelProto()
            subject.CopyFrom(proto)
        densify_sparse(subject, None, where)
    why = why or refusal(subject, full=True, where=where)
    if why is not None:
        raise OutputError(f"the checker refuses the result ({first_line(why)})", where=where)


def passes_full_check(proto: onnx.ModelProto) -> bool:
    """Return whether onnx's full check passes a model; never with sparse initializers (onnx 1.23)."""
    return refusal(_self_contained(proto), full=True, where="the model") is None


def _self_contained(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model itself, or a copy with inputs in place of initializers with external contents.

    The checker would read those contents, which ``guards`` checks and which may be too many to read. An input
    states the type and shape of a value, without its content. Subgraphs see the inputs of the main graph;
    their values may share names, so those have no shape.
    """
    if not any(map(_lies_outside, (tensor for graph in all_graphs(proto) for tensor in graph.initializer))):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {value.name for value in copy.graph.input}
    for graph in all_graphs(copy):
        outside = [tensor for tensor in graph.initializer if _lies_outside(tensor)]
        kept = [tensor for tensor in graph.initializer if not _lies_outside(tensor)]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        for tensor in outside:
            if tensor.name not in known:
                known.add(tensor.name)
                shape = list(tensor.dims) if graph is copy.graph else None
                copy.graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
                )
    return copy


def _with_ranks(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model itself, or a copy with inferred ranks for inputs and outputs of unknown rank.

    The checker requires a shape of every input and output; runtimes do not. Where inference finds none
    either, no check uses the rank, and the copy has a scalar.
    """
    if not any(map(_lacks_rank, (*proto.graph.input, *proto.graph.output))):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    inferred = inferred_shapes(proto)
    found = {} if inferred is None else {value.name: value for value in inferred.graph.output}
    for value in (*copy.graph.input, *copy.graph.output):
        if _lacks_rank(value):
            known = found.get(value.name)
            if known is not None and not _lacks_rank(known):
                value.CopyFrom(known)
            else:
                value.type.tensor_type.shape.SetInParent()
    return copy


def _lacks_rank(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _lies_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def first_line(error: Exception | str) -> str:
    """Return the first line of a message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _inference_reason(text: str) -> str:
    return first_line(text).rpartition("Inference error(s): ")[2]


def _unknown_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of the default domain without a schema: unknown, or experimental and long removed."""
    opset = _opset(proto)
    own = {function.name for function in proto.functions if function.domain in ("", "ai.onnx")}
    return [
        node
        for node in all_nodes(proto)
        if node.domain in ("", "ai.onnx") and node.op_type not in own and not _has_schema(node.op_type, opset)
    ]


@cache
def _has_schema(op_type: str, opset: int) -> bool:
    return onnx.defs.has(op_type, opset, "")


def _opset(proto: onnx.ModelProto) -> int:
    versions = (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    return max(1, min(next(versions, 1), 2**31 - 1))
