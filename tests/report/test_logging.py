"""What a run logs: a line for each decision at INFO, each layer at DEBUG, nothing else anywhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from onnx_admm.api import compress


def test_decisions_are_logged(net: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="onnx_admm"):
        compress(net, net.parent / "o.onnx", threads=1)
    lines = {(record.name, record.levelname, record.getMessage()) for record in caplog.records}
    told = [f"{level} {name}: {text}" for name, level, text in lines if name.startswith("onnx_admm")]
    for piece in (
        "INFO onnx_admm.pipeline: pass 1 of 8, share_constants: changed",
        "INFO onnx_admm.report.gate: result: ",
        "INFO onnx_admm.report.gate: promise sqnr_db is met: ",
        "INFO onnx_admm.passes.encode: form ",
        "DEBUG onnx_admm.pipeline: auto_quantize: w1: ",
    ):
        assert any(line.startswith(piece) for line in told), (piece, sorted(told))
    assert {record.levelname for record in caplog.records if record.name.startswith("onnx_admm")} <= {
        "INFO",
        "DEBUG",
    }


def test_nothing_is_shown_by_default(net: Path, capfd: pytest.CaptureFixture[str]) -> None:
    compress(net, net.parent / "o.onnx", threads=1)
    assert capfd.readouterr() == ("", "")
