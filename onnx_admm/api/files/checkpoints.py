"""Checkpoints: results of passes in a folder, from which an interrupted run continues."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from onnx_admm.api.files.digests import file_digest
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Edit, ModelView, PassReport, Skip
from onnx_admm.errors import LimitReached, OutputError, UsageError, reason_of
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.model.writing.atomic_output import write_text
from onnx_admm.model.writing.external_files import external_files
from onnx_admm.pipeline import StepReport
from onnx_admm.runtime.sessions import runtime_versions
from onnx_admm.runtime.timing_cache import are_current, forget_used_timings, used_timings

_KEY = 12


@dataclass(frozen=True)
class Checkpoints:
    """A `pipeline.Journal` in a folder: ``01-admm_prune-<key>.onnx``, and the report of the pass next to it.

    A key is a digest of all that the model after a pass depends on: the contents of the original, of the data
    and of the target's profile, the seed, the settings, the passes so far, the versions. So one folder serves
    any number of runs, and a run never finds the results of a different one. The report next to a model
    states the key, the digests of the model's files, the measured times that it depends on, and a digest of
    itself.

    Attributes:
        folder: folder of the checkpoints.
        names: file names for each pass, without ending.
        keys: key of each pass.
        stale: positions whose result was chosen by times that are no longer valid.
    """

    folder: Path
    names: tuple[str, ...]
    keys: tuple[str, ...]
    stale: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, folder: Path, model: ModelView, data: Iterable[str], recipe: Recipe, run: object) -> Self:
        """Return the checkpoints of one run.

        Args:
            folder: folder of the checkpoints.
            model: the original.
            data: digests of other inputs: training and validation samples, the target's profile.
            recipe: the recipe that is run.
            run: anything else the result depends on (seed, threads); its ``repr`` counts.
        """
        forget_used_timings()
        table = recipe.table()
        steps = table.pop("pass")
        first = [fingerprint(model), *data, repr(table), repr(run)]
        key, keys, names = _digest(*first, repr(runtime_versions())), [], []
        for number, step in enumerate(steps, 1):
            key = _digest(key, repr(step))
            keys.append(key)
            names.append(f"{number:02}-{step['name']}-{key[:_KEY]}")
        return cls(folder, tuple(names), tuple(keys))

    def make_folder(self) -> None:
        """Create the folder, before any work is done.

        Raises:
            OutputError: it cannot be created.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"no folder for checkpoints ({error.strerror})",
                where=self.folder,
                hint=f"Create its parent: mkdir -p {self.folder.absolute().parent}",
            ) from error

    def recall(self, position: int) -> tuple[ModelView, StepReport] | None:
        """Return the model after a pass and the pass's report, if an earlier run completed it.

        None for a result that was chosen by times that have been measured again since, and for all behind it.

        Raises:
            UsageError: a checkpoint is damaged, or not what was written.
        """
        report_file = self._sibling(position, "json")
        if not report_file.exists() or any(stale <= position for stale in self.stale):
            return None
        try:
            content = _verified(report_file, self.keys[position])
            if not are_current(content["timings"]):
                self.stale.add(position)
                return None
            model = self._sibling(position, "onnx")
            for name, digest in content["files"].items():
                if file_digest(model.with_name(name)) != digest:
                    raise ValueError(f"{name} is not the file that was written")
            step = StepReport(content["name"], _report(content["report"]), content["seconds"])
            return ModelView.load(model), step
        except LimitReached:
            raise
        except Exception as error:
            raise _unusable(report_file, error) from error

    def keep(self, position: int, model: ModelView, step: StepReport) -> None:
        """Write the model after a pass, then its report: where there is a report, both are complete.

        Raises:
            OutputError: the disk refuses.
        """
        place = self._sibling(position, "onnx")
        model.save(place)
        files = (place, *external_files(place))
        content = {
            **asdict(step),
            "key": self.keys[position],
            "files": {file.name: file_digest(file) for file in files},
            "timings": used_timings(),
        }
        text = json.dumps({**content, "digest": _content_digest(content)})
        write_text(self._sibling(position, "json"), text + "\n")

    def found(self) -> int:
        """Return the number of passes, from the first one on, that an earlier run completed."""
        there = [self._holds(position) for position in range(len(self.names))]
        return there.index(False) if False in there else len(there)

    def _holds(self, position: int) -> bool:
        """Return whether the report of a pass exists, and its measured times are still valid."""
        report_file = self._sibling(position, "json")
        if not report_file.exists():
            return False
        try:
            return are_current(_verified(report_file, self.keys[position])["timings"])
        except Exception:  # noqa: BLE001 (whatever the parser raises on a damaged file)
            return True  # `recall` reports the error

    def _sibling(self, position: int, ending: str) -> Path:
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


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _verified(file: Path, key: str) -> dict[str, Any]:
    """Return the content of a checkpoint's report.

    Raises:
        ValueError: it is damaged, or of another run.
    """
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("digest", None) != _content_digest(content):
        raise ValueError("its digest does not fit its content")
    if content["key"] != key:
        raise ValueError("it was written for another run")
    return content


def _content_digest(content: dict[str, Any]) -> str:
    return _digest(json.dumps(content, sort_keys=True))


def _unusable(report_file: Path, error: Exception) -> UsageError:
    return UsageError(
        "a checkpoint is damaged",
        where=report_file,
        got=reason_of(error),
        hint="Delete it. The pass is then run again.",
    )
