"""The frontier of size, cost and accuracy: one model under several budgets, measured once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from onnx_admm.api.compress import Compression
from onnx_admm.api.files.run_files import RunFiles
from onnx_admm.config.flags import Flags, recipe_from_flags
from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import Pass
from onnx_admm.errors import BudgetExceeded, PromiseMissed, UsageError
from onnx_admm.limits import in_a_run
from onnx_admm.model.writing.atomic_output import write_bytes, write_text
from onnx_admm.report import Report, StepFacts
from onnx_admm.report.frontier import Point, to_csv, with_frontier
from onnx_admm.report.plot import draw, require_plots
from onnx_admm.targeting.quantities import require_given, short_name

SHARES = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08)
"""Budgets tried, as shares of what the original costs."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """The result of a sweep.

    Attributes:
        points: in the order of their budgets, the mildest first.
        table: the CSV file.
        end: why the sweep ended early; None where it did not.
    """

    points: tuple[Point, ...]
    table: Path
    end: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Several budgets for one quantity.

    Attributes:
        job: data, target and settings of every run; its budgets, recipe and report are not used.
        quantity: the quantity that budgets limit; None: the cost model's main one.
        shares: budgets as shares of the original's cost, each over 0 and below 1.
        plot: a ``.png`` or ``.svg`` file for a plot of the frontier.

    Example:
        >>> from onnx_admm.api import Compression, Sweep
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["mlp_both_ways"].save("net.onnx")
        >>> job = Compression(cost_model="macs", bind={"N": 1}, threads=1)
        >>> found = Sweep(job=job, shares=[0.8]).run("net.onnx", "results")
        >>> [point.file for point in found.points]
        ['net-macs-0.8x.onnx']
    """

    job: Compression
    quantity: str | None = None
    shares: Sequence[float] = field(default=SHARES)
    plot: str | os.PathLike[str] | None = None

    @in_a_run
    def run(self, source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Swept:
        """Write a file for each budget and ``sweep.csv`` into the folder, which is created if missing.

        Layers are measured once, at the first budget. A budget that no compression option reaches ends the
        sweep. A file that misses a promise (see ``report.gate``) is not written; its figures are.

        Raises:
            UsageError: no cost model, a quantity it does not give, an impossible share, nothing to plot with.
            PromiseMissed: no file could be written.
            OnnxAdmmError: from a run; the files written before it stay.
        """
        quantity = self._quantity()
        if self.plot is not None:
            require_plots(self.plot)
        place = Path(folder)
        if place.exists() and not place.is_dir():
            raise UsageError("not a folder", where=place)
        if not place.absolute().parent.is_dir():
            raise UsageError("the folder in which to create the results does not exist", where=place)
        table = place / "sweep.csv"
        self._files(source, place, quantity).check()
        with _folder(place):
            return self._swept(source, place, table, quantity)

    def _swept(self, source: str | os.PathLike[str], place: Path, table: Path, quantity: str) -> Swept:
        points: list[Point] = []
        measured: object = None
        end = None
        for share in sorted(set(self.shares), reverse=True):
            name = _name(source, quantity, share)
            job = replace(
                self.job,
                recipe=self._recipe(f"{quantity}={share:g}x", measured),
                budget=(),
                epochs=None,
                include=(),
                exclude=(),
                report=None,
                max_drop=None,
                keep=False,
            )
            try:
                report = job.run(source, place / name)
            except BudgetExceeded as error:
                end = str(error)
                break
            step = next(step for step in report.steps if "budget" in step.figures)
            measured = step.figures.get("measured")
            points.append(_point(name, quantity, share, report, step))
            write_text(table, to_csv(with_frontier(points)))
        if not points:
            raise BudgetExceeded(end or "no budget was tried")
        if all(point.missed is not None for point in points):
            missed = (points[0].missed or "").rstrip(".")
            raise PromiseMissed(missed, hint=f"No file was written; {table} has the figures.")
        if self.plot is not None:
            write_bytes(Path(self.plot), draw(with_frontier(points), Path(self.plot).suffix))
        return Swept(points=with_frontier(points), table=table, end=end)

    def _files(self, source: str | os.PathLike[str], folder: Path, quantity: str) -> RunFiles:
        """Return the files that the sweep reads, and all that it may write."""
        files = self.job.reads(source)
        if folder.exists():
            for share in self.shares:
                files.write(folder / _name(source, quantity, share), f"the result at {share:g}x")
            files.write(folder / "sweep.csv", "the table")
        files.write(self.plot, "the plot")
        return files

    def _quantity(self) -> str:
        if self.job.cost_model is None:
            raise UsageError(
                "a sweep needs a cost model",
                hint="Name the target with --cost-model; `onnx-admm plugins` lists them.",
            )
        priced = cost_model(self.job.cost_model)
        quantity = short_name(self.quantity or priced.quantities[0])
        require_given({quantity: 0.5}, priced, "--quantity")
        for share in self.shares:
            if not 0 < share < 1:
                raise UsageError("impossible share", where="--shares", got=share, expected="over 0, below 1")
        return quantity

    def _recipe(self, budget: str, measured: object) -> Recipe:
        flags = Flags(
            budget=(budget,),
            epochs=self.job.epochs,
            fine_tune=self.job.fine_tune is not False and self.job.data is not None,
            format=self.job.format,
            include=tuple(self.job.include),
            exclude=tuple(self.job.exclude),
            cost_model=self.job.cost_model,
        )
        recipe = recipe_from_flags(flags)
        return replace(recipe, passes=tuple(_informed(step, measured) for step in recipe.passes))


@contextmanager
def _folder(place: Path) -> Iterator[None]:
    """Make a folder where it is missing; remove it again if nothing was written into it."""
    is_new = not place.exists()
    place.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):  # not empty
                place.rmdir()


def _name(source: str | os.PathLike[str], quantity: str, share: float) -> str:
    return f"{Path(source).stem}-{quantity}-{share:g}x.onnx"


def _informed(step: Pass, measured: object) -> Pass:
    """Return the pass with the measurements of an earlier one."""
    keys = {entry.name for entry in fields(step)}  # type: ignore[arg-type]
    if measured is None or "measured" not in keys:
        return step
    return replace(step, measured=measured)  # type: ignore[type-var]


def _point(name: str, quantity: str, share: float, report: Report, step: StepFacts) -> Point:
    comparison, budget = report.comparison, step.figures["budget"][quantity]
    quality = comparison.quality[0]
    return Point(
        file=name,
        quantity=quantity,
        asked=share,
        reached=budget["reached"],
        cost=budget["reached"] * budget["original"],
        file_bytes=comparison.after.file_bytes,
        pruning_ratio=comparison.pruning_ratio,
        accuracy=quality.accuracy_after,
        drop_points=quality.drop_points,
        sqnr_db=quality.sqnr_db,
        latency_ratio=None if comparison.timing is None else comparison.timing.ratio,
        missed=report.exceeded,
    )
