"""Every error for users, as one tree, and the exit codes of all commands.

OnnxAdmmError                  exit code 1
├── UsageError                 exit code 2: wrong usage or unreadable input
│   ├── ModelError             the file is no model, or not one that is safe to read
│   │   └── UnsupportedModel   a valid model with something that cannot be run or trained
│   ├── DataError              the data does not fit the model, or is not data
│   ├── RecipeError            unknown pass, misspelt key, impossible value
│   ├── UnknownExtent          a cost depends on an axis without an extent
│   ├── UnpricedOperator       a cost model does not know what an operator costs
│   └── RuntimeMissing         no ONNX Runtime, two of them, or one that cannot train
├── WorkError                  exit code 1: the work itself failed
│   ├── PassRefused            a pass refuses this model, with the reason
│   │   └── NothingToDo        there is nothing in it for the pass; a pipeline goes on, the run ends with
0
│   ├── TrainingError          fine-tuning went wrong: a non-finite loss
│   │   └── NoGradient         the trainer has no gradient for this model
│   ├── LimitReached           more memory, time or operations than the run may take
│   └── OutputError            the result could not be written, or failed its own check
└── PromiseMissed              exit code 3: finished, but a stated or default promise is not met
    └── BudgetExceeded         the user stated it: a budget, a drop, a ratio
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "done",
        1: "the work failed",
        2: "wrong usage or input",
        3: "a promise is not met (accuracy, budget, outputs, size, latency); no file without --keep",
        130: "interrupted (Ctrl-C)",
        143: "interrupted (SIGTERM)",
    }
)
"""Exit codes of every command with their meaning, as the help of commands, README and docs show them."""


class OnnxAdmmError(Exception):
    """Root of the tree. Its text is a sentence: what, where, got, expected, what to do.

    Args:
        what: the fact, as a sentence without its full stop.
        where: file, layer, node or key of the error.
        got: the value found.
        expected: the expected value.
        hint: advice for the user.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.got = got
        self.expected = expected
        self.hint = hint
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where is not None else self.what]
        if self.got is not None:
            parts.append(f"got {self.got}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        sentence = "; ".join(parts)
        return f"{sentence}. {self.hint}" if self.hint else sentence


class UsageError(OnnxAdmmError):
    """The request cannot be understood or its input cannot be read."""

    exit_code = 2


class ModelError(UsageError):
    """The file is not an ONNX model, or not one that is safe to read."""


class UnsupportedModel(ModelError):
    """A valid model holds something that cannot be run or compressed."""


class DataError(UsageError):
    """Data that is missing, misshapen, mistyped, empty or not finite."""


class RecipeError(UsageError):
    """An unknown pass, a misspelt key or an impossible value."""


class UnknownExtent(UsageError):
    """A cost depends on an axis that is open and was not bound."""


class UnpricedOperator(UsageError):
    """A cost model does not know what an operator costs; pricing lists the node and continues."""


class RuntimeMissing(UsageError):
    """No ONNX Runtime, two that overwrite one another, or one that cannot train."""


class WorkError(OnnxAdmmError):
    """The request is valid, and the work failed."""


class PassRefused(WorkError):
    """A pass refuses this model, which is unchanged."""


class NoSuchLayer(PassRefused):
    """A pattern of the request matches no layer of this model, or patterns leave none."""

    exit_code = 2


class NothingToDo(PassRefused):
    """The model has nothing that the pass could change: no weights, or only encoded ones.

    That is no failure: a pipeline notes the sentence and goes on with the model as it is.
    """


class TrainingError(WorkError):
    """Fine-tuning cannot start or went wrong (non-finite loss)."""


class NoGradient(TrainingError):
    """The gradients of this model cannot be written or run; reconstruction may still work."""


class LimitReached(WorkError):
    """The run reached a limit on memory, time or operations; see ``limits``."""


class OutputError(WorkError):
    """The result could not be written or failed its own check; nothing was overwritten."""


class PromiseMissed(OnnxAdmmError):
    """The work finished, and a promise is not met; the output is written only on request."""

    exit_code = 3


class BudgetExceeded(PromiseMissed):
    """A promise of the user is not met: a budget, a drop of accuracy, a ratio."""


class Interrupted(SystemExit):
    """The user ended the program by a signal; unlike `SystemExit`, never caught around plug-ins' code."""


class RunStopped(BaseException):
    """Raised in a run's thread from outside, to end it; only the code that started the run catches it."""


STOPS = (Interrupted, RunStopped, KeyboardInterrupt)
"""Exceptions that end a run from outside; they are no fault of the code that raises them."""


@contextmanager
def located(place: str) -> Iterator[None]:
    """Prefix the place of an error from inside with ``place``, unless it begins so already."""
    try:
        yield
    except OnnxAdmmError as error:
        inner = "" if error.where is None else str(error.where)
        if not inner.startswith(place):
            error.where = f"{place}: {inner}" if inner else place
            error.args = (error._sentence(),)
        raise


@contextmanager
def reading(
    where: object,
    kind: type[UsageError] = DataError,
    what: str = "the file is damaged, or not of its kind",
    *,
    hint: str | None = None,
) -> Iterator[None]:
    """Turn any exception of a parser on external content into one `UsageError`.

    For the outermost call of a loader alone: an error of this project passes unchanged, every other one is
    named by its innermost cause, which says what is wrong with the content. The original stays the
    ``__cause__``, so ``ONNX_ADMM_TRACEBACK=1`` shows where it was raised.

    Args:
        where: the file, and the part of it.
        kind: class of the error.
        what: the error, as a sentence without its full stop; the cause follows in brackets.
        hint: advice for the user.

    Raises:
        UsageError: of class ``kind``.
        LimitReached: there is not enough memory.
    """
    try:
        yield
    except OnnxAdmmError:
        raise
    except MemoryError as error:
        raise LimitReached("not enough memory to read this", where=where) from error
    except Exception as error:
        raise kind(f"{what} ({reason_of(error)})", where=where, hint=hint) from error


_LONGEST_REASON = 200
_SENTENCES = (OSError, ValueError, RuntimeError, EOFError, SyntaxError)
"""Built-in exceptions whose text is clear without their name, unlike that of a KeyError."""


def reason_of(error: BaseException) -> str:
    """Return the first line of an exception's innermost cause, with its type unless the text needs none."""
    seen = {id(error)}
    while (cause := error.__cause__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        error = cause
    if isinstance(error, UnicodeError):
        return "text that is not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if len(line) > _LONGEST_REASON:
        line = f"{line[:_LONGEST_REASON]}..."
    is_sentence = type(error).__module__ != "builtins" or isinstance(error, _SENTENCES)
    return line if line and is_sentence else f"{type(error).__name__}{': ' if line else ''}{line}"
