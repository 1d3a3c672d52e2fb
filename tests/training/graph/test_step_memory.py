"""What a graph of a step leaves in the arena."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from onnx_admm.training.graph.runtime import OpenStep

SHRINKS = "memory.enable_memory_arena_shrinkage"


class Recorder:
    """A session that keeps the entries of each run."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, str] | None] = []

    def run_with_iobinding(self, _binding: object, options: object) -> None:
        entry = None if options is None else options.get_run_config_entry(SHRINKS)  # type: ignore[attr-defined]
        self.entries.append(entry)


@pytest.mark.parametrize(
    ("last", "released"), [([False, False, True], [True, False, True]), ([True, True], [True, True])]
)
def test_memory_is_released_after_the_first_and_the_last_run(last: list[bool], released: list[bool]) -> None:
    """The first run allocates value by value, the next ones in one piece: both at once would be too much."""
    session = Recorder()
    step = OpenStep(session)
    for is_last in last:
        step.run(None, is_last=is_last)
    assert [entry is not None for entry in session.entries] == released
