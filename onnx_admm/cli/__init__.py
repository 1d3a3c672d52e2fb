"""The ``onnx-admm`` command.

Exit codes are those of ``errors.EXIT_CODES``; the help of every command states them. A failure leaves no
half-written file behind.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from onnx_admm.cli.annotate import annotate
from onnx_admm.cli.compare import compare
from onnx_admm.cli.compress import compress
from onnx_admm.cli.inspect import inspect
from onnx_admm.cli.limits import with_limits
from onnx_admm.cli.lint import lint
from onnx_admm.cli.plugins import plugins
from onnx_admm.cli.sweep import sweep
from onnx_admm.errors import EXIT_CODES, Interrupted, LimitReached, OnnxAdmmError, UsageError
from onnx_admm.printable import printable
from onnx_admm.runtime.installed import quiet_default_logger

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(
    textwrap.fill(f"{code:<5}{meaning}", 76, initial_indent="  ", subsequent_indent=" " * 7)
    for code, meaning in EXIT_CODES.items()
)

FORMER_FLAGS = {"--figure": "--quantity"}
"""Flags with another name in earlier versions, and their present one."""

_WRITER = "onnx_admm.model.writing.atomic_output"

app = typer.Typer(
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (compress, sweep, inspect, annotate, compare, lint):
    limited = with_limits(command, lambda reached: _abandon(reached))
    app.command(no_args_is_help=True, epilog=_EXIT_CODES)(limited)
app.command(epilog=_EXIT_CODES)(plugins)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"onnx-admm {importlib.metadata.version('onnx-admm')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Prune and quantise trained ONNX models by ADMM into files that stock ONNX Runtime runs.

    \b
    Small and safe, without data (8-bit weights):
      onnx-admm compress net.onnx small.onnx
    Much smaller, with data (inputs by name, and labels if there are any, in an .npz):
      onnx-admm compress net.onnx small.onnx --data train.npz --prune 10x --bits 4 --max-drop 0.5
    The layers of the result, and a comparison with the original:
      onnx-admm inspect small.onnx
      onnx-admm compare net.onnx small.onnx --data test.npz
    Why any model is slow, and mending it:
      onnx-admm lint net.onnx --fix mended.onnx

    Help on a command: onnx-admm COMMAND --help.
    """


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its exit code."""
    _open_standard_streams()
    arguments = sys.argv[1:] if argv is None else list(argv)
    kept = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    _forget_written()
    quiet_default_logger()
    try:
        try:
            _refuse_former_flags(arguments)
            app(args=arguments, prog_name="onnx-admm")
        finally:
            _flush()
    except OnnxAdmmError as error:
        _complain(arguments, str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        place = "" if error.filename is None else f" {error.filename}"
        _complain(arguments, f"the system refuses{place} ({error.strerror or error}); {_what_was_written()}")
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 (the one place where a bug becomes a sentence)
        _complain(
            arguments,
            f"unexpected {type(error).__name__}: {error} (a bug; ONNX_ADMM_TRACEBACK=1 shows where)",
        )
        sys.exit(1)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    sys.exit(0)


def _refuse_former_flags(arguments: Sequence[str]) -> None:
    """Raise an error that names the new flag where a flag of an earlier version is used.

    Raises:
        UsageError: one of `FORMER_FLAGS` is among the arguments.
    """
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag == "--":
            return
        if flag in FORMER_FLAGS:
            raise UsageError(f"unknown flag '{flag}'", hint=f"It is called '{FORMER_FLAGS[flag]}' now.")


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Exit as an interrupted program does, through every ``finally``: temporary files are removed.

    A second signal ends the program at once; the next run removes what it leaves.
    """
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, lambda number, frame: os._exit(128 + number))
    _say(f"interrupted: {_what_was_written()}")
    raise Interrupted(128 + number)


def _abandon(reached: LimitReached) -> NoReturn:
    """End the process at once: a limit is reached, and code outside Python does not return."""
    _say(f"error: {reached} The run did not end by itself; {_what_was_written()}")
    os._exit(reached.exit_code)


def _what_was_written() -> str:
    """Return a sentence on which output files are in place; true at every moment of a run."""
    writer = sys.modules.get(_WRITER)  # not loaded: nothing was written
    files = [] if writer is None else [os.fspath(file) for file in writer.written_files()]
    return f"written before that: {', '.join(files)}" if files else "nothing was written"


def _forget_written() -> None:
    """Reset the record of written files, in a process that ran a command before."""
    if (writer := sys.modules.get(_WRITER)) is not None:
        writer.forget_written()


def _open_standard_streams() -> None:
    """Open the null device for closed standard streams, so that no output file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _flush() -> None:
    """Flush stdout while a failure can still be reported.

    Raises:
        OSError: stdout cannot be written, on a full disk for one.
    """
    if not sys.stdout.closed:
        try:
            sys.stdout.flush()
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the interpreter flushes once more)
            raise


def _say(sentence: str) -> None:
    """Print a sentence to stderr, where there is one."""
    with contextlib.suppress(OSError, ValueError):
        typer.echo(printable(sentence), err=True)


def _complain(arguments: Sequence[str], sentence: str) -> None:
    if os.environ.get("ONNX_ADMM_TRACEBACK") == "1" or any(re.fullmatch("-v{2,}", a) for a in arguments):
        traceback.print_exc()
    _say(f"error: {sentence}")
