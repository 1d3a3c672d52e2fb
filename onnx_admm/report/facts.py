"""The report's data: two models side by side, and the run that made one of the other."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Self

import numpy as np
import pydantic

from onnx_admm.errors import UsageError
from onnx_admm.report.costs import CostFacts
from onnx_admm.report.promises import Promise

SCHEMA_VERSION = 1
"""Rises whenever a field of the JSON changes its meaning or goes away."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Four sizes that are easily mixed up, in bytes.

    Attributes:
        data: codes of the kept weights alone, ``ceil(nonzeros * bits / 8)``; cannot be decoded alone.
        data_index: what is stored of codes and of where they stand.
        decode: every stored constant: also codebooks, scales, biases, tables.
        file: the whole file, external data included; None for one layer.
    """

    data: int
    data_index: int
    decode: int
    file: int | None = None


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One weight as the file stores it.

    Attributes:
        weight: its name.
        node: the first node that uses it.
        macs: multiply-accumulates for one sample of all nodes that use it; None where a shape is unknown.
        bits: of one kept weight.
    """

    weight: str
    node: str
    op_type: str
    shape: tuple[int, ...]
    parameters: int
    nonzeros: int
    bits: int
    macs: int | None
    sizes: Sizes


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model file: what it holds and what it needs.

    Attributes:
        parameters: elements of all weights, biases left out.
        nonzeros: those that are not zero.
        macs: of one sample; None where a shape is unknown.
        opset: oldest operator set a runtime must know.
        provenance: passes that made it.
    """

    path: str
    parameters: int
    nonzeros: int
    macs: int | None
    opset: int
    ir_version: int
    sizes: Sizes
    layers: tuple[LayerFacts, ...]
    provenance: str = ""

    @property
    def file_bytes(self) -> int:
        """The whole file."""
        return self.sizes.file or 0


@dataclass(frozen=True, kw_only=True)
class QualityFacts:
    """Both models on the same samples, none of them trained on.

    Attributes:
        data: ``validation``, ``test``, ``data`` or ``synthetic``.
        accuracy_before, accuracy_after: shares of right predictions; None without labels or classes.
        agreement: share of samples on which both predict the same class; None where there are none.
        sqnr_db: output error, ``10 log10(sum before^2 / sum (before - after)^2)``, over all outputs.
        sqnr_by_output: the same for each output by itself.
        judged_db: the same as the gate judges it: values near zero count as a floor at least, and samples
            whose output has another shape are left out.
        same_shape: share of the samples on which an output keeps its shape; outputs that always do are left
            out.
        same_elements: share of the elements of each output that is no float that stay the same.
        is_classifier: whether the model ends in a Softmax or ArgMax: predictions count for themselves.
    """

    data: str
    samples: int
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    sqnr_by_output: Mapping[str, float] = field(default_factory=dict)
    judged_db: Mapping[str, float] = field(default_factory=dict)
    same_shape: Mapping[str, float] = field(default_factory=dict)
    same_elements: Mapping[str, float] = field(default_factory=dict)
    is_classifier: bool = False

    @property
    def drop_points(self) -> float | None:
        """Accuracy lost, in percentage points; without labels the disagreement; None without classes."""
        if self.accuracy_before is not None and self.accuracy_after is not None:
            return 100.0 * (self.accuracy_before - self.accuracy_after)
        return None if self.agreement is None else 100.0 * (1.0 - self.agreement)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Medians of interleaved runs of one sample; ``ratio`` below 1: the second model is faster."""

    before_us: float
    after_us: float
    ratio: float
    before_load_ms: float
    after_load_ms: float
    threads: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two model files side by side.

    Attributes:
        promises: what holds for the second file, and whether it is met (see ``gate``).
    """

    before: ModelFacts
    after: ModelFacts
    quality: tuple[QualityFacts, ...] = ()
    timing: Timing | None = None
    promises: tuple[Promise, ...] = ()

    @property
    def pruning_ratio(self) -> float:
        """Weights of the first over nonzeros of the second."""
        return self.before.parameters / max(1, self.after.nonzeros)

    @property
    def file_ratio(self) -> float:
        """Bytes of the first over bytes of the second."""
        return self.before.file_bytes / max(1, self.after.file_bytes)

    @property
    def missed(self) -> Promise | None:
        """The first promise that is not met; None where all are."""
        return next((promise for promise in self.promises if not promise.met), None)


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """One pass of the run; ``figures`` are its own (ADMM residuals by iteration, for one)."""

    name: str
    changed: bool
    seconds: float
    edits: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A compression, from end to end.

    Attributes:
        comparison: original and result; the result as reloaded from disk.
        steps: the passes.
        recipe: TOML that repeats the run, given the same data and seed.
        written: whether the result is at its place.
        notes: what a user should know.
        frozen_defaults: initializers that the original lists as inputs and the result does not.
        inputs: digest of each file that was read, ``sha256:`` and what ``sha256sum`` says; of a folder one of
            all its files.
        outputs: the same of the result and of the file that holds its weights, if there is one.

    As JSON it ends in ``digest``, the SHA-256 of all that stands before, with keys sorted and no spaces.
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
        if (stated := json.loads(text).pop("digest", None)) is not None and stated != _digest(
            json.loads(text)
        ):
            raise UsageError(
                "the report was changed after it was written; its digest does not fit its content"
            )
        return report  # type: ignore[return-value]

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


def to_json(facts: Report | Comparison | ModelFacts | CostFacts) -> str:
    """Facts as JSON: fields and what follows from them, and the schema version.

    A number that is not finite becomes null.
    """
    content = {"schema_version": SCHEMA_VERSION, **_plain(facts)}
    if isinstance(facts, Report):
        content["digest"] = _digest(content)
    return json.dumps(content, indent=2) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    told = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        derived = [name for name, member in vars(type(value)).items() if isinstance(member, property)]
        return {name: _plain(getattr(value, name)) for name in [*(f.name for f in fields(value)), *derived]}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


_ADAPTER = pydantic.TypeAdapter(Report)
