"""The files that a run writes: the result and its report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from onnx_admm.api.files.run_files import RunFiles
from onnx_admm.contracts import ModelView
from onnx_admm.errors import OutputError
from onnx_admm.model.writing.atomic_output import OutputFile, prepare_output, write_content
from onnx_admm.model.writing.saving import ModelFiles, commit_model


class ResultFiles:
    """A result and its report in preparation.

    The report is written to disk, under a temporary name, before the result is moved in place: a full disk is
    noticed while earlier files are still unchanged.
    """

    def __init__(self, files: RunFiles, output: OutputFile, report: OutputFile | None) -> None:
        self._files = files
        self._output = output
        self._report = report

    def save(self, model: ModelView) -> ModelFiles:
        """Write a model where it can be loaded and run, not yet at its target.

        Raises:
            OutputError: the checker or the disk refuses.
        """
        return model.write_files(self._output, self._files.inputs)

    def copy(self, source: Path) -> ModelFiles:
        """Copy a model file that has no external weights.

        Raises:
            OutputError: the disk refuses.
        """
        file = self._output.folder / self._output.target.name
        try:
            shutil.copyfile(source, file)
        except OSError as error:
            raise OutputError(f"cannot write ({error.strerror})", where=self._output.named) from error
        return ModelFiles(file, None, file.stat().st_size)

    def commit(self, written: ModelFiles | None, report: str) -> None:
        """Move the result to its target, then the report.

        Args:
            written: the result; None where it is not to be written.
            report: content of the report, for a run that has one.

        Raises:
            OutputError: the disk refuses; the error says what is in place.
            WorkError: an input has changed; nothing is put in place.
        """
        self._files.raise_if_changed()
        prepared = None if self._report is None else write_content(self._report, report.encode())
        if written is not None:
            commit_model(self._output, written, self._files.inputs)
        if self._report is None or prepared is None:
            return
        try:
            self._report.commit(prepared)
        except OutputError as error:
            stands = "was written" if written is not None else "was not written"
            raise OutputError(
                f"the report: {error.what}",
                where=self._report.named,
                hint=f"{self._output.named} {stands}.",
            ) from error


@contextmanager
def open_results(
    files: RunFiles, target: str | os.PathLike[str], report: str | os.PathLike[str] | None
) -> Iterator[ResultFiles]:
    """Hold the locks on the result and the report during the run.

    Raises:
        UsageError: a file of the run would be overwritten, or another run writes one of them.
        OutputError: the disk refuses.
    """
    files.check()
    with ExitStack() as stack:
        output = stack.enter_context(prepare_output(target))
        told = None if report is None else stack.enter_context(prepare_output(report))
        with files.blamed():
            yield ResultFiles(files, output, told)
