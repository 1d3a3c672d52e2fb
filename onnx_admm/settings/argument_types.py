"""Types of arguments, checked as they come in: a wrong one is told by the name of its argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from onnx_admm.errors import UsageError

T = TypeVar("T")


def typed(name: str, value: T, *kinds: type) -> T:
    """Return the value, which must be of one of the types; a bool is no number.

    Raises:
        UsageError: it is not; names the argument.
    """
    if type(value) in kinds or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    raise UsageError("an argument of the wrong type", where=name, got=repr(value), expected=expected)


def texts(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """Return several texts; a single one is meant as such.

    Raises:
        UsageError: one of them is no text.
    """
    if isinstance(values, str):
        return (values,)
    return tuple(typed(name, value, str) for value in values)
