"""Plot of a sweep: accuracy lost against cost, with marks of the files' sizes."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path

from onnx_admm.errors import UsageError
from onnx_admm.report.frontier import Point

KINDS = (".png", ".svg")
_LARGEST = 400.0
"""Area of the largest mark, in square points."""


def require_plots(target: str | os.PathLike[str]) -> None:
    """Refuse a plot that cannot be drawn, before any work is done.

    Raises:
        UsageError: another kind of file, or matplotlib is not installed.
    """
    if Path(target).suffix.lower() not in KINDS:
        raise UsageError("not a kind of plot", where=target, expected=" or ".join(KINDS))
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "a plot needs matplotlib, which is not installed",
            where=target,
            hint="Install it (pip install 'onnx-admm[plots]'), or leave --plot out: sweep.csv has all.",
        )


def draw(points: Sequence[Point], kind: str) -> bytes:
    """Return the image of a plot; the frontier is a line.

    Args:
        points: points of one sweep, at least one.
        kind: one of ``KINDS``.
    """
    from matplotlib.figure import Figure

    kind_of_loss = _kind_of_loss(points)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    largest = max(point.file_bytes for point in points)
    losses = [_loss(point, kind_of_loss) for point in points]
    sizes = [_LARGEST * point.file_bytes / largest for point in points]
    axes.scatter([point.reached for point in points], losses, s=sizes, alpha=0.5)
    front = sorted((point.reached, _loss(point, kind_of_loss)) for point in points if point.on_frontier)
    axes.plot([cost for cost, _ in front], [loss for _, loss in front], linewidth=1)
    for point, loss in zip(points, losses, strict=True):
        axes.annotate(
            f"{point.file_bytes / 1000:,.0f} kB",
            (point.reached, loss),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.margins(0.15)  # keeps the labels of the outermost marks inside
    axes.set_title(f"{kind_of_loss[0]} against {points[0].quantity}; the line is the frontier")
    axes.set_xlabel(f"predicted {points[0].quantity}, share of the original's")
    axes.set_ylabel(kind_of_loss[1])
    content = io.BytesIO()
    figure.savefig(content, format=kind.lstrip(".").lower())
    return content.getvalue()


_ACCURACY = ("Accuracy", "accuracy lost, points")
_PREDICTIONS = ("Agreement", "predictions that change, %")
_NOISE = ("Output noise", "output noise, dB")


def _kind_of_loss(points: Sequence[Point]) -> tuple[str, str]:
    """Return what the points lose, as a title and an axis say it: accuracy only where labels tell it."""
    if all(point.drop_points is not None for point in points):
        return _ACCURACY if all(point.accuracy is not None for point in points) else _PREDICTIONS
    return _NOISE


def _loss(point: Point, kind: tuple[str, str]) -> float:
    return -(point.sqnr_db or 0.0) if kind is _NOISE else (point.drop_points or 0.0)
