"""Model files that are damaged or forged: each ends in a sentence that names the file and the cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.errors import ModelError, OnnxAdmmError
from onnx_admm.model import ModelView
from onnx_admm.model.sparse_storage import SPARSE_BYTES, marked_sparse
from onnx_admm.model.stored import stored_constants

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
    ("damage", "cause"),
    [
        (no_utf8, r"text that is not UTF-8, as name of a NodeProto; got b'multipl\xff'"),
        (no_utf8_key, "text that is not UTF-8, as key of a StringStringEntryProto"),
        (forged_type, "the model cannot be read (Invalid tensor data type 77"),
        (forged_attribute, ""),
    ],
)
def test_what_a_parser_raises_becomes_a_sentence(
    tmp_path: Path, damage: Callable[[bytes], bytes], cause: str
) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(damage(gemm().SerializeToString()))
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
