"""The table ``[layers]`` of a recipe, and ``--layer``: what is asked for single layers, by pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onnx_admm.contracts import LayerSetting
from onnx_admm.errors import RecipeError
from onnx_admm.settings.tables import check_keys

_FLOAT = "float"
_EXPECTED = '"float", {bits = 8}, {keep = 0.1} or both'


def parse_layers(table: object, place: str) -> dict[str, LayerSetting]:
    """Return the settings by pattern of a recipe's table.

    Raises:
        RecipeError: not a table of settings; an unknown key, or an impossible value.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(
            "not a table of layers", where=place, got=repr(table), expected='such as fc = "float"'
        )
    return {pattern: _setting(value, f"{place}, key '{pattern}'") for pattern, value in table.items()}


def layers_table(layers: Mapping[str, LayerSetting]) -> dict[str, Any]:
    """Return the settings as a recipe's table."""
    return {pattern: _plain(setting) for pattern, setting in layers.items()}


def layers_of_flags(texts: Iterable[str]) -> dict[str, Any]:
    """Return ``--layer`` as a recipe's table: ``head*=8``, ``stem=float``, ``fc*=keep=0.1,bits=4``.

    Raises:
        RecipeError: not of that form; one pattern twice.
    """
    table: dict[str, Any] = {}
    for text in texts:
        pattern, equals, form = text.partition("=")
        pattern, form = pattern.strip(), form.strip()
        value = _value(form)
        if not equals or not pattern or value is None:
            expected = "PATTERN=float, PATTERN=BITS, or PATTERN=bits=8,keep=0.1"
            raise RecipeError("not a layer's setting", where="--layer", got=repr(text), expected=expected)
        if pattern in table:
            raise RecipeError("a pattern is given twice", where="--layer", got=pattern)
        table[pattern] = value
    return table


def _value(text: str) -> object:
    """Return the part behind the pattern as in a recipe; None where it is no setting."""
    if text == _FLOAT:
        return text
    table: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, number = part.partition("=")
        name, number = (key.strip(), number.strip()) if equals else ("bits", key.strip())
        if name not in ("bits", "keep") or name in table:
            return None
        try:
            table[name] = int(number) if name == "bits" else float(number)
        except ValueError:
            return None
    return table


def _setting(value: object, place: str) -> LayerSetting:
    if value == _FLOAT:
        return LayerSetting(is_float=True)
    if not isinstance(value, Mapping) or not value:
        raise RecipeError("not a layer's setting", where=place, got=repr(value), expected=_EXPECTED)
    check_keys(value, ("bits", "keep"), place)
    bits, keep = value.get("bits"), value.get("keep")
    if bits is not None and (not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 8):
        expected = "a whole number from 1 to 8"
        raise RecipeError("impossible number of bits", where=place, got=repr(bits), expected=expected)
    is_number = isinstance(keep, int | float) and not isinstance(keep, bool)
    if keep is not None and not (is_number and 0 < keep <= 1):
        expected = "above 0, at most 1"
        raise RecipeError("impossible share to keep", where=place, got=repr(keep), expected=expected)
    return LayerSetting(bits=bits, keep=None if keep is None else float(keep))


def _plain(setting: LayerSetting) -> str | dict[str, Any]:
    if setting.is_float:
        return _FLOAT
    keys = {"bits": setting.bits, "keep": setting.keep}
    return {key: value for key, value in keys.items() if value is not None}
