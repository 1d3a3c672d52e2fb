"""Models that take texts: fed from arrays of texts, or with words of their own vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import RunCommand
from onnx import TensorProto, helper, numpy_helper

from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays, open_dataset, synthetic_dataset
from onnx_admm.errors import DataError, UnsupportedModel

WORDS = ["ant", "bee", "caterpillar", "dragonfly", "earwig"]


def embedding(*, normalised: bool = False) -> onnx.ModelProto:
    """Texts to numbers (LabelEncoder), to rows of a table, their mean to scores."""
    nodes = [
        helper.make_node(
            "LabelEncoder", ["lower" if normalised else "words"], ["i"], domain="ai.onnx.ml",
            keys_strings=WORDS, values_int64s=list(range(len(WORDS))), default_int64=0,
        ),
        helper.make_node("Gather", ["table", "i"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]  # fmt: skip
    if normalised:
        nodes.insert(
            0,
            helper.make_node(
                "StringNormalizer", ["words"], ["lower"], case_change_action="LOWER", locale="C"
            ),
        )
    random = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in (("table", (len(WORDS), 64)), ("w", (64, 4)))
    ]
    shape = [1, 3] if normalised else ["n", 3]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("words", TensorProto.STRING, shape)],
        [helper.make_tensor_value_info("y", 1, [1, 4] if normalised else ["n", 4])],
        stored,
    )  # fmt: skip
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def mute() -> onnx.ModelProto:
    """Texts that nothing lists: their numbers of characters do not matter either."""
    graph = helper.make_graph(
        [
            helper.make_node("StringNormalizer", ["s"], ["t"], case_change_action="LOWER", locale="C"),
            helper.make_node("Shape", ["t"], ["k"]),
            helper.make_node("Cast", ["k"], ["f"], to=1),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("s", TensorProto.STRING, [3])],
        [helper.make_tensor_value_info("y", 1, [64])],
        [numpy_helper.from_array(np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def texts(count: int = 40) -> np.ndarray:
    return np.random.default_rng(1).choice(np.array(WORDS), (count, 3))


def test_texts_are_in_the_signature() -> None:
    (port,) = ModelView.from_bytes(embedding().SerializeToString()).signature().inputs
    assert (port.name, port.dtype, port.shape) == ("words", "str", ("n", 3))


def test_made_up_texts_are_those_that_the_graph_lists() -> None:
    for normalised in (False, True):
        view = ModelView.from_bytes(embedding(normalised=normalised).SerializeToString())
        batch = next(iter(synthetic_dataset(view, 50, 0).batches(50)))
        assert set(batch.feeds["words"].reshape(-1).tolist()) == set(WORDS)
        again = next(iter(synthetic_dataset(view, 50, 0).batches(50)))
        np.testing.assert_array_equal(again.feeds["words"], batch.feeds["words"])


def test_made_up_texts_are_those_that_the_graph_compares_with() -> None:
    graph = helper.make_graph(
        [helper.make_node("Equal", ["s", "k"], ["e"]), helper.make_node("Cast", ["e"], ["y"], to=1)],
        "g",
        [helper.make_tensor_value_info("s", TensorProto.STRING, ["n", 2])],
        [helper.make_tensor_value_info("y", 1, ["n", 2])],
        [helper.make_tensor("k", TensorProto.STRING, [1, 2], [b"on", b"off"])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    view = ModelView.from_bytes(proto.SerializeToString())
    batch = next(iter(synthetic_dataset(view, 30, 0).batches(30)))
    assert set(batch.feeds["s"].reshape(-1).tolist()) == {"on", "off"}


@pytest.mark.parametrize("flags", [[], ["--data"], ["--data", "--bits", 4, "--no-fine-tune"]])
def test_such_models_are_compressed(run: RunCommand, flags: list[object], tmp_path: Path) -> None:
    onnx.save(embedding(), tmp_path / "in.onnx")
    np.savez(tmp_path / "d.npz", words=texts())
    given = [part for flag in flags for part in ([flag, tmp_path / "d.npz"] if flag == "--data" else [flag])]
    code, _, err = run("compress", tmp_path / "in.onnx", tmp_path / "out.onnx", "--threads", 1, "-q", *given)
    assert (code, err) == (0, "")
    assert (tmp_path / "out.onnx").stat().st_size < (tmp_path / "in.onnx").stat().st_size
    assert (
        ModelView.load(tmp_path / "out.onnx").signature() == ModelView.load(tmp_path / "in.onnx").signature()
    )


@pytest.mark.parametrize(
    "array",
    [texts(), np.char.encode(texts(), "utf-8"), texts().astype(object)],
    ids=["texts", "bytes", "Python objects"],
)
def test_arrays_of_texts(array: np.ndarray, tmp_path: Path) -> None:
    view = ModelView.from_bytes(embedding().SerializeToString())
    if array.dtype == object:
        data = open_dataset_from(from_arrays({"words": array}), view)
    else:
        np.savez(tmp_path / "d.npz", words=array)
        data = open_dataset(tmp_path / "d.npz", view)
    batch = next(iter(data.batches(40)))
    np.testing.assert_array_equal(batch.feeds["words"], texts())
    assert batch.feeds["words"].dtype.kind == "U"


def open_dataset_from(data, view: ModelView):  # type: ignore[no-untyped-def]
    from onnx_admm.data import fit_dataset

    return fit_dataset(data, view)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (
            np.ones((4, 3), np.float32),
            r"words: data of another type .* expected texts\. Store them",
        ),
        (np.full((4, 3), b"\xff"), "words: bytes that are not UTF-8"),
    ],
)
def test_what_are_no_texts(array: np.ndarray, sentence: str, tmp_path: Path) -> None:
    view = ModelView.from_bytes(embedding().SerializeToString())
    np.savez(tmp_path / "d.npz", words=array)
    with pytest.raises(DataError, match=sentence):
        next(iter(open_dataset(tmp_path / "d.npz", view).batches(4)))


def test_pickled_texts_are_refused_with_the_way_to_store_them(tmp_path: Path) -> None:
    view = ModelView.from_bytes(embedding().SerializeToString())
    np.savez(tmp_path / "d.npz", words=texts().astype(object))
    with pytest.raises(DataError, match=r"Python objects.*dtype=str"):
        open_dataset(tmp_path / "d.npz", view)


def test_texts_that_nothing_lists_need_samples(run: RunCommand, tmp_path: Path) -> None:
    onnx.save(mute(), tmp_path / "in.onnx")
    code, _, err = run("compress", tmp_path / "in.onnx", tmp_path / "out.onnx", "--threads", 1)
    assert code == 2
    assert (
        "s: no random values for texts: the graph does not list the texts that it knows. Give samples: --"
        in err
    )
    with pytest.raises(UnsupportedModel):
        synthetic_dataset(ModelView.load(tmp_path / "in.onnx"), 4, 0)
    np.savez(tmp_path / "d.npz", s=texts(20))
    data = ["--data", tmp_path / "d.npz"]
    code, _, err = run("compress", tmp_path / "in.onnx", tmp_path / "out.onnx", "--threads", 1, "-q", *data)
    assert (code, err) == (0, "")
