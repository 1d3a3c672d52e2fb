"""The cache of measured times: a damaged file counts as no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_admm.runtime import timing_cache
from onnx_admm.runtime.timing import KernelTime

GOOD = '{"environment": "here", "timings": {"a": [1e-6, 1e-7], "b": [2e-6, 0]}}'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = timing_cache.cache_file(1)
    file.parent.mkdir(parents=True)
    timing_cache._MEMORY.pop(file, None)
    return file


def test_what_is_whole_is_read(cache: Path) -> None:
    cache.write_text(GOOD)
    assert timing_cache.known_timings(1) == {"a": KernelTime(1e-6, 1e-7), "b": KernelTime(2e-6, 0.0)}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 100_000,
        GOOD.replace("1e-6", "NaN"),
        GOOD.replace("1e-6", "Infinity"),
        GOOD.replace("1e-6", "-1"),
        GOOD.replace("1e-6", "1e999"),
        GOOD.replace("1e-6", "9" * 400),
        GOOD.replace("1e-6", "9" * 5000),
        GOOD.replace("[1e-6, 1e-7]", "[]"),
        GOOD.replace("[1e-6, 1e-7]", "3"),
        GOOD.replace('{"a"', '[{"a"').replace("}}", "}]}"),
        GOOD.replace("here", "\udcff"),
    ],
    ids=lambda content: content[:70],
)
def test_what_is_damaged_counts_as_unknown_and_is_written_anew(cache: Path, content: str) -> None:
    cache.write_bytes(content.encode(errors="surrogateescape"))
    assert timing_cache.known_timings(1) == {}
    timing_cache.keep_timings(1, {"c": KernelTime(3e-6, 0.0)})
    timing_cache._MEMORY.pop(cache)
    assert timing_cache.known_timings(1) == {"c": KernelTime(3e-6, 0.0)}
