"""Results reach their place whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnx_admm.api.placing import move_into_place, staged, write_text


def test_staging_goes_whatever_happens(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staged(tmp_path / "out.bin") as folder:
            (folder / "out.bin").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not os.listdir(tmp_path)


def test_all_files_of_a_result_move_the_named_one_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    move = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), move(a, b)))
    with staged(tmp_path / "net.onnx") as folder:
        (folder / "net.onnx").write_bytes(b"model")
        (folder / "net.onnx.data").write_bytes(b"weights")
        move_into_place(folder, tmp_path / "net.onnx")
    assert order == ["net.onnx.data", "net.onnx"]


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert os.listdir(tmp_path) == ["a.json"]
