"""Choice between train, validation and test data of one path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from onnx_admm.errors import DataError

Part = Literal["train", "validation", "test"]
T = TypeVar("T")

_NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing", "t10k"),
}


def choose_part(found: Mapping[str, T], part: Part, where: Path) -> T:
    """Return the entry that is named for the part, or the only one there is.

    Raises:
        DataError: several, none of them named for it.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    for name, entry in found.items():
        if PurePosixPath(name).name.lower() in _NAMES[part]:
            return entry
    raise DataError(
        f"no {part} part among the data",
        where=where,
        got=", ".join(sorted(found)),
        expected=f"one of them named {' or '.join(_NAMES[part])}",
        hint="Or name the one you mean in the path",
    )
