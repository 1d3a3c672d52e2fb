"""The report of a compression."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import pydantic

from onnx_admm.errors import UsageError
from onnx_admm.report.comparison import HEADERS, Comparison
from onnx_admm.report.document import SCHEMA_VERSION, Document, digest_of
from onnx_admm.report.facts import StepFacts
from onnx_admm.report.markup import html_list, html_table, markdown_table, markdown_text


@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Document):
    """A compression, from end to end.

    Attributes:
        comparison: original and result; the result as reloaded from disk.
        steps: the passes.
        recipe: TOML that repeats the run, given the same data and seed.
        seed: seed of every random choice.
        threads: intra-op threads; 0: the runtime chose.
        seconds: wall-clock seconds of the run.
        versions: versions of the packages that affect the result.
        written: whether the result is at its place.
        notes: what a user should know.
        frozen_defaults: initializers that the original lists as inputs and the result does not.
        inputs: digest of each file that was read, ``sha256:`` and what ``sha256sum`` says; of a folder one of
            all its files.
        outputs: the same of the result and of the file that holds its weights, if there is one.
        schema_version: version of the JSON.

    As JSON it ends in ``digest``, the SHA-256 of all that stands before, with keys sorted and no spaces.

    Example:
        >>> import onnx_admm
        >>> from onnx_admm.testing import varied_family
        >>> report = onnx_admm.compress(varied_family()["chain_of_scales"].to_bytes(), threads=1).report
        >>> report.file_ratio > 5, Report.from_json(report.to_json()) == report
        (True, True)
    """

    comparison: Comparison
    steps: tuple[StepFacts, ...]
    recipe: str
    seed: int
    threads: int
    seconds: float
    versions: Mapping[str, str]
    written: bool
    notes: tuple[str, ...] = ()
    frozen_defaults: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a report back.

        Raises:
            UsageError: not a report, of another schema version, or not what was written.
        """
        try:
            report = _ADAPTER.validate_json(text)
        except pydantic.ValidationError as error:
            raise UsageError("not a report", got=error.errors(include_url=False)[0]["msg"]) from error
        if report.schema_version != SCHEMA_VERSION:
            raise UsageError(
                "a report of another schema version", got=report.schema_version, expected=SCHEMA_VERSION
            )
        content = json.loads(text)
        if (stated := content.pop("digest", None)) is not None and stated != digest_of(content):
            raise UsageError(
                "the report was changed after it was written; its digest does not fit its content"
            )
        return report  # type: ignore[return-value]

    @property
    def file_bytes(self) -> int:
        """Bytes of the result, external data included."""
        return self.comparison.after.file_bytes

    @property
    def file_ratio(self) -> float:
        """Bytes of the original over bytes of the result."""
        return self.comparison.file_ratio

    @property
    def pruning_ratio(self) -> float:
        """Weights of the original over nonzeros of the result."""
        return self.comparison.pruning_ratio

    @property
    def accuracy_before(self) -> float | None:
        """Accuracy of the original, 0 to 1; see `Comparison.accuracy_before`."""
        return self.comparison.accuracy_before

    @property
    def accuracy_after(self) -> float | None:
        """Accuracy of the result, 0 to 1; None without labels."""
        return self.comparison.accuracy_after

    @property
    def agreement(self) -> float | None:
        """Share of samples on which both predict the same, 0 to 1; None without classes."""
        return self.comparison.agreement

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise of the outputs, in dB; None without float outputs."""
        return self.comparison.sqnr_db

    @property
    def latency_ratio(self) -> float | None:
        """Latency of the result over that of the original; None where not measured."""
        return self.comparison.latency_ratio

    @property
    def verdict(self) -> str | None:
        """``met`` or ``missed``: the promises; None where there are none."""
        return self.comparison.verdict

    @property
    def exceeded(self) -> str | None:
        """The sentence of the first promise that is not met; None where all are."""
        missed = self.comparison.missed
        return None if missed is None else str(missed.error())

    def raise_if_missed(self) -> None:
        """Turn the first promise that is not met into its error.

        Raises:
            PromiseMissed: what, and whether the result was written.
        """
        missed = self.comparison.missed
        if missed is not None:
            kept = "The result was kept." if self.written else "The result was not written; --keep writes it."
            raise missed.error(kept)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, what follows from them and the digest, in plain types of JSON."""
        content = super().to_dict()
        return {**content, "digest": digest_of(content)}

    def to_markdown(self) -> str:
        """Return the two models side by side and the notes as Markdown."""
        notes = "".join(f"- {markdown_text(note)}\n" for note in self.notes)
        table = markdown_table(HEADERS, self.comparison.rows())
        return f"{table}\n{notes}" if notes else table

    def _repr_html_(self) -> str:
        return html_table(HEADERS, self.comparison.rows()) + html_list(self.notes)

    def __repr__(self) -> str:
        where = self.comparison.after.path if self.written else "not written"
        return f"Report({where}: {self.comparison.summary()})"


_ADAPTER = pydantic.TypeAdapter(Report)
