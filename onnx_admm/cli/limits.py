"""``--max-memory`` and ``--timeout``: limits of every command that does work."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from onnx_admm.errors import LimitReached
from onnx_admm.limits import RunLimits, run_within
from onnx_admm.worker import warm_up

_MAX_MEMORY = typer.Option(
    "--max-memory",
    metavar="MB",
    help="Limit of the memory of the whole process, in MB of 2^20 bytes. At the limit the run ends with exit "
    "code 1. Default: half of the machine's memory, and less for small files (docs/security.md).",
)
_TIMEOUT = typer.Option(
    "--timeout",
    metavar="S",
    help="Time limit of the whole run, in seconds. At the limit it ends with exit code 1. Default: none.",
)
_WORKER_MODULES = ("onnx_admm.model.loading.native_checks",)
"""Modules that the worker imports while this process imports those of the command."""

_OPTIONS = {"max_memory": Annotated[int | None, _MAX_MEMORY], "timeout": Annotated[float | None, _TIMEOUT]}


def with_limits(command: Callable[..., None], abandon: Callable[[LimitReached], None]) -> Callable[..., None]:
    """Add the options of limits to a command, and run it under them.

    Args:
        command: a command; its parameters stay.
        abandon: ends the process with a sentence where code outside Python does not return.
    """

    @functools.wraps(command)
    def limited(
        *args: Any, max_memory: int | None = None, timeout: float | None = None, **options: Any
    ) -> None:
        limits = RunLimits(max_memory, timeout)
        warm_up(_WORKER_MODULES)
        with run_within(limits, abandon=abandon):
            command(*args, **options)

    signature = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    parameters = [*signature.parameters.values(), *more]
    limited.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    limited.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return limited
