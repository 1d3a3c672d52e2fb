"""Lines of the documents are at most 100 columns wide, so that source and rendered tables can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

COLUMNS = 100
PLACES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "benchmarks/*.md", "examples/**/*.md")


def wide_lines(text: str) -> list[int]:
    """Return the numbers of the lines over the limit; what a command printed is shown as it is."""
    wide, fence = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fence = line if fence is None else None
        elif fence != "```" and len(line) > COLUMNS:
            wide.append(number)
    return wide


def test_lines_of_documents_fit(repository: Path) -> None:
    read = sorted({file for place in PLACES for file in repository.glob(place)})
    assert len(read) > 10
    wide = {file.relative_to(repository).as_posix(): wide_lines(file.read_text("utf-8")) for file in read}
    assert {name: lines for name, lines in wide.items() if lines} == {}


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        ("x" * 100, []),
        ("x" * 101, [1]),
        ("ä" * 100, []),
        ("a\n| " + "x" * 99 + " |\n", [2]),
        ("```\n" + "x" * 101 + "\n```\n" + "y" * 101, [4]),
        ("```python\n" + "x" * 101 + "\n```\n", [2]),
    ],
)
def test_wide_lines_are_found(text: str, wide: list[int]) -> None:
    assert wide_lines(text) == wide
