"""Outputs that are maps: kept as they are, while the tensors they are made of are compressed and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from conftest import RunCommand
from onnx import helper, numpy_helper, parser

from onnx_admm.api import Compression, compare
from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.errors import ModelError, UnsupportedModel
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.passes.exact.minify import Minify
from onnx_admm.pipeline import Pipeline

LABELS = list(range(8))
NAMES = [f"class {label}" for label in LABELS]


def map_type(key: int = onnx.TensorProto.INT64) -> onnx.TypeProto:
    scores = helper.make_map_type_proto(key, helper.make_tensor_type_proto(1, []))
    return helper.make_sequence_type_proto(scores)


def classifier(
    outputs: str = "float[n,8] p", *, rest: str = "", opset: int = 13, zipped: str = "z"
) -> onnx.ModelProto:
    """Two layers and a Softmax ``p``, of which a ZipMap makes the last output."""
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}, "ai.onnx.ml" : 3]>
        g (float[n,32] x) => ({outputs})
        {{ t = MatMul (x, a) r = Relu (t) l = MatMul (r, b) p = Softmax <axis = 1> (l) {rest} }}"""
    )
    random = np.random.default_rng(0)
    for name, shape in (("a", (32, 64)), ("b", (64, 8))):
        weight = (random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(weight, name))
    zip_map(proto, zipped)
    return proto


def zip_map(proto: onnx.ModelProto, output: str, *, is_text: bool = False) -> None:
    classes = {"classlabels_strings": NAMES} if is_text else {"classlabels_int64s": LABELS}
    proto.graph.node.append(helper.make_node("ZipMap", ["p"], [output], domain="ai.onnx.ml", **classes))
    key = onnx.TensorProto.STRING if is_text else onnx.TensorProto.INT64
    proto.graph.output.append(helper.make_value_info(output, map_type(key)))


def with_text() -> onnx.ModelProto:
    proto = classifier()
    zip_map(proto, "named", is_text=True)
    return proto


def map_first() -> onnx.ModelProto:
    proto = classifier()
    outputs = list(proto.graph.output)[::-1]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del proto.graph.output[:]
    proto.graph.output.extend(copies)
    return proto


def map_alone() -> onnx.ModelProto:
    proto = classifier()
    del proto.graph.output[0]
    return proto


def typed() -> onnx.ModelProto:
    proto = classifier()
    proto.graph.value_info.append(helper.make_value_info("z", map_type()))
    return proto


MODELS = {
    "beside its scores": classifier,
    "beside a label, as sklearn-onnx writes it": lambda: classifier(
        "int64[n] label", rest="label = ArgMax <axis = 1, keepdims = 0> (p)"
    ),
    "first": map_first,
    "alone": map_alone,
    "two, one of texts": with_text,
    "with a stored type": typed,
    "of a name that encoding likes": lambda: classifier(zipped="a_1"),
}


def ran(path: Path) -> list[object]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": samples()[:2]}))


def samples() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(48, 32)).astype(np.float32)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_they_stay_and_the_layers_are_compressed(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    proto = make()
    onnx.save(proto, tmp_path / "in.onnx")
    report = Compression(threads=1).run(tmp_path / "in.onnx", tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    assert report.written
    assert list(after.graph.output) == list(proto.graph.output)
    assert (tmp_path / "out.onnx").stat().st_size < 0.4 * (tmp_path / "in.onnx").stat().st_size
    (quality,) = report.comparison.quality
    assert set(quality.sqnr_by_output) == {"p"}  # also where it is no output of the file
    for name, expected, got in zip(
        [value.name for value in proto.graph.output],
        ran(tmp_path / "in.onnx"),
        ran(tmp_path / "out.onnx"),
        strict=True,
    ):
        if isinstance(expected, list):
            for left, right in zip(expected, got, strict=True):  # type: ignore[arg-type]
                assert list(left) == list(right), name
                np.testing.assert_allclose(list(right.values()), list(left.values()), atol=0.01)


def test_every_way_of_compressing(tmp_path: Path) -> None:
    proto = classifier(opset=9)
    onnx.save(proto, tmp_path / "in.onnx")
    data = from_arrays({"x": samples()}, np.zeros(48, np.int64))
    for settings in (
        {"bits": 4, "fine_tune": False},
        {"bits": 4, "epochs": 1},
        {"prune": "0.5", "epochs": 1},
    ):
        report = Compression(threads=1, keep=True, data=data, **settings).run(  # type: ignore[arg-type]
            tmp_path / "in.onnx", tmp_path / "out.onnx"
        )
        assert any(step.changed for step in report.steps)
        assert list(onnx.load(tmp_path / "out.onnx").graph.output) == list(proto.graph.output)
    found = compare(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    assert set(found.quality[0].sqnr_by_output) == {"p"}


def test_a_view_keeps_them(tmp_path: Path) -> None:
    proto = map_first()
    view = ModelView.from_bytes(proto.SerializeToString())
    ports = view.signature().outputs
    assert [(port.name, port.dtype) for port in ports] == [
        ("z", "sequence of map from int64 to float"), ("p", "float32"),
    ]  # fmt: skip
    again = ModelView.from_bytes(view.fork().to_bytes())
    assert again.signature() == view.signature()
    assert fingerprint(again) == fingerprint(view)
    assert fingerprint(ModelView.from_bytes(with_text().SerializeToString())) != fingerprint(view)
    short = Pipeline([Minify()]).run(view, PassContext(reference=view)).model
    short.save(tmp_path / "short.onnx")
    written = onnx.load(tmp_path / "short.onnx")
    assert list(written.graph.output) == list(proto.graph.output)
    assert [entry.version for entry in written.opset_import if entry.domain == "ai.onnx.ml"] == [3]


def test_a_map_as_an_input_is_refused_in_a_sentence(run: RunCommand, tmp_path: Path) -> None:
    kind = helper.make_map_type_proto(onnx.TensorProto.STRING, helper.make_tensor_type_proto(1, []))
    graph = helper.make_graph(
        [helper.make_node("DictVectorizer", ["d"], ["y"], domain="ai.onnx.ml", string_vocabulary=["u", "v"])],
        "g",
        [helper.make_value_info("d", kind)],
        [helper.make_tensor_value_info("y", 1, [1, 2])],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "in.onnx")
    code, _, err = run("compress", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert code == 2
    assert "input d is a map from string to float; maps as inputs are not supported" in err
    assert "DictVectorizer" in err
    with pytest.raises(UnsupportedModel):
        ModelView.load(tmp_path / "in.onnx")


def test_an_error_of_the_parser_shows_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outermost error only says that the graph cannot be read."""

    def fail(proto: onnx.ModelProto) -> None:
        try:
            try:
                raise ValueError("Map types are not supported\nand more")
            except ValueError as inner:
                raise RuntimeError("Error calling deserialize_type_proto_for_type") from inner
        except RuntimeError as middle:
            raise ValueError("Error calling _deserialize_graph") from middle

    monkeypatch.setattr(onnx_ir, "from_proto", fail)
    with pytest.raises(ModelError, match=r"cannot be built \(Map types are not supported\)"):
        ModelView.from_bytes(classifier().SerializeToString())
