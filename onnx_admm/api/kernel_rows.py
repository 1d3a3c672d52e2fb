"""Rows of a comparison: the runtime's kernels of each layer in two models."""

from __future__ import annotations

from collections.abc import Mapping

from onnx_admm.api.measure import first_samples
from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.model import node_profiles
from onnx_admm.report.facts import KernelFacts
from onnx_admm.runtime.layer_kernels import ELSEWHERE, LayerKernels, layer_kernels


def kernel_rows(before: ModelView, after: ModelView, data: Dataset, threads: int) -> tuple[KernelFacts, ...]:
    """Return the kernels of each layer in two models, side by side.

    Layers are paired by name, and by place where all layers of both have the same operators.
    """
    feeds = first_samples(data, 1)
    first, second = (layer_kernels(view, feeds, threads) for view in (before, after))
    renamed = _paired(_operators(before), _operators(after))
    second = {renamed.get(name, name): kernels for name, kernels in second.items()}
    rows = [*dict.fromkeys(name for name in (*first, *second) if name != ELSEWHERE), ELSEWHERE]
    return tuple(_kernel_facts(name, first.get(name), second.get(name)) for name in rows)


def _operators(view: ModelView) -> dict[str, str]:
    """Return the operator of each layer, by the name of its weight, in graph order."""
    rows = node_profiles(view, reads_weights=False)
    return {row.weight: row.op_type for row in reversed(rows) if row.weight}


def _paired(names: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Return the first model's names of the second's layers, where all have the same operators."""
    if list(names.values()) != list(others.values()):
        return {}
    return dict(zip(others, names, strict=True))


def _kernel_facts(layer: str, before: LayerKernels | None, after: LayerKernels | None) -> KernelFacts:
    operators = [() if each is None else each.op_types for each in (before, after)]
    times = [None if each is None or each.seconds is None else 1e6 * each.seconds for each in (before, after)]
    return KernelFacts(
        layer=layer, before=operators[0], after=operators[1], before_us=times[0], after_us=times[1]
    )
