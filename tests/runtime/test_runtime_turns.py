"""Forms of a model timed in turns: what is kept, and what becomes of a form that does not run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_up_times import forget

from onnx_admm.contracts import Feeds
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime import turns
from onnx_admm.runtime.turns import FAILED, ratios_of

FEEDS: Feeds = {"x": np.ones((1, 8), np.float32)}


def net(body: str) -> bytes:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y) <float[8,8] w>'
    return parse_text(f"{head} {{ {body} }}").to_bytes()


BASE, OTHER = net("y = MatMul (x, w)"), net("h = MatMul (x, w) y = Relu (h)")


@pytest.fixture(autouse=True)
def own_cache_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(tmp_path, monkeypatch)


def test_each_form_has_a_ratio_in_its_place() -> None:
    found = ratios_of(BASE, [OTHER, BASE], FEEDS)
    assert len(found) == 2
    assert all(0 < ratio < FAILED for ratio in found)


def test_a_form_that_does_not_run_has_failed_and_the_others_have_not() -> None:
    broken = net("h = MatMul (x, w) y = Relu (h)").replace(b"Relu", b"Rilu")
    found = ratios_of(BASE, [broken, OTHER], FEEDS)
    assert found[0] == FAILED
    assert found[1] < FAILED


def test_each_form_is_measured_once_and_together_with_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(base: bytes, forms: Sequence[bytes], feeds: Feeds, threads: int) -> list[float]:
        asked.append(len(forms))
        return [0.5 + number / 10 for number in range(len(forms))]

    monkeypatch.setattr(turns, "_measure", measure)
    assert ratios_of(BASE, [OTHER, BASE, OTHER], FEEDS) == [0.5, 0.6, 0.5]
    assert ratios_of(BASE, [BASE, OTHER], FEEDS) == [0.6, 0.5]
    assert asked == [2]


def test_of_large_models_few_are_open_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(base: bytes, forms: Sequence[bytes], feeds: Feeds, threads: int) -> list[float]:
        asked.append(len(forms))
        return [0.5] * len(forms)

    monkeypatch.setattr(turns, "_measure", measure)
    monkeypatch.setattr(turns, "_GROUP_BYTES", 2 * len(BASE))
    forms = [net(f"h = MatMul (x, w) y = LeakyRelu <alpha = 0.{number}> (h)") for number in range(1, 6)]
    ratios_of(BASE, forms, FEEDS)
    assert asked == [2, 2, 1]
