"""Model files: what is refused at load, and what a save leaves on disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest
from conftest import MLP

from onnx_admm.errors import ModelError, OutputError, UnsupportedModel, UsageError
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text

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
    for place, sentence in ((tmp_path, "is a folder"), (tmp_path / "pipe", "only a regular file")):
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


@pytest.mark.parametrize("op", ["Relu", "BiasGelu"])
def test_outputs_of_unknown_rank_are_loaded_and_kept(tmp_path: Path, op: str) -> None:
    """The checker of onnx refuses them; ONNX Runtime runs them, and its optimiser writes such models."""
    domain = "com.microsoft" if op == "BiasGelu" else ""
    names = ["x", "b"] if domain else ["x"]
    graph = oh.make_graph(
        [oh.make_node(op, names, ["y"], domain=domain)],
        "g",
        [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones(4, np.float32), "b")],
    )
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("com.microsoft", 1)]
    onnx.save(oh.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "in.onnx")
    view = ModelView.load(tmp_path / "in.onnx")
    assert view.signature().outputs[0].shape is None
    view.save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx").graph.output[0]
    assert not written.type.tensor_type.HasField("shape")
