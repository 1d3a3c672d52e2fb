"""Former names and words do not come back: each has one present name, used in code and in texts."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("onnx_admm", "passes", "cost_models", "benchmarks", "examples", "scripts")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "examples")

FORMER_NAMES = {
    "FIGURES": "QUANTITIES",
    "FIGURE_OF": "QUANTITY_OF",
    "chosen_figure": "chosen_quantity",
    "hold_on": "store_as_codes",
    "keep_forms": "measure_only",
    "carry_out": "run",
    "near_scale": "approximate_scale",
    "byte_levels": "int8_per_channel",
    "open_weights": "weights_as_inputs",
    "solo_coder": "large_sparse_coder",
    "plain_coder": "per_tensor_coder",
    "open_market": "build_search_space",
    "given_back": "recovered",
    "choose_treatments": "auto_quantize",
    "shorten_names": "minify",
    "spliced": "reinsert_tensors",
    "settle": "spill_to_disk",
}
"""Whole names."""

FORMER_PARTS = {
    "affordable": "limit samples",
    "carrier": "extractor, pass-through",
    "carriers": "extractors",
    "cone": "subgraph",
    "cones": "subgraphs",
    "damage": "relative error",
    "damages": "relative errors",
    "dearness": "cost ratio",
    "demands": "set decomposition",
    "giver": "donor",
    "held": "stored",
    "ladder": "grid",
    "ladders": "grids",
    "market": "search space",
    "offers": "candidates",
    "picked": "argmax, chosen",
    "picks": "argmax positions",
    "rung": "level",
    "strange": "unsupported",
    "stretches": "scale factors",
    "taker": "recipient",
    "tapped": "exposed",
    "taps": "exposed values",
    "treatment": "option",
    "treatments": "options",
    "twin": "inferred",
    "twins": "inferred copies",
    "wanted": "requested",
    "withheld": "dominated",
}
"""Parts of names, between underscores or capitals."""

FORMER_WORDS = {
    **{word: FORMER_PARTS[word] for word in ("damage", "damages", "ladder", "ladders", "market", "rung")},
    **{word: FORMER_PARTS[word] for word in ("treatment", "treatments", "twin", "twins", "withheld")},
    "batteries": "contract tests",
    "battery": "contract tests",
    "bear": "tolerate",
    "bears": "tolerates",
    "borne": "tolerated",
    "dear": "expensive",
    "dearer": "more expensive",
    "door": "interface",
    "doors": "interfaces",
    "journey": "",
    "laws": "invariants",
    "rooms": "packages",
    "rungs": "levels",
    "stranger": "unknown set",
}
"""Words of comments, docstrings, messages and documentation."""

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def words_of(text: str) -> Iterator[tuple[int, str]]:
    """Line and word of each former word in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        for word in re.findall(r"[A-Za-z_]+", line):
            if word.lower() in FORMER_WORDS:
                yield number, word


def names_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each former name in Python code, and of each former word in its texts."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            parts = {part.lower() for part in _PART.findall(token.string)}
            if token.string in FORMER_NAMES or parts & FORMER_PARTS.keys():
                yield token.start[0], token.string
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            yield from ((token.start[0] + line - 1, word) for line, word in words_of(token.string))


def files(repository: Path, places: tuple[str, ...], ending: str) -> list[Path]:
    """Files of one ending in folders, or the files named."""
    found = [repository / place for place in places]
    return [
        file for path in found for file in ([path] if path.is_file() else sorted(path.rglob(f"*{ending}")))
    ]


def test_no_former_name_in_code(repository: Path) -> None:
    read = files(repository, FOLDERS, ".py")
    assert len(read) > 200
    found = [
        f"{file.relative_to(repository)}:{line}: {name}"
        for file in read
        for line, name in names_of(file.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_no_former_word_in_documentation(repository: Path) -> None:
    read = files(repository, DOCUMENTS, ".md")
    assert len(read) > 10
    found = [
        f"{file.relative_to(repository)}:{line}: {word}"
        for file in read
        for line, word in words_of(file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("class HeldWeight: ...\n", "HeldWeight"),
        ("rows_wanted = 1\n", "rows_wanted"),
        ("x = FIGURES\n", "FIGURES"),
        ("# as far as the outputs bear it\n", "bear"),
        ('"""Twins of the\n\nsame value."""\n', "Twins"),
    ],
)
def test_a_former_name_is_found(source: str, found: str) -> None:
    assert [name for _, name in names_of(source)] == [found]


@pytest.mark.parametrize("source", ["damaged = kept\n", "# the file is damaged\n"])
def test_other_names_are_left_in_peace(source: str) -> None:
    assert list(names_of(source)) == []
