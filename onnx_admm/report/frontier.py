"""The frontier of size, cost and accuracy: the files of a sweep that no other one dominates."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace


@dataclass(frozen=True, kw_only=True)
class Point:
    """One file of a sweep.

    Attributes:
        file: its name in the folder.
        quantity: quantity of the budget.
        asked: share of the original's cost that the budget left.
        reached: share that the cost model predicts for the file.
        cost: the same in the cost model's unit.
        file_bytes: bytes of the file.
        pruning_ratio: weights over nonzeros.
        accuracy: on the validation samples; None without labels.
        drop_points: accuracy lost, in points; without labels the share of changed predictions; None without
            classes.
        sqnr_db: signal-to-noise ratio of the outputs, in dB.
        latency_ratio: measured here, over the original's.
        missed: the sentence of a promise that the file misses (see ``gate``), so that it was not written.
        on_frontier: whether no other file is as small, as cheap and as accurate.
    """

    file: str
    quantity: str
    asked: float
    reached: float
    cost: float
    file_bytes: int
    pruning_ratio: float
    accuracy: float | None
    drop_points: float | None
    sqnr_db: float | None
    latency_ratio: float | None
    missed: str | None = None
    on_frontier: bool = True


def with_frontier(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points, each marked by whether it is on the frontier of size, cost and accuracy.

    Files that were not written are on no frontier.
    """
    written = [point for point in points if point.missed is None]
    return tuple(
        replace(
            point,
            on_frontier=point.missed is None and not any(_beats(other, point) for other in written),
        )
        for point in points
    )


def _beats(one: Point, other: Point) -> bool:
    """Return whether ``one`` is as small, as cheap and as accurate, and better in one of them."""
    left, right = _merits(one), _merits(other)
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))


def _merits(point: Point) -> tuple[float, float, float]:
    loss = point.drop_points
    if loss is None:
        loss = -(point.sqnr_db or 0.0)
    return point.file_bytes, point.reached, loss


def to_csv(points: Iterable[Point]) -> str:
    """Return a CSV with a line for each point; an unknown quantity is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [entry.name for entry in fields(Point)], lineterminator="\n")
    writer.writeheader()
    for point in points:
        writer.writerow({key: "" if value is None else value for key, value in asdict(point).items()})
    return text.getvalue()
