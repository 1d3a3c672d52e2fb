"""Latency side by side: the slower model is seen to be slower, and turns are taken."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import onnx.parser
import pytest

from onnx_admm.model import ModelView
from onnx_admm.runtime import latency
from onnx_admm.runtime.latency import compare_latency
from onnx_admm.runtime.sessions import Session, open_session


def chain(length: int) -> ModelView:
    """So many matrix products in a row."""
    nodes = " ".join(f"v{i + 1} = MatMul(v{i}, v0)" for i in range(length))
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
        g (float[64,64] v0) => (float[64,64] y) {{ {nodes} y = Identity(v{length}) }}"""
    return ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString())


FEEDS = {"v0": np.eye(64, dtype=np.float32)}


def test_four_times_the_work_takes_longer() -> None:
    found = compare_latency(chain(40), chain(10), FEEDS, rounds=15)
    assert found.ratio < 0.7
    assert found.after_us == pytest.approx(found.ratio * found.before_us)
    assert min(found.before_load_ms, found.after_load_ms) > 0
    assert compare_latency(chain(10), chain(40), FEEDS, rounds=15).ratio > 1 / 0.7


def test_the_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    names: dict[int, int] = {}

    def timed(session: Session, feed: object, repeats: int, clock: object) -> float:
        order.append(names.setdefault(id(session), len(names)))
        return 1000.0

    monkeypatch.setattr(latency, "_time_us", timed)
    found = compare_latency(chain(1), chain(2), FEEDS, rounds=4)
    assert order[-8:] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert (found.before_us, found.after_us, found.ratio) == (1000.0, 1000.0, 1.0)


def test_no_more_than_two_sessions_are_ever_open(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()
    most = 0

    def opened(*args: Any, **options: Any) -> Session:
        nonlocal most
        gc.collect()
        session = open_session(*args, **options)
        alive.add(id(session))
        weakref.finalize(session, alive.discard, id(session))
        most = max(most, len(alive))
        return session

    monkeypatch.setattr(latency, "open_session", opened)
    compare_latency(chain(3), chain(2), FEEDS, rounds=5)
    assert most == 2


def test_without_room_on_the_disk_models_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("onnx_admm.runtime.sessions._LARGE_BYTES", 1)
    assert compare_latency(chain(2), chain(1), FEEDS, rounds=4).ratio > 0
    np.testing.assert_array_equal(open_session(chain(1)).run(FEEDS)["y"], FEEDS["v0"])
