"""Comparison of two models: figures, rows of a table, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from onnx_admm.report.document import Document
from onnx_admm.report.facts import KernelFacts, ModelFacts, QualityFacts, Timing
from onnx_admm.report.markup import html_table, markdown_table
from onnx_admm.report.promises import Promise

HEADERS = ("", "before", "after", "change")
UNKNOWN = "-"


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Document):
    """Two model files side by side.

    Attributes:
        before, after: facts of the two files.
        quality: quality on samples; promises are judged on the first set.
        timing: latency of the two; None where there were no samples to run.
        kernels: kernels of each layer in both, where they were asked for.
        promises: promises that apply to the second file, and whether they are met (see ``gate``).
    """

    before: ModelFacts
    after: ModelFacts
    quality: tuple[QualityFacts, ...] = ()
    timing: Timing | None = None
    kernels: tuple[KernelFacts, ...] = ()
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
    def accuracy_before(self) -> float | None:
        """Accuracy of the first, 0 to 1, on the first samples with labels; None without such."""
        return next((quality.accuracy_before for quality in self.quality if _is_scored(quality)), None)

    @property
    def accuracy_after(self) -> float | None:
        """Accuracy of the second, 0 to 1, on the same samples; None without such."""
        return next((quality.accuracy_after for quality in self.quality if _is_scored(quality)), None)

    @property
    def agreement(self) -> float | None:
        """Share of the first samples on which both predict the same, 0 to 1; None without classes."""
        return next((quality.agreement for quality in self.quality), None)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise of all float outputs on the first samples, in dB; None without such outputs."""
        return next((quality.sqnr_db for quality in self.quality), None)

    @property
    def latency_ratio(self) -> float | None:
        """Latency of the second over that of the first: below 1 it is faster; None where not measured."""
        return None if self.timing is None else self.timing.ratio

    @property
    def missed(self) -> Promise | None:
        """The first promise that is not met; None where all are."""
        return next((promise for promise in self.promises if not promise.met), None)

    @property
    def verdict(self) -> Literal["met", "missed"] | None:
        """Whether all promises are met; None where there are none."""
        if not self.promises:
            return None
        return "met" if self.missed is None else "missed"

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield rows of a table, each of four texts: what, before, after, change."""
        before, after = self.before, self.after
        yield "file bytes", *counts(before.file_bytes, after.file_bytes), _times(self.file_ratio)
        yield "  needed to decode", *counts(before.sizes.decode, after.sizes.decode), ""
        yield "  data + index", *counts(before.sizes.data_index, after.sizes.data_index), ""
        yield "  data only", *counts(before.sizes.data, after.sizes.data), ""
        yield "weights", *counts(before.parameters, after.parameters), ""
        pruned = _times(self.pruning_ratio) if before.parameters else ""
        yield "nonzero weights", *counts(before.nonzeros, after.nonzeros), pruned
        yield "bits of a weight", bits_of(before), bits_of(after), ""
        yield "MACs", *counts(before.macs, after.macs), ""
        for quality in self.quality:
            yield from _quality_rows(quality)
        if self.timing is not None:
            yield from _timing_rows(self.timing)
        yield "opset", str(before.opset), str(after.opset), ""

    def to_markdown(self) -> str:
        """Return the two models side by side as a table of GitHub's Markdown."""
        return markdown_table(HEADERS, self.rows())

    def _repr_html_(self) -> str:
        return html_table(HEADERS, self.rows())

    def __repr__(self) -> str:
        return f"Comparison({self.summary()})"

    def summary(self) -> str:
        """Return the result in one line: bytes, accuracy or output error, latency."""
        before, after = self.before.file_bytes, self.after.file_bytes
        parts = [f"{before:,} to {after:,} bytes, {self.file_ratio:.1f}x smaller"]
        if self.accuracy_before is not None and self.accuracy_after is not None:
            scored = next(filter(_is_scored, self.quality))
            parts.append(f"{scored.metric} {' to '.join(score_text(scored))}")
        elif self.sqnr_db is not None:
            parts.append(f"output SQNR {self.sqnr_db:.1f} dB")
        if self.latency_ratio is not None:
            parts.append(f"{self.latency_ratio:.2f}x the latency")
        return ", ".join(parts)


def _is_scored(quality: QualityFacts) -> bool:
    return quality.accuracy_before is not None and quality.accuracy_after is not None


def _quality_rows(quality: QualityFacts) -> Iterator[tuple[str, ...]]:
    title = f"{quality.data}, {quality.samples:,} samples"
    if quality.accuracy_before is not None and quality.accuracy_after is not None:
        scores = score_text(quality)
        yield f"{quality.metric} ({title})", *scores, f"{-(quality.drop_points or 0.0):+.2f} points"
    if quality.agreement is not None:
        yield f"same prediction ({title})", "", percent(quality.agreement), ""
    if len(quality.agreement_by_output) > 1:
        for output, share in quality.agreement_by_output.items():
            yield f"  of {output}", "", percent(share), ""
    if quality.sqnr_db is not None:
        how = ", same rows chosen" if quality.same_choices else ""
        yield f"output SQNR ({title}{how})", "", f"{quality.sqnr_db:.1f} dB", ""
    if len(quality.sqnr_by_output) > 1:
        for output, decibels in quality.sqnr_by_output.items():
            yield f"  of {output}", "", f"{decibels:.1f} dB", ""


def _timing_rows(timing: Timing) -> Iterator[tuple[str, ...]]:
    threads = "1 thread" if timing.threads == 1 else f"{timing.threads} threads"
    latencies = (four_digits(timing.before_us), four_digits(timing.after_us))
    yield f"latency, us ({threads})", *latencies, f"{timing.ratio:.2f}x time"
    loads = (timing.before_load_ms, timing.after_load_ms)
    ratio = f"{loads[1] / loads[0]:.2f}x time" if loads[0] > 0 else ""
    yield "load, ms", four_digits(loads[0]), four_digits(loads[1]), ratio


def four_digits(figure: float) -> str:
    """Return a number with four digits or more, so that a ratio beside two of them is theirs to the last."""
    decimals = 3 - math.floor(math.log10(abs(figure))) if figure else 0
    return f"{figure:,.{max(0, decimals)}f}"


def score_text(quality: QualityFacts) -> tuple[str, str]:
    """Return the accuracy before and after as percentages, another metric as plain numbers."""
    pair = (quality.accuracy_before or 0.0, quality.accuracy_after or 0.0)
    before, after = (percent(each) if quality.metric == "accuracy" else f"{each:.4f}" for each in pair)
    return before, after


def counts(*figures: int | None) -> tuple[str, ...]:
    """Return the numbers with separators of thousands; a dash for each unknown one."""
    return tuple(UNKNOWN if figure is None else f"{figure:,}" for figure in figures)


def bits_of(facts: ModelFacts) -> str:
    """Return the bits of a model's weights: one number, or the least and the most."""
    widths = sorted({layer.bits for layer in facts.layers})
    if not widths:
        return UNKNOWN
    return str(widths[0]) if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"


def percent(share: float) -> str:
    """Return a share as a percentage with two decimals."""
    return f"{100 * share:.2f} %"


def _times(ratio: float) -> str:
    return f"{ratio:,.1f}x"
