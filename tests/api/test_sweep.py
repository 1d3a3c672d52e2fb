"""Several budgets: files, the table, the frontier and the picture."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import RunCommand

from onnx_admm.contracts import ModelView
from onnx_admm.errors import UsageError
from onnx_admm.report.frontier import Point, with_frontier
from onnx_admm.report.plot import draw, require_plots

pytestmark = pytest.mark.slow


def point(file_bytes: int, reached: float, drop: float | None, sqnr: float = 20.0) -> Point:
    return Point(
        file="a.onnx",
        quantity="macs",
        asked=reached,
        reached=reached,
        cost=1000 * reached,
        file_bytes=file_bytes,
        pruning_ratio=2.0,
        accuracy=None,
        drop_points=drop,
        sqnr_db=sqnr,
        latency_ratio=1.0,
    )


def test_a_file_that_another_one_beats_is_not_on_the_frontier() -> None:
    points = [
        point(100, 0.5, 0.1),
        point(90, 0.4, 0.1),
        point(50, 0.2, 3.0),
        point(60, 0.1, 3.0),
        point(70, 0.2, 3.0),
    ]
    assert [each.on_frontier for each in with_frontier(points)] == [False, True, True, True, False]
    alike = with_frontier([point(100, 0.5, 0.1), point(100, 0.5, 0.1)])
    assert len(alike) == 2
    assert all(each.on_frontier for each in alike)


def test_a_file_that_was_not_written_is_on_no_frontier() -> None:
    best = replace(point(10, 0.1, 0.0), missed="the outputs change too much")
    assert [each.on_frontier for each in with_frontier([best, point(100, 0.5, 1.0)])] == [False, True]


def test_without_classes_the_noise_of_the_outputs_decides() -> None:
    points = with_frontier([point(100, 0.5, None, sqnr=30.0), point(100, 0.5, None, sqnr=20.0)])
    assert [each.on_frontier for each in points] == [True, False]


def test_files_and_table(run: RunCommand, net: Path, samples: Path) -> None:
    folder = net.parent / "swept"
    code, out, err = run(
        "sweep", net, "--data", samples, "--cost-model", "macs", "--bind", "N=1", "--shares", "0.8,0.4,0.01",
        "--out", folder, "--threads", 1,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "frontier" in out
    assert "The sweep ended: " in out
    assert "the budget is not reachable, whatever the accuracy" in out
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert [row["asked"] for row in rows] == ["0.8", "0.4"]
    for row in rows:
        assert float(row["reached"]) <= float(row["asked"])
        assert (folder / row["file"]).stat().st_size == int(row["file_bytes"])
        assert ModelView.load(folder / row["file"]).signature().inputs[0].name == "x"
        assert row["on_frontier"] in ("True", "False")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["sweep.csv", *(row["file"] for row in rows)]
    )


def test_a_file_that_misses_a_promise_is_not_written(run: RunCommand, net: Path) -> None:
    """Without labels, the outputs change too much; no file is left, so the sweep ends with 3."""
    folder = net.parent / "swept"
    code, _, err = run(
        "sweep", net, "--cost-model", "macs", "--bind", "N=1", "--shares", "0.05",
        "--out", folder, "--threads", 1,
    )  # fmt: skip
    assert code == 3
    assert "output scores changes too much" in err
    assert ".." not in err
    (wrecked,) = csv.DictReader((folder / "sweep.csv").read_text().splitlines())
    assert "output scores changes too much" in wrecked["missed"]
    assert wrecked["on_frontier"] == "False"
    assert [path.name for path in folder.iterdir()] == ["sweep.csv"]


def test_no_budget_in_reach_ends_with_3(run: RunCommand, net: Path, samples: Path) -> None:
    code, _, err = run(
        "sweep", net, "--data", samples, "--cost-model", "macs", "--bind", "N=1", "--shares", "0.001",
        "--out", net.parent / "swept", "--threads", 1,
    )  # fmt: skip
    assert code == 3
    assert "the budget is not reachable" in err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--shares", "2"], "impossible share"),
        (["--shares", "a,b"], "--shares: not a number; got 'a'"),
        (["--quantity", "latency"], "'macs' does not give that quantity; got latency"),
        (["--plot", "frontier.pdf"], "not a kind of plot; expected .png or .svg"),
    ],
)
def test_mistakes_about_sweeps(run: RunCommand, net: Path, flags: list[str], sentence: str) -> None:
    code, _, err = run("sweep", net, "--cost-model", "macs", "--out", net.parent / "swept", *flags)
    assert code == 2
    assert sentence in err
    assert not (net.parent / "swept").exists()


def test_a_missing_matplotlib_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"a plot needs matplotlib.*pip install 'onnx-admm\[plots\]'"):
        require_plots("frontier.svg")


@pytest.mark.parametrize(("kind", "head"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_the_picture(kind: str, head: bytes) -> None:
    pytest.importorskip("matplotlib")
    points = with_frontier([point(100, 0.5, 0.1), point(90, 0.3, 0.4)])
    assert draw(points, kind).startswith(head)


@pytest.mark.parametrize(
    ("accuracy", "drop", "words"),
    [
        (0.9, 0.5, {"Accuracy against macs", "accuracy lost, points"}),
        (None, 0.5, {"Agreement against macs", "predictions that change, %"}),
        (None, None, {"Output noise against macs", "output noise, dB"}),
    ],
)
def test_a_picture_speaks_of_accuracy_only_where_labels_tell_it(
    accuracy: float | None, drop: float | None, words: set[str]
) -> None:
    pytest.importorskip("matplotlib")
    sizes = ((100, 0.5), (90, 0.3))
    points = [replace(point(nbytes, share, drop), accuracy=accuracy) for nbytes, share in sizes]
    picture = draw(points, ".svg").decode()
    assert [word for word in words if f"<!-- {word}" not in picture] == []
    assert ("ccuracy" in picture) == (accuracy is not None)
