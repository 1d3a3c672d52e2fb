"""The error of a battery."""

from __future__ import annotations


class ContractBroken(AssertionError):
    """A plug-in does not keep a promise; the sentence names the plug-in, the case and the promise.

    Example:
        >>> from dataclasses import dataclass
        >>> from onnx_admm.testing import ContractBroken, check_pass
        >>> @dataclass(frozen=True)
        ... class Nameless:
        ...     '''A pass without members.'''
        >>> try:
        ...     check_pass(Nameless())
        ... except ContractBroken as error:
        ...     print(error)
        Nameless: has all members of the Pass protocol
    """


def demand(kept: bool, subject: str, promise: str, got: object = None) -> None:
    """Raise unless the promise was kept.

    Raises:
        ContractBroken: it was not.
    """
    if not kept:
        raise ContractBroken(f"{subject}: {promise}" + ("" if got is None else f"; got {got}"))
