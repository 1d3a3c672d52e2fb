"""Model files that are damaged or forged: each ends in a sentence that names the file and the cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.api import inspect_model
from onnx_admm.errors import ModelError, OnnxAdmmError
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.stored_sizes import stored_constants
from onnx_admm.model.files.sparse_tensors import SPARSE_BYTES
from onnx_admm.model.rewrite.sparse_marks import marked_sparse
from onnx_admm.report import ModelFacts

LARGE = 1 << 18
"""Elements of a float tensor that stays in its file."""


def gemm(columns: int = 4) -> onnx.ModelProto:
    """Return ``y = x @ w`` with a float weight of 4 rows."""
    weight = onnx.numpy_helper.from_array(np.ones((4, columns), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "multiply")],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, columns])],
        [weight],
    )
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 17)])


def no_utf8(data: bytes) -> bytes:
    """Put a byte that is no text into the node's name."""
    return data.replace(b"multiply", b"multipl\xff")


def no_utf8_key(data: bytes) -> bytes:
    """Put a byte that is no text into the metadata of an inner tensor."""
    model = onnx.ModelProto.FromString(data)
    model.graph.initializer[0].metadata_props.add(key="multiply", value="")
    return no_utf8(model.SerializeToString())


def forged_type(data: bytes) -> bytes:
    model = onnx.ModelProto.FromString(data)
    model.graph.input[0].type.tensor_type.elem_type = 77
    return model.SerializeToString()


def forged_attribute(data: bytes) -> bytes:
    model = onnx.ModelProto.FromString(data)
    attribute = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.TYPE_PROTO)
    model.graph.node[0].attribute.append(attribute)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("corruption", "cause"),
    [
        (no_utf8, r"text that is not UTF-8, as name of a NodeProto; got b'multipl\xff'"),
        (no_utf8_key, "text that is not UTF-8, as key of a StringStringEntryProto"),
        (forged_type, "Invalid tensor data type 77"),
        (forged_attribute, ""),
    ],
)
def test_what_a_parser_raises_becomes_a_sentence(
    tmp_path: Path, corruption: Callable[[bytes], bytes], cause: str
) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(corruption(gemm().SerializeToString()))
    with pytest.raises(ModelError) as refused:
        ModelView.load(file)
    sentence = str(refused.value)
    assert str(file) in sentence
    assert cause in sentence
    assert "\n" not in sentence
    assert "serde" not in sentence.lower()
    assert refused.value.exit_code == 2


def test_a_large_tensor_that_cannot_be_parsed_is_no_model(tmp_path: Path) -> None:
    """Its name stands in the field of extents; the walk over the file parses it before the whole model is."""
    model = gemm(LARGE)
    data = model.SerializeToString()
    start = data.index(b"\x42\x01w")  # field 8 of the tensor, one byte long
    file = tmp_path / "m.onnx"
    file.write_bytes(data[:start] + b"\x0a\x01w" + data[start + 3 :])
    with pytest.raises(OnnxAdmmError) as refused:
        ModelView.load(file).read("w")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("mark", ["12", "-5", "1e9", "many", ""])
def test_marks_of_sparse_storage_in_a_file_are_not_believed(tmp_path: Path, mark: str) -> None:
    model = gemm()
    entry = model.graph.initializer[0].metadata_props.add()
    entry.key, entry.value = SPARSE_BYTES, mark
    onnx.save(model, tmp_path / "m.onnx")
    view = ModelView.load(tmp_path / "m.onnx")
    assert marked_sparse(view) == frozenset()
    assert [constant.bytes for constant in stored_constants(view)] == [64]
    assert [constant.bytes for constant in stored_constants(ModelView.from_bytes(view.to_bytes()))] == [64]


# -- what cannot be computed, in files that can be read ----------------------------------------


def judged(model: onnx.ModelProto, folder: Path) -> ModelFacts | None:
    """Return what ``inspect`` finds in a model; None where it says in a sentence why it cannot."""
    onnx.save(model, folder / "m.onnx")
    facts, sentence = None, f"{folder}"
    try:
        facts = inspect_model(folder / "m.onnx")
    except ModelError as error:
        sentence = str(error)
    assert str(folder) in sentence
    assert "Error calling" not in sentence
    return facts


TYPES = (*range(28), 31, 77)


@pytest.mark.parametrize("element_type", TYPES)
def test_an_element_type_in_any_place(tmp_path: Path, element_type: int) -> None:
    """Known or not, with a numpy type or without."""
    value = onnx.helper.make_tensor_value_info
    ports = onnx.helper.make_value_info

    def a_constant(model: onnx.ModelProto) -> None:
        tensor = onnx.TensorProto(name="extra", data_type=element_type, dims=[2], raw_data=bytes(2))
        model.graph.initializer.append(tensor)

    def a_cast_weight(model: onnx.ModelProto) -> None:
        model.graph.node.append(onnx.helper.make_node("Cast", ["w"], ["v"], to=element_type))
        model.graph.node.append(onnx.helper.make_node("MatMul", ["x", "v"], ["z"]))

    def a_filled_weight(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4, 4]), "shape"))
        fill = onnx.TensorProto(data_type=element_type, dims=[1], raw_data=bytes(4))
        model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["shape"], ["v"], value=fill))
        model.graph.node.append(onnx.helper.make_node("MatMul", ["x", "v"], ["z"]))

    def a_sequence(model: onnx.ModelProto) -> None:
        element = onnx.helper.make_tensor_type_proto(element_type, [2])
        model.graph.input.append(ports("s", onnx.helper.make_sequence_type_proto(element)))

    changes: tuple[Callable[[onnx.ModelProto], object], ...] = (
        lambda model: setattr(model.graph.initializer[0], "data_type", element_type),
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", element_type),
        lambda model: model.graph.input.append(value("unused", element_type, [2])),
        lambda model: model.graph.value_info.append(value("inner", element_type, [2])),
        a_constant,
        a_cast_weight,
        a_filled_weight,
        a_sequence,
    )
    read = 0
    for change in changes:
        model = gemm()
        change(model)
        read += judged(model, tmp_path) is not None
    assert read >= (1 if 0 < element_type < 24 else 0)  # an inner value that is nowhere, for one


SHAPES = ([0] * 64, [0] * 33, [1] * 64, [1] * 33, [2**62, 2**62, 0], [2**62, 0], [2**40], [-1], [2**31] * 3)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]} x {len(shape)}")
@pytest.mark.parametrize(
    "operator", ["Expand", "Reshape", "Tile", "ConstantOfShape", "stored", "input", "sparse"]
)
def test_a_shape_that_no_array_has(tmp_path: Path, shape: list[int], operator: str) -> None:
    model = gemm()
    graph = model.graph
    if operator == "stored":
        graph.initializer.append(onnx.TensorProto(name="v", data_type=1, dims=shape))
    elif operator == "input":
        graph.input.append(onnx.helper.make_tensor_value_info("v", 1, shape))
    elif operator == "sparse":
        values, indices = np.ones(1, np.float32), np.zeros(1, np.int64)
        stored = (onnx.numpy_helper.from_array(values, "v"), onnx.numpy_helper.from_array(indices))
        graph.sparse_initializer.append(
            onnx.SparseTensorProto(values=stored[0], indices=stored[1], dims=shape)
        )
    else:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), "shape"))
        inputs = ["shape"] if operator == "ConstantOfShape" else ["w", "shape"]
        graph.node.append(onnx.helper.make_node(operator, inputs, ["v"]))
        graph.node.append(onnx.helper.make_node("MatMul", ["x", "v"], ["z"]))
    facts = judged(model, tmp_path)
    assert facts is None or facts.parameters == 16
