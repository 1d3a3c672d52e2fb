"""Applies rewrites to a model, and says what each of them did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_admm.model.opsets.convert_opset import raise_opset
from onnx_admm.model.rewrite.for_runtime.match import Match, RewriteContext
from onnx_admm.model.rewrite.for_runtime.rules import REWRITES
from onnx_admm.model.view import ModelView

_MOST_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Applied:
    """One place of one rewrite: where, what was done, or why it stays.

    Attributes:
        rule: name of the rewrite.
        node: name of the node.
        what: what was done there.
        why_left: why nothing was done; empty where it was.
    """

    rule: str
    node: str
    what: str
    why_left: str = ""


def find_matches(context: RewriteContext, rule: str) -> tuple[Match, ...]:
    """Return the places where a rewrite applies, those that overlap included; the model stays."""
    return tuple(REWRITES[rule].find(context))


def apply_rewrites(
    view: ModelView, rules: Sequence[str], most_opset: int | None = None
) -> tuple[Applied, ...]:
    """Apply rewrites wherever they apply, in the order of `REWRITES`; nodes that nothing reads go.

    Args:
        view: the model; changed in place.
        rules: names of rewrites.
        most_opset: newest opset that the model may be raised to; None for as far as a rewrite needs.
    """
    done: list[Applied] = []
    context, known = RewriteContext(view), 0  # what it knows holds until something is changed
    for rule in (name for name in REWRITES if name in rules):
        if len(done) > known:
            context, known = RewriteContext(view), len(done)
        found = find_matches(context, rule)
        if not found:
            continue
        needed = max((match.opset for match in found), default=0)
        if needed > view.opset:
            why = _raised(view, needed, most_opset)
            if why:
                done += [Applied(rule, match.places[0], match.what, why) for match in found]
                continue
            raised = [Applied(rule, match.places[0], match.what) for match in found]
            done += _apply(view, rule) or raised  # the newer opset may be all that was needed
            continue
        done += _apply(view, rule)
    if any(not one.why_left for one in done):
        view.strip_unused()
    return tuple(done)


def _raised(view: ModelView, needed: int, most_opset: int | None) -> str:
    """Raise the opset for a rewrite; return why it is not raised, else nothing."""
    if most_opset is not None and needed > most_opset:
        return f"it needs opset {needed}, and the model has {view.opset}"
    return raise_opset(view, needed) or ""


def _apply(view: ModelView, rule: str) -> list[Applied]:
    """Apply one rewrite until it finds no place: values that it makes have no shape until the next round."""
    done: list[Applied] = []
    for _ in range(_MOST_ROUNDS):
        before = len(done)
        for match in REWRITES[rule].find(RewriteContext(view)):
            if all(node.graph is not None for node in match.nodes):
                done.append(Applied(rule, match.places[0], match.what))
                match.apply()
                _remove_unread(match.nodes)
        if len(done) == before:
            break
    return done


def _remove_unread(nodes: Sequence[ir.Node]) -> None:
    """Remove those of the nodes whose results nothing reads any more."""
    left = [node for node in nodes if node.graph is not None]
    while unread := [node for node in left if not any(map(_is_read, node.outputs))]:
        for node in unread:
            if node.graph is not None:
                node.graph.remove(node, safe=True)
        left = [node for node in left if node.graph is not None]


def _is_read(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())
