"""The ``onnx-admm`` command.

Exit codes are those of ``errors.EXIT_CODES``; the help of every command states them. A failure leaves no
half-written file behind.
"""

from __future__ import annotations

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
from onnx_admm.cli.plugins import plugins
from onnx_admm.cli.sweep import sweep
from onnx_admm.errors import EXIT_CODES, OnnxAdmmError

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(
    textwrap.fill(f"{code:<5}{meaning}", 76, initial_indent="  ", subsequent_indent=" " * 7)
    for code, meaning in EXIT_CODES.items()
)

app = typer.Typer(
    epilog=_EXIT_CODES,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (compress, sweep, inspect, annotate, compare, plugins):
    app.command(no_args_is_help=command is not plugins, epilog=_EXIT_CODES)(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnx-admm {importlib.metadata.version('onnx-admm')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Prune and quantise trained ONNX models by ADMM into files that stock ONNX Runtime runs.

    \b
    Small and safe, without data (8-bit weights):
      onnx-admm compress net.onnx small.onnx
    Much smaller, with data (inputs by name, and labels if there are any, in an .npz):
      onnx-admm compress net.onnx small.onnx --data train.npz --prune 10x --bits 4 --max-drop 0.5
    What is inside, and what became of it:
      onnx-admm inspect small.onnx
      onnx-admm compare net.onnx small.onnx --data test.npz

    Every command explains itself: onnx-admm COMMAND --help.
    """


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command; leaves with its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    kept = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        app(args=arguments, prog_name="onnx-admm")
    except OnnxAdmmError as error:
        _complain(arguments, str(error))
        sys.exit(error.exit_code)
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


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End as an interrupted program does, by way of every ``finally``: temporary files go."""
    typer.echo("interrupted: nothing was written", err=True)
    sys.exit(128 + number)


def _complain(arguments: Sequence[str], sentence: str) -> None:
    if os.environ.get("ONNX_ADMM_TRACEBACK") == "1" or any(re.fullmatch("-v{2,}", a) for a in arguments):
        traceback.print_exc()
    typer.echo(f"error: {sentence}", err=True)
