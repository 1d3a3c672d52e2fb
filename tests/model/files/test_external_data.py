"""External weights: where they may lie, how they are read, and under which names they are written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.errors import ModelError, OutputError
from onnx_admm.model import ModelView
from onnx_admm.model.files import file_tensor
from onnx_admm.model.loading import model_files
from onnx_admm.model.writing import saving


def proto_of(view: ModelView) -> onnx.ModelProto:
    return onnx.load_from_string(view.to_bytes())


def write(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


@pytest.fixture
def external(tiny_mlp: ModelView, tmp_path: Path) -> Callable[..., Path]:
    """A model whose w1 claims to lie in a file: ``external(location=..., offset=..., length=...)``."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(b"\0" * 16 + tiny_mlp.read("w1").tobytes())
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)

    def build(**entries: object) -> Path:
        proto = proto_of(tiny_mlp)
        tensor = initializer(proto, "w1")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": "w.bin", "offset": 16, "length": 512, **entries}.items():
            if value is not None:
                tensor.external_data.add(key=key, value=str(value))
        return write(folder / "m.onnx", proto)

    return build


@pytest.mark.parametrize("length", [512, None])
def test_external_data_is_read_wherever_the_program_stands(
    external: Callable[..., Path], tiny_mlp: ModelView, monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    path = external(length=length)
    monkeypatch.chdir(path.parent)
    view = ModelView.load("m.onnx")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(view.read("w1"), tiny_mlp.read("w1"))
    assert ModelView.from_bytes(view.to_bytes()).read("w1").tobytes() == tiny_mlp.read("w1").tobytes()


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"location": "../secret.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": ""}, "outside the model's folder"),
        ({"location": "link.bin"}, "link out of the model's folder"),
        ({"location": "none.bin"}, "no external data"),
        ({"location": "."}, "not a plain file"),
        ({"location": "hard.bin"}, "hard-linked"),
        ({"length": 511}, "declared length"),
        ({"length": 2**62}, "unreadable length"),
        ({"offset": 17}, "beyond the end"),
        ({"offset": -16}, "unreadable offset"),
        ({"offset": "0x10"}, "unreadable offset"),
    ],
)
def test_external_data_that_does_not_add_up_is_refused(
    external: Callable[..., Path], entries: dict[str, object], sentence: str
) -> None:
    path = external(**entries)
    (path.parent / "link.bin").symlink_to(path.parent.parent / "secret.bin")
    (path.parent / "other.bin").write_bytes(b"\0" * 4096)
    os.link(path.parent / "other.bin", path.parent / "hard.bin")
    with pytest.raises(ModelError, match=sentence):
        ModelView.load(path)


def test_external_tensors_of_attributes_move_into_the_model(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,4] x) => (float[N,2] y)
    { w = Constant <value = float[4,2] {1,2,3,4,5,6,7,8}> () y = MatMul (x, w) }"""
    proto = onnx.parser.parse_model(text)
    tensor = proto.graph.node[0].attribute[0].t
    array = np.arange(8, dtype=np.float32).reshape(4, 2)
    for field in ("float_data", "raw_data"):
        tensor.ClearField(field)
    tensor.name, tensor.data_location = "w", onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "w.bin").write_bytes(array.tobytes())
    view = ModelView.load(write(tmp_path / "in" / "m.onnx", proto))
    view.save(tmp_path / "out.onnx")
    np.testing.assert_array_equal(ModelView.load(tmp_path / "out.onnx").read("w"), array)


@pytest.fixture
def hub_cache(tiny_mlp: ModelView, tmp_path: Path) -> Path:
    """A model and its weights as caches lay them out: links in one folder to files of another."""
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "r1"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    tiny_mlp.save(tmp_path / "plain.onnx")
    proto = onnx.load(tmp_path / "plain.onnx")
    onnx.save(proto, blobs / "aa11", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    (blobs / "model.onnx_data").rename(blobs / "bb22")
    (snapshot / "model.onnx").symlink_to("../../blobs/aa11")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/bb22")
    return snapshot / "model.onnx"


@pytest.mark.parametrize("kept_in_files", [100, 1 << 20])
def test_links_of_a_cache_load(
    hub_cache: Path, tiny_mlp: ModelView, monkeypatch: pytest.MonkeyPatch, kept_in_files: int
) -> None:
    monkeypatch.setattr(file_tensor, "KEPT_IN_FILES_FROM_BYTES", kept_in_files)
    view = ModelView.load(hub_cache)
    for name in ("w1", "w2"):
        np.testing.assert_array_equal(view.read(name), tiny_mlp.read(name))


def test_a_link_out_of_the_cache_is_refused_until_its_folder_is_trusted(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    data = hub_cache.parent / "model.onnx_data"
    data.resolve().rename(elsewhere / "cc33")
    data.unlink()
    data.symlink_to(elsewhere / "cc33")
    with pytest.raises(ModelError, match=r"behind a link out of the model's folder.*set ONNX_ADMM_TRUSTED"):
        ModelView.load(hub_cache)
    monkeypatch.setenv("ONNX_ADMM_TRUSTED_FOLDERS", f"{tmp_path / 'other'}{os.pathsep}{elsewhere}")
    ModelView.load(hub_cache)


def data_file(model: Path) -> Path:
    """The one file of weights that was written for a model."""
    (found,) = model.parent.glob(f"{model.name}.*.data")
    assert re.fullmatch(r"[0-9a-f]{8}", found.name.removeprefix(f"{model.name}.").removesuffix(".data"))
    return found


def test_external_data_stays_beside_the_model_under_a_name_of_its_content(
    external: Callable[..., Path], tiny_mlp: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "_EXTERNAL_THRESHOLD", 100)
    path = external()
    view = ModelView.load(path)
    out = path.parent / "out" / "o.onnx"
    out.parent.mkdir()
    size = view.save(out)
    first = data_file(out)
    assert sorted(out.parent.iterdir()) == [out, first]
    assert size == sum(file.stat().st_size for file in out.parent.iterdir())
    again = ModelView.load(out)
    monkeypatch.setattr(saving, "_EXTERNAL_THRESHOLD", 300)
    again.save(out)  # over itself: w2 moves into the model, and what was not read yet must still be right
    second = data_file(out)
    assert (second.stat().st_size, first.exists()) == (512, False)
    for view in (again, ModelView.load(out)):
        for name in ("w1", "w2"):
            np.testing.assert_array_equal(view.read(name), tiny_mlp.read(name))


def test_more_weights_than_one_message_holds_go_beside(
    tiny_mlp: ModelView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (model_files, saving):
        monkeypatch.setattr(module, "INLINE_LIMIT", 500)
    monkeypatch.setattr(saving, "_EXTERNAL_THRESHOLD", 100)
    w1 = tiny_mlp.read("w1")
    tiny_mlp.save(tmp_path / "m.onnx")
    assert data_file(tmp_path / "m.onnx").stat().st_size >= w1.nbytes
    np.testing.assert_array_equal(ModelView.load(tmp_path / "m.onnx").read("w1"), w1)
    with pytest.raises(OutputError, match="over 2 GB"):
        tiny_mlp.to_bytes()
