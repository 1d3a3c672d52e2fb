"""Weights that can be exchanged from run to run: they become inputs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnx_admm.model.edit import free_name, taken_names
from onnx_admm.model.view import ModelView

_FED = ("float16", "float32", "float64")
"""Types that a runtime accepts as numpy arrays."""


def weights_as_inputs(view: ModelView, names: Iterable[str]) -> tuple[ModelView, dict[str, str]]:
    """Make a fork whose named weights are inputs, and return it with the inputs' names by site.

    A weight of a subgraph becomes an input of the main graph, of which the subgraph reads it; one that
    standard operators compute is dense there. Missing from what is returned are weights inside functions, for
    these see nothing outside themselves, those whose values are fixed, and those of types that cannot be fed
    (bfloat16).

    Args:
        view: the model.
        names: sites.
    """
    fork = view.fork()
    model, found, taken = fork.graph_ir, fork.found_sites(), taken_names(fork.graph_ir)
    inside = set(model.graphs())
    inputs: dict[str, str] = {}
    for name in dict.fromkeys(names):
        value, site = found[name].value, found[name].site
        is_fixed = site.fixed is not None or site.dtype not in _FED
        if is_fixed or found[name].uses[0][0].graph not in inside:
            continue
        dtype = ir.DataType.from_numpy(np.dtype(site.dtype))
        free = free_name(value.name or "weight", taken)
        given = ir.Value(name=free, shape=ir.Shape(site.shape), type=ir.TensorType(dtype))
        value.replace_all_uses_with(given)
        model.graph.inputs.append(given)
        inputs[name] = free
    fork.strip_unused()
    return fork, inputs
