"""What passes have done so far, kept in a folder: a run that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_admm.contracts import Dataset, Edit, ModelView, PassReport, Skip
from onnx_admm.errors import OutputError
from onnx_admm.model.atomic_output import write_text
from onnx_admm.model.fingerprint import fingerprint
from onnx_admm.pipeline import StepReport
from onnx_admm.recipe import Recipe
from onnx_admm.runtime.sessions import runtime_versions

_SAMPLES = 256
_KEY = 12


@dataclass(frozen=True)
class Checkpoints:
    """A `pipeline.Journal` in a folder: ``01-admm_prune-<key>.onnx``, and beside it what the pass said.

    A key is a digest of all that the model after a pass depends on: the original, the data, the seed, the
    settings, the passes so far, the versions. So one folder serves any number of runs, and a run that differs
    finds nothing of another.

    Attributes:
        folder: where they lie.
        names: of the files of each pass, without ending.
    """

    folder: Path
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, folder: Path, model: ModelView, data: Iterable[Dataset | None], recipe: Recipe, run: object
    ) -> Checkpoints:
        """The checkpoints of one run.

        Args:
            folder: where they lie.
            model: the original.
            data: samples to train on and to choose by.
            recipe: what is run.
            run: anything else the result depends on (seed, threads); its ``repr`` counts.
        """
        table = recipe.table()
        steps = table.pop("pass")
        first = [fingerprint(model), *map(_samples_digest, data), repr(table), repr(run)]
        key, names = _digest(*first, repr(runtime_versions())), []
        for number, step in enumerate(steps, 1):
            key = _digest(key, repr(step))
            names.append(f"{number:02}-{step['name']}-{key[:_KEY]}")
        return cls(folder, tuple(names))

    def make_folder(self) -> None:
        """Make the folder, before any work is done for it.

        Raises:
            OutputError: it cannot be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"no folder for checkpoints ({error.strerror})",
                where=self.folder,
                hint=f"Create the one it is to lie in: mkdir -p {self.folder.absolute().parent}",
            ) from error

    def recall(self, position: int) -> tuple[ModelView, StepReport] | None:
        """The model after a pass and the pass's report, if an earlier run got there."""
        said = self._beside(position, "json")
        if not said.exists():
            return None
        try:
            content = json.loads(said.read_text(encoding="utf-8"))
            report = _report(content["report"])
            return ModelView.load(self._beside(position, "onnx")), StepReport(
                content["name"], report, content["seconds"]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unusable(said, error) from error

    def keep(self, position: int, model: ModelView, step: StepReport) -> None:
        """Write the model after a pass, then its report: where there is a report, both are whole.

        Raises:
            OutputError: the disk refuses.
        """
        model.save(self._beside(position, "onnx"))
        write_text(self._beside(position, "json"), json.dumps(asdict(step)) + "\n")

    def found(self) -> int:
        """How many passes from the first one on an earlier run has done."""
        there = [self._beside(position, "json").exists() for position in range(len(self.names))]
        return there.index(False) if False in there else len(there)

    def _beside(self, position: int, ending: str) -> Path:
        return self.folder / f"{self.names[position]}.{ending}"


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Return the checkpoints that earlier runs left in a folder."""
    name = re.compile(rf"\d\d+-.+-[0-9a-f]{{{_KEY}}}\.(onnx|json)")
    return tuple(sorted(file for file in folder.glob("*") if name.fullmatch(file.name)))


def _report(table: dict[str, Any]) -> PassReport:
    return PassReport(
        changed=table["changed"],
        edits=tuple(Edit(**edit) for edit in table["edits"]),
        skipped=tuple(Skip(**skip) for skip in table["skipped"]),
        figures=table["figures"],
        unmet=table.get("unmet"),
    )


def _samples_digest(data: Dataset | None) -> str:
    """Of how many samples there are and of some of them, spread evenly."""
    if data is None:
        return ""
    some = np.unique(np.linspace(0, len(data) - 1, min(_SAMPLES, len(data))).astype(np.int64))
    digest = hashlib.sha256(str(len(data)).encode())
    for batch in data.select(some).batches(len(some)):
        for name, array in sorted(batch.feeds.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"" if batch.labels is None else np.ascontiguousarray(batch.labels).tobytes())
    return digest.hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _unusable(said: Path, error: Exception) -> OutputError:
    return OutputError(
        "a checkpoint cannot be read",
        where=said,
        got=f"{type(error).__name__}: {error}",
        hint="Delete it, and the pass is run again.",
    )
