"""Weights that can be exchanged from run to run: they become inputs with a default."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnx_admm.model.constants import stored_tensor
from onnx_admm.model.edit import free_name, taken_names
from onnx_admm.model.files.wire_sizes import LEAST_IR_VERSION
from onnx_admm.model.sites import FoundSite
from onnx_admm.model.view import ModelView


def weights_as_inputs(view: ModelView, names: Iterable[str]) -> tuple[ModelView, dict[str, str]]:
    """Return a fork whose named weights are inputs with their values as defaults, and their names.

    A runtime takes the default where a run gives nothing. A weight of a subgraph moves to the main graph,
    from which the subgraph reads it; one that standard operators compute becomes dense. Weights inside
    functions stay, since a function sees nothing outside itself, and so do weights with fixed values: they
    are missing from the result.

    Args:
        view: the model.
        names: sites.

    Source: ONNX IR specification, initializers as default values of inputs (IR version 4).
    """
    fork = view.fork()
    model, found, taken = fork.graph_ir, fork.found_sites(), taken_names(fork.graph_ir)
    model.ir_version = max(model.ir_version, LEAST_IR_VERSION)
    inside = set(model.graphs())
    inputs: dict[str, str] = {}
    for name in names:
        value, site = found[name].value, found[name].site
        if site.fixed is not None or found[name].uses[0][0].graph not in inside:
            continue
        tensor, free = _content(fork, found[name]), free_name(value.name or "weight", taken)
        tensor.name = free
        default = ir.Value(
            name=free,
            const_value=tensor,
            shape=ir.Shape(site.shape),
            type=ir.TensorType(tensor.dtype),
        )
        value.replace_all_uses_with(default)
        model.graph.register_initializer(default)
        model.graph.inputs.append(default)
        inputs[name] = default.name or ""
    fork.strip_unused()
    return fork, inputs


def _content(view: ModelView, found: FoundSite) -> ir.TensorProtocol:
    """Return the dense weight, without a copy where it is stored so."""
    stored = stored_tensor(found.value)
    if stored is None:
        return ir.tensor(view.read(found.site))
    return ir.LazyTensor(
        lambda: ir.tensor(stored.numpy()), dtype=stored.dtype, shape=ir.Shape(stored.shape.numpy())
    )
