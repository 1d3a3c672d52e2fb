"""Settings objects from TOML tables: every key must exist, every value must be of its type."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pydantic

from onnx_admm.errors import RecipeError, located, reason_of

_T = TypeVar("_T")

MOST_BYTES = 4 * 2**20
"""Largest size of a TOML file; the parser takes some hundred times as much memory."""

_MOST_DOTS = 100
"""Parts of a dotted key; the parser's time grows with their square."""


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        RecipeError: it cannot be read, or is not TOML.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot read the file ({error.strerror})", where=str(path)) from error
    if len(content) > MOST_BYTES:
        raise RecipeError(
            "too large for a file of settings", where=str(path), expected=f"at most {MOST_BYTES} bytes"
        )
    try:
        return parse_toml(content.decode(), str(path))
    except UnicodeDecodeError as error:
        raise RecipeError("not a text file", where=str(path)) from error


def parse_toml(text: str, place: str) -> dict[str, Any]:
    """Return TOML text as a table; raises as `read_toml`."""
    if any(part.count(".") > _MOST_DOTS for line in text.splitlines() for part in line.split(",")):
        raise RecipeError("not TOML that can be read (a key of too many parts)", where=place)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"not TOML: {error}", where=place) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, arrays in arrays
        raise RecipeError(f"not TOML that can be read ({reason_of(error)})", where=place) from error


def merge(table: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Update ``table`` by ``changes``, table by table; other keys stay."""
    for key, value in changes.items():
        known = table.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            merge(known, value)
        else:
            table[key] = value


def build(cls: type[_T], table: object, place: str) -> _T:
    """Return a dataclass from a table, strict about types (an array may become a tuple).

    Raises:
        RecipeError: an unknown key, with the nearest known one; a missing key; an impossible value.
    """
    if not isinstance(table, Mapping):
        raise RecipeError("not a table of settings", where=place, got=repr(table))
    check_keys(table, _keys(cls, place), place)
    check_finite(table, place)
    try:
        with located(place):
            # Through JSON: strict about types, yet an array may become a tuple.
            made: _T = _adapter(cls).validate_json(json.dumps(dict(table), default=str), strict=True)
    except pydantic.ValidationError as error:
        raise _refusal(error, place) from error
    return made


def check_finite(table: object, place: str, key: str = "") -> None:
    """Refuse a number that is not finite, anywhere in a table: TOML can state nan and inf.

    Raises:
        RecipeError: names the key.
    """
    if isinstance(table, float) and not math.isfinite(table):
        raise RecipeError("a number that is not finite", where=f"{place}, key '{key}'", got=table)
    if isinstance(table, Mapping):
        for name, value in table.items():
            check_finite(value, place, str(name))
    elif isinstance(table, list | tuple):
        for value in table:
            check_finite(value, place, key)


def required_keys(cls: type) -> set[str]:
    """Return the keys of a settings dataclass that have no default; none for any other class."""
    if not dataclasses.is_dataclass(cls):
        return set()
    absent = dataclasses.MISSING
    return {
        entry.name
        for entry in dataclasses.fields(cls)
        if entry.init and entry.default is absent and entry.default_factory is absent
    }


def unbuild(settings: object) -> dict[str, Any]:
    """Return the table that `build` makes ``settings`` from: with defaults, without keys that are None."""
    plain: dict[str, Any] = _adapter(type(settings)).dump_python(settings, mode="json", exclude_none=True)
    return plain


def check_keys(table: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    """Refuse a key that is not known.

    Raises:
        RecipeError: names the key, all known ones and the nearest.
    """
    names = tuple(known)
    for key in table:
        if key not in names:
            raise RecipeError(
                f"unknown key '{key}'",
                where=place,
                expected=f"one of {', '.join(names)}" if names else "no keys",
                hint=did_you_mean(key, names),
            )


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return ``Did you mean 'x'?`` for a misspelt name; None where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else None


def _keys(cls: type, place: str) -> tuple[str, ...]:
    if dataclasses.is_dataclass(cls):
        return tuple(entry.name for entry in dataclasses.fields(cls) if entry.init)
    raise RecipeError("not a dataclass, so no recipe can build it", where=place, got=cls.__name__)


def _refusal(error: pydantic.ValidationError, place: str) -> RecipeError:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return RecipeError(message, where=place)
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return RecipeError(f"the key '{key}' is missing", where=place)
    return RecipeError(
        message[:1].lower() + message[1:], where=f"{place}, key '{key}'", got=repr(first["input"])
    )


def _adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(cls)
