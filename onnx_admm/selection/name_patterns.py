"""Patterns of names: only ``*`` and ``?`` are special, and an exact name takes precedence."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def fits(name: str, pattern: str) -> bool:
    """Return whether a name fits a pattern: ``*`` matches any text, ``?`` one character, the rest itself.

    Brackets are characters of names (``layers[1].w``), no character classes.
    """
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def matching(pattern: str, names: Iterable[str]) -> set[str]:
    """Return the names that a pattern matches: the exact one where there is one, else all that fit.

    Example:
        >>> sorted(matching("w*", ["w1", "w2"]))
        ['w1', 'w2']
        >>> matching("w*", ["w1", "w*"])
        {'w*'}
    """
    known = set(names)
    return {pattern} if pattern in known else {name for name in known if fits(name, pattern)}
