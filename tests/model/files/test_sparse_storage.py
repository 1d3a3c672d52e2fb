"""Sparse tensors: dense in memory, sparse in files, and counted as the file holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.errors import ModelError, UnsupportedModel
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.model.analysis.stored_sizes import stored_constants
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.model.rewrite.sparse_marks import mark_dense, mark_sparse
from onnx_admm.report import describe_model
from onnx_admm.runtime.sessions import open_session
from onnx_admm.training.graph.trainer import GraphTrainer

DENSE = np.zeros((8, 16), np.float32)
DENSE[1, 2], DENSE[7, 15], DENSE[0, 0] = 3, -4, 5
FLAT = np.flatnonzero(DENSE)


def tensor(values: np.ndarray, indices: np.ndarray, shape: tuple[int, ...]) -> onnx.SparseTensorProto:
    return onnx.helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(values, "w1"),
        onnx.numpy_helper.from_array(indices.astype(np.int64)),
        shape,
    )


def with_sparse(view: ModelView, sparse: onnx.SparseTensorProto) -> bytes:
    proto = onnx.load_from_string(view.to_bytes())
    proto.graph.initializer.remove(next(stored for stored in proto.graph.initializer if stored.name == "w1"))
    proto.graph.sparse_initializer.append(sparse)
    return proto.SerializeToString()


@pytest.fixture
def loaded(tiny_mlp: ModelView) -> ModelView:
    """The perceptron read from a file that holds its first weight sparse."""
    return ModelView.from_bytes(with_sparse(tiny_mlp, tensor(DENSE.flat[FLAT], FLAT, (8, 16))))


# -- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", [True, False])
def test_a_sparse_initializer_is_dense_in_memory(tiny_mlp: ModelView, coordinates: bool) -> None:
    indices = np.argwhere(DENSE) if coordinates else FLAT
    view = ModelView.from_bytes(with_sparse(tiny_mlp, tensor(DENSE.flat[FLAT], indices, (8, 16))))
    np.testing.assert_array_equal(view.read("w1"), DENSE)


def test_one_out_of_proportion_is_refused(tiny_mlp: ModelView) -> None:
    data = with_sparse(tiny_mlp, tensor(np.ones(1, np.float32), np.zeros(1), (2**20, 2**20)))
    with pytest.raises(ModelError, match="out of proportion"):
        ModelView.from_bytes(data)


def test_indices_outside_the_shape_are_refused(tiny_mlp: ModelView) -> None:
    with pytest.raises(ModelError):
        ModelView.from_bytes(with_sparse(tiny_mlp, tensor(np.ones(1, np.float32), np.array([128]), (8, 16))))


# -- the form outlives load and save ---------------------------------------------------------


def test_what_was_read_sparse_is_written_sparse(loaded: ModelView, tmp_path: Path) -> None:
    for round_trip in range(2):
        loaded.save(tmp_path / f"{round_trip}.onnx")
        graph = onnx.load(tmp_path / f"{round_trip}.onnx").graph
        assert [stored.values.name for stored in graph.sparse_initializer] == ["w1"]
        assert not any(stored.metadata_props for stored in graph.initializer)
        loaded = ModelView.load(tmp_path / f"{round_trip}.onnx")
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    np.testing.assert_array_equal(loaded.read("w1"), DENSE)


def test_a_marked_model_and_its_file_are_the_same_model(tiny_mlp: ModelView, tmp_path: Path) -> None:
    tiny_mlp.replace("w1", DENSE)
    before = fingerprint(tiny_mlp)
    marked = tiny_mlp.fork()
    mark_sparse(marked, ["w1"])
    assert fingerprint(marked) != before
    assert fingerprint(tiny_mlp) == before
    marked.save(tmp_path / "marked.onnx")
    assert ModelView.load(tmp_path / "marked.onnx").to_bytes() == marked.to_bytes()


def test_new_values_are_dense_again(loaded: ModelView) -> None:
    loaded.replace("w1", np.ones((8, 16), np.float32))
    assert not onnx.load_from_string(loaded.to_bytes()).graph.sparse_initializer


def test_constants_and_branches_keep_theirs(tmp_path: Path) -> None:
    view = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,8] x, bool k) => (float[N,16] y)
        {
            y = If (k) <
                then_branch = yes () => (float[N,16] p)
                    <float[8,16] inner = {0}> { p = MatMul (x, inner) },
                else_branch = no () => (float[N,16] q)
                    { w = Constant <value = float[8,16] {0}> () q = MatMul (x, w) }
            >
        }""".replace("{0}", "{" + ", ".join(map(str, DENSE.flat)) + "}"))  # fmt: skip
    proto = onnx.load_from_string(view.to_bytes())
    yes, no = (attribute.g for attribute in proto.graph.node[0].attribute)
    stored = tensor(DENSE.flat[FLAT], FLAT, (8, 16))
    del yes.initializer[:]
    stored.values.name = "inner"
    yes.sparse_initializer.append(stored)
    no.node[0].attribute[0].CopyFrom(onnx.helper.make_attribute("sparse_value", stored))
    path = tmp_path / "branches.onnx"
    ModelView.from_bytes(proto.SerializeToString()).save(path)
    yes, no = (attribute.g for attribute in onnx.load(path).graph.node[0].attribute)
    assert [stored.values.name for stored in yes.sparse_initializer] == ["inner"]
    assert [attribute.name for attribute in no.node[0].attribute] == ["sparse_value"]
    x = np.arange(8, dtype=np.float32)[None]
    for branch in (True, False):
        for model in (path, view):
            [y] = open_session(model, threads=1).run({"x": x, "k": np.array(branch)}).values()
            np.testing.assert_array_equal(y, x @ DENSE)
    loaded = ModelView.load(path)
    mark_dense(loaded)
    yes, no = (attribute.g for attribute in onnx.load_from_string(loaded.to_bytes()).graph.node[0].attribute)
    assert [stored.name for stored in yes.initializer] == ["inner"]
    assert [attribute.name for attribute in no.node[0].attribute] == ["value"]


def test_a_sparse_attribute_of_another_operator_is_refused(tiny_mlp: ModelView) -> None:
    proto = onnx.load_from_string(tiny_mlp.to_bytes())
    stored = onnx.helper.make_attribute("table", tensor(DENSE.flat[FLAT], FLAT, (8, 16)))
    proto.graph.node[0].domain = "elsewhere"
    proto.graph.node[0].attribute.append(stored)
    proto.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    with pytest.raises(UnsupportedModel, match="sparse tensor as an attribute"):
        ModelView.from_bytes(proto.SerializeToString())


# -- counting --------------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", [True, False])
def test_bytes_are_those_of_values_and_indices(
    tiny_mlp: ModelView, tmp_path: Path, coordinates: bool
) -> None:
    indices = np.argwhere(DENSE) if coordinates else FLAT
    path = tmp_path / "foreign.onnx"
    path.write_bytes(with_sparse(tiny_mlp, tensor(DENSE.flat[FLAT], indices, (8, 16))))
    view = ModelView.load(path)
    [found] = [constant for constant in stored_constants(view) if constant.name == "w1"]
    assert found.bytes == 3 * 4 + 8 * indices.size  # raw 64-bit indices, as the foreign file has them
    view.save(path)
    [again] = [constant for constant in stored_constants(ModelView.load(path)) if constant.name == "w1"]
    assert again.bytes == 3 * 4 + sum(1 if index < 128 else 2 for index in FLAT)
    facts = describe_model(ModelView.load(path), path)
    assert facts.layers[0].sizes.data_index == again.bytes
    assert facts.sizes.decode <= path.stat().st_size


def test_a_marked_model_counts_as_its_file_will(tiny_mlp: ModelView, tmp_path: Path) -> None:
    tiny_mlp.replace("w1", DENSE)
    mark_sparse(tiny_mlp, ["w1"])
    tiny_mlp.save(tmp_path / "marked.onnx")
    counts = [
        {constant.name: constant.bytes for constant in stored_constants(view)}
        for view in (tiny_mlp, ModelView.load(tmp_path / "marked.onnx"))
    ]
    assert counts[0] == counts[1]


# -- readers that know no sparse tensors -----------------------------------------------------


def test_the_version_converter_gets_it_dense_and_the_form_stays() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 9]>
        g (float[2,8] x) => (float[2,16] y) <float[8,16] w1>
        { m = MatMul (x, w1) y = Softmax (m) }"""
    view = ModelView.from_bytes(with_sparse(parse_text(text), tensor(DENSE.flat[FLAT], FLAT, (8, 16))))
    raised = convert_opset(view, at_least=13)
    assert raised.opset == 13
    np.testing.assert_array_equal(raised.read("w1"), DENSE)
    assert onnx.load_from_string(raised.to_bytes()).graph.sparse_initializer


def test_the_trainer_gets_it_dense(loaded: ModelView) -> None:
    data = from_arrays({"x": np.ones((4, 8), np.float32)}, np.zeros(4, np.int64))
    settings = TrainingSettings(loss="cross_entropy", batch_size=4, threads=1)
    with GraphTrainer().open(loaded, loaded.sites(), data, settings, loaded) as run:
        np.testing.assert_array_equal(run.weights()["w1"], DENSE)
        run.epoch(1e-3, 1e-3, seed=0)
        assert not np.array_equal(run.weights()["w1"], DENSE)
