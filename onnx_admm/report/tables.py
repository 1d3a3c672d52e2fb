"""The terminal's view of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType

from onnx_admm.report.facts import Comparison, ModelFacts, QualityFacts, Report, StepFacts
from onnx_admm.report.frontier import Point
from onnx_admm.report.plain_table import PlainTable, line

_UNKNOWN = "-"


def report_view(report: Report, *, verbose: bool = False) -> Iterator[RenderableType]:
    """A compression: the comparison, the passes, and what a user should know."""
    yield from comparison_view(report.comparison)
    if verbose:
        yield model_table(report.comparison.after, _names(report.comparison))
        yield steps_table(report.steps)
        yield from (budget_table(step) for step in report.steps if _has_budget(step))
    for note in report.notes:
        yield line(f"Note: {note}")
    if report.written:
        yield line(f"{report.comparison.after.path} written in {report.seconds:.1f} s.")


def comparison_view(comparison: Comparison) -> Iterator[RenderableType]:
    """Two models side by side."""
    before, after = comparison.before, comparison.after
    table = PlainTable("", "before", "after", "")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("file bytes", *_counts(before.file_bytes, after.file_bytes), _times(comparison.file_ratio))
    table.add_row("  needed to decode", *_counts(before.sizes.decode, after.sizes.decode))
    table.add_row("  data + index", *_counts(before.sizes.data_index, after.sizes.data_index))
    table.add_row("  data only", *_counts(before.sizes.data, after.sizes.data))
    table.add_row("weights", *_counts(before.parameters, after.parameters))
    ratio = _times(comparison.pruning_ratio)
    table.add_row("nonzero weights", *_counts(before.nonzeros, after.nonzeros), ratio)
    table.add_row("bits of a weight", _bits(before), _bits(after))
    table.add_row("MACs", *_counts(before.macs, after.macs))
    for quality in comparison.quality:
        _add_quality(table, quality)
    timing = comparison.timing
    if timing is not None:
        latencies = (f"{timing.before_us:,.1f}", f"{timing.after_us:,.1f}")
        table.add_row(
            f"latency, us ({_plural(timing.threads, 'thread')})", *latencies, f"{timing.ratio:.2f}x time"
        )
        loads = (timing.before_load_ms, timing.after_load_ms)
        ratio = f"{loads[1] / loads[0]:.2f}x time" if loads[0] > 0 else ""
        table.add_row("load, ms", *(f"{load:.1f}" for load in loads), ratio)
    table.add_row("opset", str(before.opset), str(after.opset))
    yield table


def model_table(facts: ModelFacts, names: Sequence[str] | None = None) -> PlainTable:
    """Layer by layer, and the sum; ``names`` to call the layers by instead of their own."""
    table = PlainTable()
    table.add_column("layer", overflow="fold")
    for name in ("op", "shape"):
        table.add_column(name)
    for name in ("weights", "nonzero", "bits", "MACs", "data", "+ index", "decode"):
        table.add_column(name, justify="right")
    for layer, name in zip(facts.layers, names or [layer.weight for layer in facts.layers], strict=True):
        sizes = layer.sizes
        table.add_row(
            name,
            layer.op_type,
            "x".join(map(str, layer.shape)),
            *_counts(layer.parameters, layer.nonzeros, layer.bits, layer.macs),
            *_counts(sizes.data, sizes.data_index, sizes.decode),
        )
    sizes = facts.sizes
    table.add_row(
        "all",
        "",
        "",
        *_counts(facts.parameters, facts.nonzeros),
        _bits(facts),
        *_counts(facts.macs, sizes.data, sizes.data_index, sizes.decode),
        style="bold",
    )
    return table


def steps_table(steps: Iterable[StepFacts]) -> PlainTable:
    """Pass by pass: what changed, what was left alone and why; ``budget_table`` has budgets."""
    table = PlainTable("pass", "layer", "what happened")
    for step in steps:
        outcome = "changed the model" if step.changed else "changed nothing"
        table.add_row(step.name, "", f"{outcome}, {step.seconds:.1f} s")
        edits = () if _has_budget(step) else step.edits.items()
        for layer, what in (*edits, *((name, f"left: {why}") for name, why in step.skipped.items())):
            table.add_row("", layer, what)
    return table


def sweep_table(points: Sequence[Point]) -> PlainTable:
    """File by file: the budget, what was reached, and whether another file beats it."""
    table = PlainTable()
    table.add_column("file", overflow="fold")
    for name in ("asked", "reached", "bytes", "weights", "accuracy", "lost", "SQNR", "latency", "frontier"):
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(
            point.file,
            f"{point.asked:g}x",
            f"{point.reached:.3g}x",
            f"{point.file_bytes:,}",
            f"1 in {point.pruning_ratio:.3g}",
            _UNKNOWN if point.accuracy is None else _percent(point.accuracy),
            _UNKNOWN if point.drop_points is None else f"{point.drop_points:.2f} points",
            _UNKNOWN if point.sqnr_db is None else f"{point.sqnr_db:.1f} dB",
            _UNKNOWN if point.latency_ratio is None else f"{point.latency_ratio:.2f}x",
            "not written" if point.missed is not None else "yes" if point.on_frontier else "no",
        )
    return table


def _has_budget(step: StepFacts) -> bool:
    return all(isinstance(step.figures.get(key), Mapping) for key in ("layers", "budget"))


def budget_table(step: StepFacts) -> PlainTable:
    """Layer by layer what a pass with a budget made of it, at what price, and why."""
    layers, budget = step.figures["layers"], step.figures["budget"]
    table = PlainTable()
    table.add_column("layer", overflow="fold")
    for name in ("kept", "bits", *(f"{figure}, % of all" for figure in budget), "break-even"):
        table.add_column(name, justify="right")
    table.add_column("why", overflow="fold")
    for name, row in layers.items():
        shares = [
            f"{100 * row['dense_cost'][figure] / whole['original']:.2f} -> "
            f"{100 * row['cost'][figure] / whole['original']:.2f}"
            for figure, whole in budget.items()
        ]
        ratio = row["break_even"]
        table.add_row(
            name,
            _percent(row["density"]),
            str(row["bits"]),
            *shares,
            "never" if ratio is None else f"{ratio:.3g}x",
            row["why"],
        )
    return table


def _names(comparison: Comparison) -> list[str] | None:
    """The original's layer names for the result's layers, where each still has its counterpart."""
    before, after = comparison.before.layers, comparison.after.layers
    if [layer.op_type for layer in before] != [layer.op_type for layer in after]:
        return None
    return [layer.weight for layer in before]


def _add_quality(table: PlainTable, quality: QualityFacts) -> None:
    title = f"{quality.data}, {quality.samples:,} samples"
    if quality.accuracy_before is not None and quality.accuracy_after is not None:
        accuracies = (_percent(quality.accuracy_before), _percent(quality.accuracy_after))
        table.add_row(f"accuracy ({title})", *accuracies, f"{-(quality.drop_points or 0.0):+.2f} points")
    if quality.agreement is not None:
        table.add_row(f"same prediction ({title})", "", _percent(quality.agreement))
    if quality.sqnr_db is not None:
        table.add_row(f"output SQNR ({title})", "", f"{quality.sqnr_db:.1f} dB")
    if len(quality.sqnr_by_output) > 1:
        for output, figure in quality.sqnr_by_output.items():
            table.add_row(f"  of {output}", "", f"{figure:.1f} dB")


def _counts(*figures: int | None) -> tuple[str, ...]:
    return tuple(_UNKNOWN if figure is None else f"{figure:,}" for figure in figures)


def _bits(facts: ModelFacts) -> str:
    widths = sorted({layer.bits for layer in facts.layers})
    if not widths:
        return _UNKNOWN
    return str(widths[0]) if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _times(ratio: float) -> str:
    return f"{ratio:,.1f}x"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
