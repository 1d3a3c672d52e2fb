"""The JSON Schema of a report, made from its dataclasses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import pydantic

from onnx_admm.report.compression import Report
from onnx_admm.report.document import SCHEMA_VERSION, derived_fields

_ATTRIBUTE = re.compile(r"^    ((?:\w+, )*\w+): (.+(?:\n(?: {5,}.+))*)", re.MULTILINE)


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of `Report.to_dict`; ``comparison`` is that of `Comparison`.

    Every property is always there. A number may be null, which stands for one that is not finite.
    """
    schema = pydantic.TypeAdapter(Report).json_schema(mode="serialization")
    parts: dict[str, Any] = schema.pop("$defs")
    for kind in _dataclasses(Report):
        part = schema if kind is Report else parts[kind.__name__]
        _complete(part, kind, parts)
    for part in (schema, *parts.values()):
        _open_numbers(part)
    schema["properties"]["schema_version"] = {
        "const": SCHEMA_VERSION,
        "description": "Rises whenever a property changes its meaning or goes away.",
    }
    schema["properties"]["digest"] = {
        "type": "string",
        "pattern": "^sha256:[0-9a-f]{64}$",
        "description": "SHA-256 of everything before it, keys sorted, no spaces.",
    }
    schema["required"].append("digest")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:onnx-admm:report:{SCHEMA_VERSION}",
    }
    return {**head, **schema, "$defs": dict(sorted(parts.items()))}


def _complete(part: dict[str, Any], kind: type, parts: dict[str, Any]) -> None:
    """Add the derived properties, and the descriptions from docstrings."""
    properties = part["properties"]
    for name in derived_fields(kind):
        member = vars(kind)[name]
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(get_type_hints(member.fget)["return"])
        found = adapter.json_schema(mode="serialization")
        for key, value in found.pop("$defs", {}).items():
            parts.setdefault(key, value)
        properties[name] = {**found, "description": str(member.__doc__).strip()}
    for names, text in _ATTRIBUTE.findall(inspect.getdoc(kind) or ""):
        for name in names.split(", "):
            if name in properties:
                properties[name]["description"] = " ".join(text.split())
    for entry in properties.values():
        entry.pop("default", None)
        entry.pop("title", None)
    part["required"] = list(properties)
    part["description"] = str(kind.__doc__).strip().partition("\n")[0]


def _dataclasses(kind: type) -> Iterator[type]:
    """Yield a dataclass and those that its fields hold, each once."""
    found = {kind: None}
    queue: list[Any] = [kind]
    while queue:
        for hint in get_type_hints(queue.pop()).values():
            for part in _leaves(hint):
                if is_dataclass(part) and isinstance(part, type) and part not in found:
                    found[part] = None
                    queue.append(part)
    yield from found


def _leaves(hint: Any) -> Iterator[Any]:
    inside = get_args(hint)
    if not inside:
        yield hint
    for part in inside:
        yield from _leaves(part)


def _open_numbers(schema: Any) -> None:
    """Allow null for every number that need not be finite."""
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is True:  # the default, which newer pydantic states
            del schema["additionalProperties"]
        if schema.get("anyOf") == [{"type": "number"}, {"type": "null"}]:
            del schema["anyOf"]
            schema["type"] = "number"
        if schema.get("type") == "number":
            schema["type"] = ["number", "null"]
        for value in schema.values():
            _open_numbers(value)
    elif isinstance(schema, list):
        for value in schema:
            _open_numbers(value)
