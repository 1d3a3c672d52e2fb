"""The error of a contract test."""

from __future__ import annotations


class ContractBroken(AssertionError):
    """A plug-in breaks its contract; the message names the plug-in, the case and the requirement.

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
    """Raise an error unless a requirement of the contract is met.

    Raises:
        ContractBroken: it is not met.
    """
    if not kept:
        raise ContractBroken(f"{subject}: {promise}" + ("" if got is None else f"; got {got}"))
