"""Digests in reports, and of what a run reads."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import running
from fake_plugins import Scale

from onnx_admm.api import compress
from onnx_admm.api.files import digests
from onnx_admm.data import from_arrays
from onnx_admm.errors import UsageError
from onnx_admm.report import Report


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_report_states_the_digests_of_all_files(net: Path, samples: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out.onnx", tmp_path / "report.json"
    compress(net, out, **running(Scale(factor=0.99)), keep=True, data=samples, report=told)
    report = Report.from_json(told.read_text())
    assert report.inputs == {str(net): sha256(net), str(samples): sha256(samples)}
    assert report.outputs == {str(out): sha256(out)}


def test_a_result_with_a_file_of_weights_has_both_digests(net: Path, tmp_path: Path) -> None:
    from onnx_admm.model import ModelView
    from onnx_admm.model.writing.saving import ModelFiles

    report = compress(net, tmp_path / "out.onnx", **running(Scale(factor=0.99)), keep=True)
    (tmp_path / "m").write_bytes(b"model")
    (tmp_path / "out.onnx.0a.data").write_bytes(b"weights")
    files = ModelFiles(tmp_path / "m", tmp_path / "out.onnx.0a.data", 12)
    found = digests.with_digests(report, (), files, tmp_path / "there.onnx").outputs
    assert found == {
        str(tmp_path / "there.onnx"): sha256(tmp_path / "m"),
        str(tmp_path / "out.onnx.0a.data"): sha256(tmp_path / "out.onnx.0a.data"),
    }
    assert ModelView.load(tmp_path / "out.onnx").sites()


def test_a_report_that_was_changed_is_refused(net: Path, tmp_path: Path) -> None:
    told = tmp_path / "report.json"
    compress(net, tmp_path / "out.onnx", **running(Scale(factor=0.99)), report=told, keep=True)
    content = json.loads(told.read_text())
    assert content["digest"].startswith("sha256:")
    Report.from_json(json.dumps(content))
    with pytest.raises(UsageError, match="the report was changed after it was written"):
        Report.from_json(json.dumps({**content, "seed": 7}))


def test_the_digest_of_data_goes_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    x = np.arange(600, dtype=np.float32)[:, None]
    np.save(folder / "x.npy", x)
    data = from_arrays({"x": x})
    first = digests.source_digest(folder, data)
    os.utime(folder / "x.npy", (1, 1))
    assert digests.source_digest(str(folder), data) == first
    changed = x.copy()
    changed[1] += 1
    np.save(folder / "x.npy", changed)
    assert digests.source_digest(folder, from_arrays({"x": changed})) != first
    assert digests.source_digest(None, None) == ""
    monkeypatch.setattr(digests, "_MOST_READ_BYTES", 10)  # too much to read: sizes, times, some samples
    large = digests.source_digest(folder, from_arrays({"x": changed}))
    assert large.startswith("sha256-of-times:")
    os.utime(folder / "x.npy", (1, 1))
    assert digests.source_digest(folder, from_arrays({"x": changed})) != large


def test_the_digest_of_a_dataset_reads_every_sample_and_label() -> None:
    x = np.arange(600, dtype=np.float32)[:, None]
    labels = np.arange(600) % 3
    changed = x.copy()
    changed[1] += 1
    given = [(x, labels), (changed, labels), (x, np.roll(labels, 1)), (x, None)]
    found = [digests.source_digest(data := from_arrays({"x": a}, b), data) for a, b in given]
    assert len(set(found)) == 4
