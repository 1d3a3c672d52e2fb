"""Patterns of names: ``*`` and ``?`` alone are special, and a name spelt like the pattern comes first."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def fits(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern: ``*`` stands for any text, ``?`` for one character, the rest for itself.

    Brackets are characters of names (``layers[1].w``), no character classes.
    """
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def matching(pattern: str, names: Iterable[str]) -> set[str]:
    """The names that a pattern stands for: the one spelt exactly so where there is one, else all that fit.

    Example:
        >>> sorted(matching("w*", ["w1", "w2"]))
        ['w1', 'w2']
        >>> matching("w*", ["w1", "w*"])
        {'w*'}
    """
    known = set(names)
    return {pattern} if pattern in known else {name for name in known if fits(name, pattern)}
