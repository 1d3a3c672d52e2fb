"""Progress bars tell the time that all of the work takes, from its first batches on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from conftest import TWO_GEMMS, context_of_gemms
from rich.console import Console

from onnx_admm.cli.progress_bars import TerminalProgress, clock, expected_s
from onnx_admm.contracts import PartialProgress, Task, WatchedTraining
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.passes.fine_tune import FineTune
from onnx_admm.pipeline import Pipeline, replace


@dataclass
class Recorded:
    """Where every bar has stood, by title."""

    bars: dict[str, list[float]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """See ``contracts.Progress``."""
        self.totals[title] = total
        yield _RecordedTask(self.bars.setdefault(title, [0.0]))


class _RecordedTask:
    def __init__(self, places: list[float]) -> None:
        self.places, self.steps = places, 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.steps += steps
        self.places.append(self.steps)

    def within(self, share: float) -> None:
        self.places.append(self.steps + share)


@pytest.mark.parametrize(
    ("elapsed", "done", "total", "expected"),
    [
        (10.0, 0.25, 5, 200.0),
        (10.0, 5, 5, 10.0),
        (0.5, 1, 5, None),
        (10.0, 0, 5, None),
    ],
)
def test_the_time_of_all_is_told_from_what_is_done(
    elapsed: float, done: float, total: int, expected: float | None
) -> None:
    assert expected_s(elapsed, done, total) == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-:--"), (0.4, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")]
)
def test_times_are_written_as_on_a_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text


def test_the_bar_shows_both_times(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    now = [0.0]
    console = Console(file=out, force_terminal=True, width=120, get_time=lambda: now[0])
    progress = TerminalProgress(console)
    with progress.task("prune", 8) as task:
        now[0] = 5.0
        task.within(0.5)
        assert progress._bars is not None
        progress._bars.refresh()
    assert "0:05 of about 1:20" in out.getvalue()


def test_training_moves_the_bars_within_epochs_and_over_all_passes() -> None:
    model = parse_text(TWO_GEMMS)
    seen = Recorded()
    context = replace(context_of_gemms(model, trained=True), progress=seen)
    passes = [AdmmPrune(ratio=2.0, epochs=2, retrain_epochs=1), FineTune(epochs=1)]
    Pipeline(passes).run(model, context)
    batches = 512 // 32
    assert seen.totals == {"epochs of all passes": 4, "prune": 3, "fine-tune": 1}
    assert seen.bars["prune"][1] == 1 / batches
    whole = seen.bars["epochs of all passes"]
    assert whole[1] == 1 / batches
    assert whole == sorted(whole)
    assert whole[-1] == 4
    np.testing.assert_allclose(np.unique(whole), np.arange(4 * batches + 1) / batches)


def test_a_single_pass_has_one_bar() -> None:
    model = parse_text(TWO_GEMMS)
    seen = Recorded()
    Pipeline([FineTune(epochs=1)]).run(model, replace(context_of_gemms(model, trained=True), progress=seen))
    assert list(seen.bars) == ["fine-tune"]


def test_a_part_that_ends_early_or_begins_again_never_moves_the_whole_back() -> None:
    seen = Recorded()
    with seen.task("whole", 6) as whole:
        part = PartialProgress(seen, whole, 4)
        for _ in range(2):
            with part.task("part", 10) as task:
                task.advance(5)
        part.reach(1.0)
        PartialProgress(seen, whole, 2).reach(0.25)
    places = seen.bars["whole"]
    assert places == sorted(places)
    assert places[-1] == 4.5


def test_a_run_that_tells_nothing_is_no_watched_one() -> None:
    assert not isinstance(object(), WatchedTraining)
