"""Rows of a comparison: the runtime's kernels of each layer in two models."""

from __future__ import annotations

from onnx_admm.api.measure import first_samples
from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.report.facts import KernelFacts
from onnx_admm.runtime.layer_kernels import ELSEWHERE, LayerKernels, layer_kernels


def kernel_rows(before: ModelView, after: ModelView, data: Dataset, threads: int) -> tuple[KernelFacts, ...]:
    """Return the kernels of each layer in two models, side by side.

    Layers are paired by name, and by place where all layers of both have the same operators.
    """
    feeds = first_samples(data, 1)
    first, second = (layer_kernels(view, feeds, threads) for view in (before, after))
    names, others = ([name for name in each if name != ELSEWHERE] for each in (first, second))
    renamed = dict(zip(others, names, strict=True)) if len(names) == len(others) else {}
    if not set(names) & set(others):
        second = {renamed.get(name, name): kernels for name, kernels in second.items()}
    rows = [*dict.fromkeys([*names, *(name for name in second if name != ELSEWHERE)]), ELSEWHERE]
    return tuple(_kernel_facts(name, first.get(name), second.get(name)) for name in rows)


def _kernel_facts(layer: str, before: LayerKernels | None, after: LayerKernels | None) -> KernelFacts:
    operators = [() if each is None else each.op_types for each in (before, after)]
    times = [None if each is None or each.seconds is None else 1e6 * each.seconds for each in (before, after)]
    return KernelFacts(
        layer=layer, before=operators[0], after=operators[1], before_us=times[0], after_us=times[1]
    )
