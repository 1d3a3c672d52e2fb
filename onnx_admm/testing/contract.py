"""The error of a contract test."""

from __future__ import annotations


class ContractBroken(AssertionError):
    """A plug-in does not keep a promise; the sentence names the plug-in, the case and the promise."""


def demand(kept: bool, subject: str, promise: str, got: object = None) -> None:
    """Raise unless the promise was kept.

    Raises:
        ContractBroken: it was not.
    """
    if not kept:
        raise ContractBroken(f"{subject}: {promise}" + ("" if got is None else f"; got {got}"))
