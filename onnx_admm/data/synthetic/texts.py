"""Texts that a graph contains: vocabularies of the operators that read a text input."""

from __future__ import annotations

import numpy as np

from onnx_admm.data.synthetic.draws import Choice
from onnx_admm.errors import UnsupportedModel
from onnx_admm.model import NodeRef, ValueRef
from onnx_admm.model.operators import Trait, operators_with

_VOCABULARIES = ("keys_strings", "cats_strings", "pool_strings", "string_vocabulary")
"""Attributes that list the texts which an operator looks up; other attributes hold the results."""

_HANDING_ON = operators_with(Trait.REARRANGES, Trait.CUTS, Trait.LOOKS_UP, Trait.REPEATS, Trait.JOINS) | {
    "StringNormalizer",
    "StringSplit",
    "ai.onnx.ml::ArrayFeatureExtractor",
}
"""Operators behind which a text is still a text of the same vocabulary."""


def text_draw(name: str, value: ValueRef | None) -> Choice:
    """Return a draw of the texts that the operators behind an input list, equally likely.

    Args:
        name: name of the input.
        value: the input in the graph; None where nothing reads it.

    Raises:
        UnsupportedModel: no operator lists texts, so random ones would all be unknown.
    """
    known = sorted({text for node, index in _readers(value) for text in _texts(node, index)})
    if not known:
        raise UnsupportedModel(
            "no random values for texts: the graph does not list the texts that it knows",
            where=name,
            hint="Give samples: --data D.npz, with an array of texts (numpy.array([...], dtype=str)).",
        )
    return Choice(np.array(known))


def _texts(node: NodeRef, index: int) -> list[str]:
    """Return the texts of one operator: its vocabulary, or the constant it compares with."""
    found = [text for key in _VOCABULARIES for text in node.attribute(key, ())]
    other = node.input(1 - index) if node.op_type == "Equal" else None
    constant = None if other is None else other.constant()
    if constant is not None:
        found += [item.decode() if isinstance(item, bytes) else str(item) for item in constant.reshape(-1)]
    return [str(text) for text in found]


def _readers(value: ValueRef | None) -> list[tuple[NodeRef, int]]:
    """Return the nodes, with the input, that read a text, directly or behind nodes that pass it on."""
    pending = [] if value is None else [value]
    seen, found = set(pending), []
    while pending:
        current = pending.pop()
        for node in current.uses():
            found.append((node, node.inputs.index(current)))
            if node.op_type in _HANDING_ON:
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                pending.extend(fresh)
    return found
