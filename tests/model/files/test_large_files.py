"""Weights that stay in files: read where they lie, written one by one, moved out of memory."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import PassContext
from onnx_admm.errors import ModelError
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.fingerprint import fingerprint, same_model
from onnx_admm.model.files import file_tensor, protobuf_wire
from onnx_admm.model.files.file_tensor import KEPT_IN_FILES_FROM_BYTES, FileTensor
from onnx_admm.model.rewrite.weight_storage import ByteGrid, model_bytes, spill_to_disk, stored_weights
from onnx_admm.pipeline import Pipeline

pytestmark = pytest.mark.slow

SIDE = 520  # a square of which takes a little over the bytes that stay in files


def large_model() -> onnx.ModelProto:
    """Two large weights, one of them with all that a tensor can carry, and a small one."""
    assert 4 * SIDE * SIDE > KEPT_IN_FILES_FROM_BYTES
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,{SIDE}] x) => (float[N,3] y)
    {{ a = MatMul (x, w1)  r = Relu (a)  b = Gemm <transB = 1> (r, w2)  y = MatMul (b, w3) }}"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (SIDE, SIDE), "w2": (SIDE, SIDE), "w3": (SIDE, 3)}.items():
        array = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    proto.graph.initializer[1].doc_string = "a weight"
    proto.graph.initializer[1].metadata_props.add(key="k", value="v")
    for entry in (*proto.opset_import, *proto.graph.node):
        entry.ClearField("domain")  # the parser writes what nobody needs
    return proto


def serialized(proto: onnx.ModelProto) -> bytes:
    return proto.SerializeToString(deterministic=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The large model as one file."""
    (tmp_path / "m.onnx").write_bytes(serialized(large_model()))
    return tmp_path / "m.onnx"


def tensor_of(view: ModelView, name: str) -> ir.TensorProtocol:
    tensor = view.graph_ir.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


# -- reading ---------------------------------------------------------------------------------


def test_large_weights_stay_in_the_file_and_are_right(path: Path) -> None:
    view, proto = ModelView.load(path), large_model()
    assert [isinstance(tensor_of(view, name), FileTensor) for name in ("w1", "w2", "w3")] == [
        True,
        True,
        False,
    ]
    assert len(proto.graph.initializer) >= 3
    for tensor in proto.graph.initializer:
        np.testing.assert_array_equal(view.read(tensor.name), onnx.numpy_helper.to_array(tensor))
    assert (
        len(protobuf_wire.strip_tensors(path.read_bytes(), "m.onnx")) < 4 * SIDE * SIDE / 100 + 4 * SIDE * 3
    )


def test_one_file_in_one_file_out_byte_for_byte(path: Path, tmp_path: Path) -> None:
    view = ModelView.load(path)
    assert view.save(tmp_path / "o.onnx") == path.stat().st_size == model_bytes(view)
    assert (tmp_path / "o.onnx").read_bytes() == path.read_bytes() == view.to_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "o.onnx"]


def test_a_model_saved_over_itself_is_still_right(path: Path) -> None:
    view, w2 = ModelView.load(path), ModelView.load(path).read("w2")
    view.replace("w1", np.zeros((SIDE, SIDE), np.float32))
    view.save(path)
    for model in (view, ModelView.load(path)):
        assert not model.read("w1").any()
        np.testing.assert_array_equal(model.read("w2"), w2)


def test_links_to_the_model_file_itself_are_no_danger(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "soft.onnx").symlink_to(path)
    os.link(path, tmp_path / "hard.onnx")
    for link in (tmp_path / "other" / "soft.onnx", tmp_path / "hard.onnx"):
        assert same_model(ModelView.load(link), ModelView.load(path))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.9999])
def test_a_large_file_cut_short_is_refused(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="not an ONNX model, or one cut short"):
        ModelView.load(path)


def test_a_large_weight_of_the_wrong_length_is_refused(path: Path) -> None:
    proto = large_model()
    proto.graph.initializer[0].dims[0] += 1
    path.write_bytes(serialized(proto))
    with pytest.raises(
        ModelError, match=r"w1: the stored bytes do not fit shape and type; got 1081600 bytes"
    ):
        ModelView.load(path)


def test_a_file_that_shrinks_after_it_was_opened_gets_a_sentence(path: Path) -> None:
    view = ModelView.load(path)
    os.truncate(path, 5000)
    with pytest.raises(ModelError, match="has become shorter"):
        view.read("w2")


# -- external data ---------------------------------------------------------------------------


def test_external_data_stays_external_also_when_every_weight_is_new(path: Path, tmp_path: Path) -> None:
    proto = onnx.load(path)
    onnx.save(proto, tmp_path / "e.onnx", save_as_external_data=True, location="e.bin")
    view = ModelView.load(tmp_path / "e.onnx")
    for name in ("w1", "w2", "w3"):
        view.replace(name, view.read(name) * 2)
    (tmp_path / "out").mkdir()
    size = view.fork().save(tmp_path / "out" / "o.onnx")
    model, data = sorted((tmp_path / "out").iterdir())
    assert model.name == "o.onnx"
    assert re.fullmatch(r"o\.onnx\.[0-9a-f]{8}\.data", data.name)
    assert size == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    again = ModelView.load(tmp_path / "out" / "o.onnx")
    assert same_model(again, view)
    assert fingerprint(again) == fingerprint(view)
    onnx.checker.check_model(str(tmp_path / "out" / "o.onnx"), full_check=True)


# -- out of memory ---------------------------------------------------------------------------


def test_very_large_new_weights_move_to_a_temporary_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_tensor, "_SPILLED_FROM_BYTES", 1 << 20)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(file_tensor.tempfile, "tempdir", None)
    (tmp_path / "scratch").mkdir()
    view = ModelView.load(path)
    doubled = {name: view.read(name) * 2 for name in ("w1", "w3")}
    for name, array in doubled.items():
        view.replace(name, array)
    spill_to_disk(view)
    assert isinstance(tensor_of(view, "w1"), FileTensor)
    assert not isinstance(tensor_of(view, "w3"), FileTensor)
    for name, array in doubled.items():
        np.testing.assert_array_equal(view.read(name), array)
    assert not any((tmp_path / "scratch").iterdir())  # it has no name, and goes with the model


def test_weights_that_are_large_together_move_with_the_notes_on_them(path: Path) -> None:
    view = ModelView.load(path)
    for name in ("w1", "w2"):  # each is smaller than what moves alone
        view.replace(name, view.read(name) * 2)
    [first, second] = (each for each in stored_weights(view) if each.site.name in ("w1", "w2"))
    first.memo["scale"] = 2.0
    assert max(np.prod(each.shape) * 4 for each in (first, second)) < file_tensor._SPILLED_FROM_BYTES
    spill_to_disk(view)
    assert not isinstance(tensor_of(view, "w1"), FileTensor)
    limit = int(sum(np.prod(each.shape) * 4 for each in (first, second)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_tensor, "_SPILLED_FROM_BYTES", limit)
        spill_to_disk(view)
    assert isinstance(tensor_of(view, "w1"), FileTensor)
    assert isinstance(tensor_of(view, "w2"), FileTensor)
    assert tensor_of(view, "w1").meta["scale"] == 2.0


def test_what_the_disk_does_not_take_stays_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_tensor, "_SPILLED_FROM_BYTES", 1 << 20)
    monkeypatch.setattr(file_tensor.tempfile, "TemporaryFile", refuse)
    view = ModelView.load(path)
    doubled = view.read("w1") * 2
    view.replace("w1", doubled)
    spill_to_disk(view)
    np.testing.assert_array_equal(view.read("w1"), doubled)


def test_models_are_compared_by_content_however_it_is_held(path: Path) -> None:
    view = ModelView.load(path)
    parsed = ModelView.from_bytes(path.read_bytes())
    assert same_model(view, view.fork())
    assert same_model(view, parsed)
    assert fingerprint(view) == fingerprint(parsed)
    changed = view.read("w2")
    changed[-1, -1] += 1
    parsed.replace("w2", changed)
    assert not same_model(view, parsed)
    other = view.fork()
    other.metadata["a"] = "b"
    assert not same_model(view, other)


def test_a_weight_held_as_codes_is_the_values_of_its_grid(path: Path, tmp_path: Path) -> None:
    view = ModelView.load(path)
    codes = np.random.default_rng(1).integers(-127, 128, (SIDE, SIDE)).astype(np.int8)
    grid = ByteGrid(codes, np.linspace(0.5, 1, SIDE, dtype=np.float32)[:, None])
    assert grid.holds(grid.values(np.float32))
    assert not grid.holds(grid.values(np.float32) + np.eye(SIDE, dtype=np.float32))
    [stored] = [weight for weight in stored_weights(view) if weight.site.name == "w1"]
    assert stored.byte_grid() is None
    stored.store_as_codes(grid)
    np.testing.assert_array_equal(view.read("w1"), codes * grid.scales)
    np.testing.assert_array_equal(stored.read(), ModelView.load(path).read("w1"))  # what was there before
    view.save(tmp_path / "o.onnx")
    assert same_model(ModelView.load(tmp_path / "o.onnx"), view)


@pytest.mark.parametrize("form", ["packed", "qdq"])
def test_encoding_is_the_same_whether_codes_are_held_or_found(path: Path, tmp_path: Path, form: str) -> None:
    first, second = Recipe.parse(
        {
            "pass": [
                {"name": "admm_quantize", "bits": 8, "per_channel": True},
                {"name": "encode", "format": form},
            ]
        }
    ).passes
    view = ModelView.load(path)
    context = PassContext(reference=view)
    quantised = Pipeline([first]).run(view, context).model
    assert any(weight.byte_grid() is not None for weight in stored_weights(quantised))
    quantised.save(tmp_path / "q.onnx")
    found = Pipeline([second]).run(ModelView.load(tmp_path / "q.onnx"), context).model
    stored = Pipeline([second]).run(quantised, context).model
    assert same_model(stored, found)
    assert model_bytes(stored) < path.stat().st_size / 3.8
    for name in ("w1", "w2"):
        np.testing.assert_array_equal(stored.read(name), quantised.read(name))


MEASURE = """
import resource, sys
from onnx_admm.contracts import PassContext
from onnx_admm.model import ModelView
from onnx_admm.config.recipe import Recipe
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
steps = [{"name": "admm_quantize", "bits": 8, "per_channel": True}, {"name": "encode", "format": "packed"}]
passes = Recipe.parse({"pass": steps}).pipeline()
ModelView.load(sys.argv[1])
before = peak()
passes.run(ModelView.load(sys.argv[1])).model.save(sys.argv[2])
print((peak() - before) * 1024)
"""


def test_memory_follows_the_largest_weight_not_the_model(tmp_path: Path) -> None:
    side, layers = 1024, 24  # 4 MB each, 100 MB together
    nodes, weights = [], []
    rng = np.random.default_rng(0)
    for number in range(layers):
        array = rng.standard_normal((side, side), np.float32)
        weights.append(onnx.numpy_helper.from_array(array, f"w{number}"))
        nodes.append(onnx.helper.make_node("MatMul", [f"v{number}", f"w{number}"], [f"v{number + 1}"]))
    ports = [
        onnx.helper.make_tensor_value_info(f"v{number}", onnx.TensorProto.FLOAT, ["N", side])
        for number in (0, layers)
    ]
    graph = onnx.helper.make_graph(nodes, "deep", ports[:1], ports[1:], weights)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "deep.onnx")
    del proto, graph, weights
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "deep.onnx"), str(tmp_path / "out.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "out.onnx").stat().st_size < 1.1 * layers * side * side
    assert int(done.stdout) < 0.7 * 4 * layers * side * side
