"""Every gradient rule: the built-in ones, and those that other packages register.

Other packages name a mapping of (domain, operator) to rule as an entry point of the group
``onnx_admm.gradient_rules``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import entry_points

from onnx_admm.errors import STOPS, UsageError, reason_of
from onnx_admm.training.gradients import rules
from onnx_admm.training.gradients.registry import BUILT_IN, Rule

GROUP = "onnx_admm.gradient_rules"


@functools.cache
def gradient_rules() -> Mapping[tuple[str, str], Rule]:
    """Every rule by domain and operator; a registered one takes the place of a built-in one.

    Raises:
        UsageError: what a package registers cannot be loaded, or is no mapping of rules.
    """
    rules.load()
    found = dict(BUILT_IN)
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
