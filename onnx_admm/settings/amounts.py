"""Amounts in users' notation: ``20x``, ``0.5%``, ``N=1,T=160``."""

from __future__ import annotations

import math
from decimal import Decimal

from onnx_admm.errors import UsageError


def parse_points(text: str, where: str) -> float:
    """Return percentage points: ``0.5`` and ``0.5%`` are the same.

    Raises:
        UsageError: no finite number.
    """
    return float(_number(text.strip().removesuffix("%"), text, where, "percentage points such as 0.5"))


def parse_times(text: str, where: str) -> float:
    """Return a factor: ``20``, ``20x`` and ``20X`` are the same.

    Raises:
        UsageError: no finite number.
    """
    return float(_number(number_before_x(text) or text, text, where, "a factor such as 20x"))


def parse_share(text: str, where: str) -> float:
    """Return a share: ``0.5``, ``0.5x`` and ``50%`` are the same.

    Raises:
        UsageError: no finite number.
    """
    plain = text.strip()
    if plain.endswith("%"):
        return float(_number(plain[:-1], text, where, "a share such as 0.5 or 50%") / 100)
    return float(_number(number_before_x(plain) or plain, text, where, "a share such as 0.5 or 50%"))


def number_before_x(text: str) -> str | None:
    """Return the text before an ``x`` or ``X`` at the end; None where there is none."""
    plain = text.strip()
    return plain[:-1].strip() if plain[-1:] in ("x", "X", "×") else None


def _number(text: str, whole: str, where: str, expected: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except ArithmeticError:
        number = Decimal("nan")
    if not number.is_finite() or not math.isfinite(float(number)):
        raise UsageError("not a number", where=where, got=repr(whole), expected=expected)
    return number
