"""What exporters write for people is left out by default, and what users wrote stays."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_admm.api import compress
from onnx_admm.contracts import ModelView

TRACE = "File module.py, line 1, in forward\n" * 400


@pytest.fixture
def traced(net: Path) -> Path:
    """``net`` with a stack trace on each node, as exporters write them, and notes of its user."""
    proto = onnx.load(net)
    proto.doc_string = "what the user says of the model"
    for node in proto.graph.node:
        node.doc_string = TRACE
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=TRACE)
        node.metadata_props.add(key="namespace", value=": m/layer: n")
        node.metadata_props.add(key="owner", value="me")
    onnx.save(proto, net)
    return net


def notes_of(path: Path) -> set[str]:
    return {entry.key for node in onnx.load(path).graph.node for entry in node.metadata_props}


def test_stack_traces_go_and_the_users_notes_stay(traced: Path) -> None:
    target = traced.parent / "small.onnx"
    report = compress(traced, target, threads=1)
    assert b"module.py" not in target.read_bytes()
    assert notes_of(target) == {"owner"}
    written = onnx.load(target)
    assert written.doc_string == "what the user says of the model"
    assert "documentation" in {entry.key for entry in written.metadata_props}
    assert report.comparison.file_ratio > 20
    assert "keep_docs = false" in report.recipe


def test_keep_docs_keeps_them(traced: Path) -> None:
    target = traced.parent / "small.onnx"
    compress(traced, target, threads=1, keep_docs=True)
    assert target.read_bytes().count(b"module.py") > 400
    assert {"owner", "pkg.torch.onnx.stack_trace", "namespace"} <= notes_of(target)


def test_a_model_with_nothing_else_to_gain_loses_its_text_too(traced: Path) -> None:
    once = traced.parent / "once.onnx"
    compress(traced, once, threads=1, keep_docs=True)
    again = traced.parent / "again.onnx"
    report = compress(once, again, threads=1)
    assert b"module.py" not in again.read_bytes()
    assert report.comparison.quality[0].agreement == 1.0
    before, after = ModelView.load(once), ModelView.load(again)
    assert before.signature() == after.signature()
