"""Terminal tables of a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType

from onnx_admm.report.comparison import UNKNOWN, Comparison, bits_of, counts, percent
from onnx_admm.report.compression import Report
from onnx_admm.report.facts import KernelFacts, ModelFacts, StepFacts
from onnx_admm.report.frontier import Point
from onnx_admm.report.plain_table import PlainTable, line


def report_view(report: Report, *, verbose: bool = False) -> Iterator[RenderableType]:
    """Yield the comparison, the passes, and the notes of a compression."""
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
    """Yield the comparison of two models."""
    table = PlainTable("", "before", "after", "")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison.rows():
        table.add_row(*row)
    yield table
    if comparison.kernels:
        yield kernel_table(comparison.kernels)


def kernel_table(kernels: Sequence[KernelFacts]) -> PlainTable:
    """Return a table of the kernels of each layer before and after, with their times."""
    table = PlainTable()
    table.add_column("layer", overflow="fold")
    for title in ("before", "after"):
        table.add_column(f"kernels {title}", overflow="fold")
        table.add_column(f"us {title}", justify="right")
    for row in kernels:
        pairs = ((row.before, row.before_us), (row.after, row.after_us))
        cells = [cell for names, time in pairs for cell in (", ".join(names) or UNKNOWN, _microseconds(time))]
        table.add_row(row.layer or "all other nodes", *cells)
    return table


def _microseconds(time: float | None) -> str:
    return UNKNOWN if time is None else f"{time:,.1f}"


def model_table(facts: ModelFacts, names: Sequence[str] | None = None) -> PlainTable:
    """Return a table of layers and their sum; ``names`` replace the layers' own names."""
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
            *counts(layer.parameters, layer.nonzeros, layer.bits, layer.macs),
            *counts(sizes.data, sizes.data_index, sizes.decode),
        )
    sizes = facts.sizes
    table.add_row(
        "all",
        "",
        "",
        *counts(facts.parameters, facts.nonzeros),
        bits_of(facts),
        *counts(facts.macs, sizes.data, sizes.data_index, sizes.decode),
        style="bold",
    )
    return table


def steps_table(steps: Iterable[StepFacts]) -> PlainTable:
    """Return a table of passes: changed and unchanged layers with reasons; see also ``budget_table``."""
    table = PlainTable("pass", "layer", "what happened")
    for step in steps:
        outcome = "changed the model" if step.changed else "changed nothing"
        table.add_row(step.name, "", f"{outcome}, {step.seconds:.1f} s")
        edits = () if _has_budget(step) else step.edits.items()
        for layer, what in (*edits, *((name, f"left: {why}") for name, why in step.skipped.items())):
            table.add_row("", layer, what)
    return table


def sweep_table(points: Sequence[Point]) -> PlainTable:
    """Return a table of files: budget, result, and whether another file dominates it."""
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
            UNKNOWN if point.accuracy is None else percent(point.accuracy),
            UNKNOWN if point.drop_points is None else f"{point.drop_points:.2f} points",
            UNKNOWN if point.sqnr_db is None else f"{point.sqnr_db:.1f} dB",
            UNKNOWN if point.latency_ratio is None else f"{point.latency_ratio:.2f}x",
            "not written" if point.missed is not None else "yes" if point.on_frontier else "no",
        )
    return table


def _has_budget(step: StepFacts) -> bool:
    return all(isinstance(step.figures.get(key), Mapping) for key in ("layers", "budget"))


def budget_table(step: StepFacts) -> PlainTable:
    """Return a table of layers of a pass with a budget: option, cost and reason."""
    layers, budget = step.figures["layers"], step.figures["budget"]
    table = PlainTable()
    table.add_column("layer", overflow="fold")
    for name in ("kept", "bits", *(f"{quantity}, % of all" for quantity in budget), "break-even"):
        table.add_column(name, justify="right")
    table.add_column("why", overflow="fold")
    for name, row in layers.items():
        shares = [
            f"{100 * row['dense_cost'][quantity] / whole['original']:.2f} -> "
            f"{100 * row['cost'][quantity] / whole['original']:.2f}"
            for quantity, whole in budget.items()
        ]
        ratio = row["break_even"]
        table.add_row(
            name,
            percent(row["density"]),
            str(row["bits"]),
            *shares,
            "never" if ratio is None else f"{ratio:.3g}x",
            row["why"],
        )
    return table


def _names(comparison: Comparison) -> list[str] | None:
    """Return the original's layer names for the result's layers, where each has a counterpart."""
    before, after = comparison.before.layers, comparison.after.layers
    if [layer.op_type for layer in before] != [layer.op_type for layer in after]:
        return None
    return [layer.weight for layer in before]
