"""Documents of facts: as a dict, and as JSON with a version and a digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
"""Version of the JSON; it rises whenever a field changes its meaning or is removed."""


class Document:
    """A dataclass of facts that is written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, what follows from them and the schema version, in plain types of JSON.

        Dataclasses become dicts, tuples lists; a number that is not finite becomes None.
        """
        return {"schema_version": SCHEMA_VERSION, **plain(self)}

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON that ends in a newline."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def to_json(facts: Document) -> str:
    """Return the facts as JSON; see `Document.to_json`."""
    return facts.to_json()


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the digest of a document: SHA-256 of its JSON, keys sorted, without spaces and digest."""
    told = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def derived_fields(kind: type) -> list[str]:
    """Return the names of a dataclass's properties, which JSON has in addition to its fields."""
    return [name for name, member in vars(kind).items() if isinstance(member, property)]


def plain(value: Any) -> Any:
    """Return a value in the types of JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        names = [*(field.name for field in fields(value)), *derived_fields(type(value))]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
