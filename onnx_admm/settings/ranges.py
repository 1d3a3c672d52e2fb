"""Ranges of numbers in flags, in recipes and profiles, and in Python.

A settings dataclass states them as annotations, so that `settings.build` refuses a value from a file and
`check_ranges` one from Python. NaN lies in no range, infinity in none of these.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, TypeAlias

import pydantic
from pydantic import Field

from onnx_admm.errors import OnnxAdmmError, RecipeError, UsageError

MOST_EPOCHS = 1_000_000
MOST_THREADS = 1024
MOST_SAMPLES = 2**31 - 1
MOST_EXTENT = 2**31 - 1
MOST_SEED = 2**63 - 1
MOST_MEBIBYTES = 2**24
"""16 TiB."""

Epochs: TypeAlias = Annotated[int, Field(ge=0, le=MOST_EPOCHS)]
Rounds: TypeAlias = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Samples: TypeAlias = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
Threads: TypeAlias = Annotated[int, Field(ge=0, le=MOST_THREADS)]
Bits: TypeAlias = Annotated[int, Field(ge=1, le=8)]
Width: TypeAlias = Annotated[int, Field(ge=1, le=64)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
PositiveShare: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Ratio: TypeAlias = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]

_RANGE_ERRORS = {
    "finite_number",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
}


def check_ranges(settings: object, place: str) -> None:
    """Refuse a settings dataclass made in Python with a number out of its annotated range.

    Types are not checked: a numpy number is accepted.

    Raises:
        RecipeError: names the field.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return
    values = {
        entry.name: getattr(settings, entry.name) for entry in dataclasses.fields(settings) if entry.init
    }
    try:
        pydantic.TypeAdapter(type(settings)).validate_python(values)
    except pydantic.ValidationError as error:
        for found in error.errors(include_url=False):
            if found["type"] in _RANGE_ERRORS:
                raise range_refusal(found["loc"], found["msg"], found["input"], place) from error
    except (pydantic.PydanticUserError, OnnxAdmmError):
        return  # a pass of Python types that no recipe can state, or one that refuses its own fields


def range_refusal(path: tuple[int | str, ...], message: str, got: object, place: str) -> RecipeError:
    """Return the error for a number out of range, as pydantic found it."""
    key = str(path[0]) if path else ""
    return RecipeError(message[:1].lower() + message[1:], where=f"{place}, key '{key}'", got=repr(got))


def parse_pattern(text: str) -> tuple[int, int] | None:
    """Return N and M of an ``N:M`` with 0 < N < M < 10,000; None for any other text."""
    found = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", text)
    if found is None or not 0 < int(found[1]) < int(found[2]):
        return None
    return int(found[1]), int(found[2])


def check_number(value: float | None, low: float, high: float, where: str) -> None:
    """Refuse a flag's value out of range; None is a flag that was not given.

    Raises:
        UsageError: names the flag and the range.
    """
    if value is not None and not low <= value <= high:
        raise UsageError("a number out of range", where=where, got=value, expected=f"{low} to {high}")
