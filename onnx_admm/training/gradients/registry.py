"""Gradient rules by operator: the built-in ones, and those that other packages register.

A rule is a function of a `Tape` and a `GradientNode`. It writes nodes that compute the gradients of the
inputs, and returns their names by the index of the input. An input that it leaves out has no gradient.

Other packages name a mapping of (domain, operator) to rule as an entry point of the group
``onnx_admm.gradient_rules``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from onnx_admm.errors import STOPS, UsageError, reason_of
from onnx_admm.training.gradients.node import GradientNode
from onnx_admm.training.gradients.tape import Tape

Rule = Callable[[Tape, GradientNode], Mapping[int, str]]

GROUP = "onnx_admm.gradient_rules"

_BUILT_IN: dict[tuple[str, str], Rule] = {}


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function as the rule of operators."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            _BUILT_IN[domain, operator] = function
        return function

    return register


@functools.cache
def gradient_rules() -> Mapping[tuple[str, str], Rule]:
    """Every rule by domain and operator; a registered one takes the place of a built-in one.

    Raises:
        UsageError: what a package registers cannot be loaded, or is no mapping of rules.
    """
    from onnx_admm.training.gradients import rules

    rules.load()
    found = dict(_BUILT_IN)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        place = f"gradient rules '{entry.name}' ({entry.value})"
        try:
            added = entry.load()
        except STOPS:
            raise
        except BaseException as error:
            raise UsageError(f"the plug-in cannot be loaded ({reason_of(error)})", where=place) from error
        if not isinstance(added, Mapping) or not all(map(_is_entry, added.items())):
            expected = "a mapping of (domain, operator) to function"
            raise UsageError("the plug-in is no set of gradient rules", where=place, expected=expected)
        found.update(added)
    return found


def _is_entry(entry: tuple[object, object]) -> bool:
    key, function = entry
    is_key = isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, str) for part in key)
    return is_key and callable(function)
