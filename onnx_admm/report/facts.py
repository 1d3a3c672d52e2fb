"""The report's data: models, their quality side by side, passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx_admm.report.document import Document


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Four sizes that are easily mixed up, in bytes.

    Attributes:
        data: codes of the kept weights alone, ``ceil(nonzeros * bits / 8)``; cannot be decoded alone.
        data_index: codes and the index of their positions.
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
        bits: bits of one kept weight.
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
class OtherWeight:
    """A constant that may be a weight, of an operator that the tool does not know as a layer.

    Attributes:
        name: name of the constant.
        bytes: bytes in the file.
        why: why it is no layer.
    """

    name: str
    bytes: int
    why: str


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelFacts(Document):
    """A model file: what it holds and what it needs.

    Attributes:
        parameters: elements of all weights, biases left out.
        nonzeros: those that are not zero.
        macs: multiply-accumulates of one sample; None where a shape is unknown.
        opset: oldest operator set a runtime must know.
        other_weights: what may be weights beside the layers; it counts in the file's bytes alone.
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
    other_weights: tuple[OtherWeight, ...] = ()
    provenance: str = ""

    @property
    def file_bytes(self) -> int:
        """The whole file."""
        return self.sizes.file or 0

    def __repr__(self) -> str:
        return (
            f"ModelFacts({self.path}: {self.file_bytes:,} bytes, {len(self.layers)} layers, "
            f"{self.nonzeros:,} of {self.parameters:,} weights nonzero)"
        )


@dataclass(frozen=True, kw_only=True)
class QualityFacts:
    """Both models on the same samples, none of them trained on.

    Attributes:
        data: ``validation``, ``test``, ``data`` or ``synthetic``.
        metric: what ``accuracy_before``, ``accuracy_after`` and ``drop_points`` measure: ``accuracy``, the
            requested metric, or ``agreement`` where there are no labels.
        accuracy_before, accuracy_after: shares of right predictions; None without labels or classes.
        agreement: share of samples on which both predict the same class; None where there are none. Where
            several outputs have classes, the least of their shares.
        agreement_by_output: the share of each output with classes.
        sqnr_db: output error, ``10 log10(sum before^2 / sum (before - after)^2)``, over all outputs.
        sqnr_by_output: the same for each output by itself, and for each part of one that is joined of several
            (``boxes[:, 0:4]``).
        judged_db: the same as the gate judges it: values near zero count as a floor at least, and samples
            whose output has another shape are left out.
        same_shape: share of the samples on which an output keeps its shape; outputs that always do are left
            out.
        same_elements: share of the elements of each output that is no float that stay the same.
        is_classifier: whether the model ends in a Softmax or ArgMax: predictions count for themselves.
        same_choices: whether the models choose rows by their scores, such as boxes: outputs are then compared
            with the same rows chosen in both, but accuracy is that of the files.
    """

    data: str
    samples: int
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    agreement: float | None = None
    agreement_by_output: Mapping[str, float] = field(default_factory=dict)
    sqnr_db: float | None = None
    sqnr_by_output: Mapping[str, float] = field(default_factory=dict)
    judged_db: Mapping[str, float] = field(default_factory=dict)
    same_shape: Mapping[str, float] = field(default_factory=dict)
    same_elements: Mapping[str, float] = field(default_factory=dict)
    is_classifier: bool = False
    same_choices: bool = False
    metric: str = "accuracy"

    @property
    def drop_points(self) -> float | None:
        """Points lost of the metric; of ``agreement`` what it lacks to 100 %; None without classes."""
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
class KernelFacts:
    """What the runtime computes one layer with, in two models.

    Attributes:
        layer: name of the layer's weight; empty for all nodes without one.
        before, after: operators of the kernels; empty where the model does not have the layer.
        before_us, after_us: microseconds of one run; None where a kernel does not run alone.
    """

    layer: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    before_us: float | None = None
    after_us: float | None = None


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """One pass of the run; ``figures`` are its own (ADMM residuals by iteration, for one)."""

    name: str
    changed: bool
    seconds: float
    edits: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
