"""Writes the quantities of a cost model into the model, where viewers such as Netron show them."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping

from onnx_admm.api.files.run_files import RunFiles
from onnx_admm.contracts import QUANTITIES, Cost, CostModel, ModelView
from onnx_admm.limits import in_a_run
from onnx_admm.model.rewrite.annotate_nodes import NodeKey, annotate_nodes
from onnx_admm.pricing.pricing import add_costs
from onnx_admm.report import CostFacts, CostRowFacts, describe_costs

_FOLDED = "computed once, when the model is loaded"


@in_a_run
def annotate(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    cost_model: CostModel,
    bindings: Mapping[str, int] | None = None,
    *,
    profile: str | os.PathLike[str] | None = None,
) -> CostFacts:
    """Write the cost of each node of ``source`` into ``metadata_props`` of a copy at ``target``.

    Keys are ``onnx_admm.<cost model>.<what>``: on the node from IR version 10 on, else on the model, with
    ``:<node>`` appended. What: each quantity, ``uncertainty``; for weights ``option`` and ``break_even`` (the
    least pruning ratio that pays, ``never`` where none does; of several weights each with its name); or
    ``unpriced`` and ``folded`` with the reason. The model also gets each quantity's ``.total``,
    ``.composition``, ``.bindings``, ``.assumes`` and ``.basis`` (measured here, predicted or counted).

    Args:
        source: the model.
        target: path of the copy.
        cost_model: prices the nodes.
        bindings: extents of open axes, by symbol or place.
        profile: the file that the cost model was read from; it is never overwritten.

    Returns:
        What was written, as data.

    Raises:
        ModelError: ``source`` cannot be read.
        UsageError: ``target`` is ``source``, a file that it refers to, or no regular file.
        UnknownExtent: a cost depends on an axis that is left open.
        OutputError: the copy cannot be written; an earlier file at ``target`` is unchanged.

    Example:
        >>> from onnx_admm.api import annotate
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> from onnx_admm.config.registry import cost_model
        >>> facts = annotate("net.onnx", "noted.onnx", cost_model("macs"), {"N": 1})
        >>> facts.total.macs
        5832.0
    """
    files = RunFiles()
    files.read_model(source, "the model")
    files.read(profile, "the profile")
    files.write(target, "the annotated copy")
    files.check()
    view = ModelView.load(source)
    facts = describe_costs(view, source, cost_model, bindings)
    prefix = f"onnx_admm.{cost_model.name}"
    notes: dict[NodeKey, dict[str, str]] = {
        (node.scope, node.name): {"folded": _FOLDED} for node in view.nodes()
    }
    rows: dict[NodeKey, list[CostRowFacts]] = defaultdict(list)
    for row in facts.rows:
        rows[row.scope, row.node].append(row)
    notes |= {node: _node_notes(of_node) for node, of_node in rows.items()}
    notes |= {(row.scope, row.node): {"unpriced": row.why} for row in facts.unpriced}
    annotate_nodes(view, {node: _keyed(prefix, entries) for node, entries in notes.items()})
    view.metadata.update(_keyed(prefix, _model_notes(facts)))
    view.save(target, inputs=files.inputs)
    return facts


def _node_notes(rows: list[CostRowFacts]) -> dict[str, str]:
    notes = _cost_notes(add_costs([row.cost for row in rows]))
    weights = [row for row in rows if row.weight]
    if weights:
        notes["option"] = _each(weights, [_option(row) for row in weights])
        notes["break_even"] = _each(weights, [_ratio(row.break_even) for row in weights])
    return notes


def _model_notes(facts: CostFacts) -> dict[str, str]:
    totals = {f"{key}.total": text for key, text in _cost_notes(facts.total).items()}
    bindings = {"bindings": ", ".join(f"{axis}={extent}" for axis, extent in facts.bindings.items())}
    return {
        **totals,
        "composition": facts.composition,
        "assumes": facts.assumes,
        "basis": facts.basis,
        **(bindings if facts.bindings else {}),
    }


def _cost_notes(cost: Cost) -> dict[str, str]:
    quantities = {name: getattr(cost, name) for name in (*QUANTITIES, "uncertainty")}
    return {name: f"{quantity:.6g}" for name, quantity in quantities.items() if quantity is not None}


def _option(row: CostRowFacts) -> str:
    given = row.option
    return "" if given is None else f"density {given.density:.4g}, {given.bits} bits, {given.structure}"


def _ratio(ratio: float | None) -> str:
    return "never" if ratio is None or math.isinf(ratio) else f"{ratio:.4g}"


def _each(rows: list[CostRowFacts], texts: list[str]) -> str:
    if len(rows) == 1:
        return texts[0]
    return "; ".join(f"{row.weight}: {text}" for row, text in zip(rows, texts, strict=True))


def _keyed(prefix: str, entries: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{key}": text for key, text in entries.items()}
