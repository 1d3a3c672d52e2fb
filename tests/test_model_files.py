"""Model files: what is refused at load, and what a save leaves on disk."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MLP

from onnx_admm.errors import ModelError, OutputError, UnsupportedModel, UsageError
from onnx_admm.model import ModelView, file_tensor, files, saving
from onnx_admm.model.text import parse_text

Edit = Callable[[onnx.ModelProto], None]


def proto_of(view: ModelView) -> onnx.ModelProto:
    return onnx.load_from_string(view.to_bytes())


def write(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


# -- not a model -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b"hello, this is a text file\n" * 4, "looks like text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (bytes(range(256)), "not an ONNX model"),
        (b"\x08\x0a", "not an ONNX model"),
    ],
)
def test_a_file_that_is_no_model_gets_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=sentence) as caught:
        ModelView.load(tmp_path / "m.onnx")
    assert str(caught.value).startswith(str(tmp_path / "m.onnx"))
    assert caught.value.exit_code == 2


def test_missing_folder_and_fifo_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file"):
        ModelView.load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="a folder"):
        ModelView.load(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="not a plain file"):
        ModelView.load(tmp_path / "pipe.onnx")


def test_no_truncation_of_a_model_loads(tiny_mlp: ModelView, tmp_path: Path) -> None:
    data = tiny_mlp.to_bytes()
    assert len(data) > 700
    for length in range(1, len(data), 7):
        (tmp_path / "cut.onnx").write_bytes(data[:length])
        with pytest.raises(ModelError):
            ModelView.load(tmp_path / "cut.onnx")


# -- valid protobuf, hostile or foreign content ----------------------------------------------


def short_raw(proto: onnx.ModelProto) -> None:
    initializer(proto, "w1").raw_data = b"1234"


def huge_shape(proto: onnx.ModelProto) -> None:
    initializer(proto, "w1").dims[:] = [2**40, 2**40]


def negative_shape(proto: onnx.ModelProto) -> None:
    initializer(proto, "w1").dims[:] = [-8, -16]


def no_values(proto: onnx.ModelProto) -> None:
    initializer(proto, "w1").ClearField("raw_data")


def odd_type(proto: onnx.ModelProto) -> None:
    initializer(proto, "w1").data_type = 999


def external_in_bytes(proto: onnx.ModelProto) -> None:
    onnx.external_data_helper.set_external_data(initializer(proto, "w1"), "w.bin", 0, 512)
    initializer(proto, "w1").ClearField("raw_data")


def two_outputs_of_one_name(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].output[0] = proto.graph.node[0].output[0]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (short_raw, "got 4 bytes; expected 512 bytes"),
        (huge_shape, "a stored tensor of too many elements"),
        (negative_shape, "negative extent"),
        (no_values, "got 0 values; expected 128"),
        (odd_type, "unknown element type"),
        (external_in_bytes, "Load the model by its path"),
        (two_outputs_of_one_name, "not a valid ONNX model"),
    ],
)
def test_inconsistent_content_is_refused(tiny_mlp: ModelView, edit: Edit, sentence: str) -> None:
    proto = proto_of(tiny_mlp)
    edit(proto)
    with pytest.raises(ModelError, match=sentence):
        ModelView.from_bytes(proto.SerializeToString())


def test_training_information_is_refused(tiny_mlp: ModelView) -> None:
    proto = proto_of(tiny_mlp)
    proto.training_info.add().algorithm.name = "sgd"
    with pytest.raises(UnsupportedModel, match="training information"):
        ModelView.from_bytes(proto.SerializeToString())


def test_an_unknown_operator_is_named_with_its_node(tiny_mlp: ModelView) -> None:
    proto = proto_of(tiny_mlp)
    proto.graph.node[2].op_type, proto.graph.node[2].name = "Frobnicate", "r1_node"
    with pytest.raises(UnsupportedModel, match="r1_node: operator Frobnicate is in no ONNX operator set"):
        ModelView.from_bytes(proto.SerializeToString())


def test_the_checkers_warnings_stay_off_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,4] x) => (float[N,4] y) <float[4,4] w> { a = MatMul (x, w)  y = ParametricSoftplus (a) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    del proto.graph.value_info[:]
    ModelView.from_bytes(proto.SerializeToString())
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_stored_shapes_that_are_wrong_are_dropped_and_declared_ones_refused(
    tiny_mlp: ModelView, tmp_path: Path
) -> None:
    proto = proto_of(tiny_mlp)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("m1", onnx.TensorProto.FLOAT, [1, 2, 3]))
    path = write(tmp_path / "m.onnx", proto)
    ModelView.load(path).save(tmp_path / "o.onnx")
    assert not onnx.load(tmp_path / "o.onnx").graph.value_info
    proto.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 9
    with pytest.raises(ModelError, match=r"the shapes it declares contradict one another \(\(op_type:Gemm"):
        ModelView.load(write(path, proto))


# -- external data ---------------------------------------------------------------------------


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


# -- saving ----------------------------------------------------------------------------------


def test_saving_twice_gives_the_same_bytes_and_nothing_else(tiny_conv: ModelView, tmp_path: Path) -> None:
    size = tiny_conv.save(tmp_path / "a.onnx")
    ModelView.load(tmp_path / "a.onnx").save(tmp_path / "b.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert size == (tmp_path / "a.onnx").stat().st_size
    assert (tmp_path / "a.onnx").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_save_over_a_file_keeps_its_permissions(tiny_mlp: ModelView, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch(mode=0o640)
    tiny_mlp.save(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").stat().st_mode & 0o777 == 0o640


def test_what_is_not_a_weight_survives(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 17, "own" : 1], producer_name: "maker", producer_version: "7",
     domain: "org.example", model_version: 3, doc_string: "about", metadata_props: ["k" : "v"]>
    g (float[N,4] x, float[4,2] w) => (float[N,2] y)
    <float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] unused = {1,2}>
    { y = own.project (x, w) }
    <domain: "own", opset_import: ["" : 17]> project (a, b) => (c) { c = MatMul (a, b) }
    """
    proto = onnx.parser.parse_model(text)
    proto.graph.doc_string = "graph"
    proto.graph.node[0].doc_string, proto.graph.node[0].name = "node", "n"
    proto.graph.node[0].metadata_props.add(key="a", value="b")
    path = write(tmp_path / "m.onnx", proto)
    ModelView.load(path).save(tmp_path / "o.onnx")
    saved = onnx.load(tmp_path / "o.onnx")
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(saved, field) == getattr(proto, field)
    assert [value.name for value in saved.graph.input] == ["x", "w"]
    assert [tensor.name for tensor in saved.graph.initializer] == ["w", "unused"]
    assert saved.graph.node[0] == proto.graph.node[0]
    assert saved.graph.doc_string == "graph"
    assert [function.name for function in saved.functions] == ["project"]
    assert {p.key: p.value for p in saved.metadata_props} == {"k": "v"}
    assert {(o.domain, o.version) for o in saved.opset_import} == {("", 17), ("own", 1)}


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
    for module in (files, saving):
        monkeypatch.setattr(module, "INLINE_LIMIT", 500)
    monkeypatch.setattr(saving, "_EXTERNAL_THRESHOLD", 100)
    w1 = tiny_mlp.read("w1")
    tiny_mlp.save(tmp_path / "m.onnx")
    assert data_file(tmp_path / "m.onnx").stat().st_size >= w1.nbytes
    np.testing.assert_array_equal(ModelView.load(tmp_path / "m.onnx").read("w1"), w1)
    with pytest.raises(OutputError, match="over 2 GB"):
        tiny_mlp.to_bytes()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_what_was_there(
    tiny_mlp: ModelView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    tiny_mlp.save(tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    tiny_mlp.replace("w1", np.zeros((8, 16), np.float32))
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is OutputError else None):
        tiny_mlp.save(tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_a_save_the_checker_refuses_leaves_what_was_there(tiny_mlp: ModelView, tmp_path: Path) -> None:
    tiny_mlp.save(tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    tiny_mlp.graph_ir.graph[0].op_type = "Frobnicate"
    with pytest.raises(OutputError, match="the checker refuses the result"):
        tiny_mlp.save(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_places_that_cannot_be_written_get_a_sentence(tiny_mlp: ModelView, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        tiny_mlp.save(tmp_path / "none" / "m.onnx")
    os.mkfifo(tmp_path / "pipe")
    for place, sentence in ((tmp_path, "a folder stands"), (tmp_path / "pipe", "only a regular file")):
        with pytest.raises(UsageError, match=sentence):
            tiny_mlp.save(place)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_is_written_through(tiny_mlp: ModelView, tmp_path: Path) -> None:
    (tmp_path / "real.onnx").touch()
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    tiny_mlp.save(tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert ModelView.load(tmp_path / "real.onnx").opset == 17


# -- views -----------------------------------------------------------------------------------


def test_a_fork_is_independent() -> None:
    view = parse_text(MLP)
    fork = view.fork()
    fork.replace("w1", np.zeros((8, 16), np.float32))
    fork.metadata["a"] = "b"
    assert view.read("w1").any()
    assert "a" not in view.metadata
    assert fork.signature() == view.signature()


def test_replacing_takes_a_copy_and_keeps_the_shape(tiny_mlp: ModelView) -> None:
    array = np.ones((8, 16), np.float32)
    tiny_mlp.replace("w1", array)
    array[:] = 2
    tiny_mlp.read("w1")[:] = 3
    assert (tiny_mlp.read("w1") == 1).all()
    with pytest.raises(UsageError, match="another shape"):
        tiny_mlp.replace("w1", np.ones((16, 8), np.float32))
    with pytest.raises(UsageError, match="no such weight"):
        tiny_mlp.read("nothing")
