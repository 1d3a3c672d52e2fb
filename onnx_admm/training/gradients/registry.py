"""What a gradient rule is, and the built-in ones by operator.

A rule is a function of a `Tape` and a `GradientNode`. It writes nodes that compute the gradients of the
inputs, and returns their names by the index of the input. An input that it leaves out has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx_admm.training.gradients.node import GradientNode
from onnx_admm.training.gradients.tape import Tape

Rule = Callable[[Tape, GradientNode], Mapping[int, str]]

BUILT_IN: dict[tuple[str, str], Rule] = {}
"""By domain and operator, once the modules of ``rules`` are imported."""


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function as the rule of operators."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            BUILT_IN[domain, operator] = function
        return function

    return register
