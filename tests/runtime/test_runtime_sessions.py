"""Opening and running models, and what is said where the runtime refuses."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import hostile_models
import numpy as np
import onnx
import onnx.helper
import onnx.parser
import pytest

from onnx_admm.contracts import Batch
from onnx_admm.errors import DataError, LimitReached, ModelError, OutputError, UnsupportedModel, WorkError
from onnx_admm.limits import RunLimits, run_within
from onnx_admm.model import ModelView
from onnx_admm.runtime.feeding import feed_at, run_samples
from onnx_admm.runtime.sessions import Session, open_session, require_runtime

DOUBLE = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,2] x) => (float[N,2] y, float[N,2] z) { y = Add(x, x) z = Relu(y) }"""
X = np.array([[1, -2], [3, 4]], np.float32)


def proto(text: str = DOUBLE) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def session(text: str) -> Session:
    return open_session(proto(text).SerializeToString())


@pytest.mark.parametrize("optimize", [True, False])
def test_a_view_bytes_and_a_file_run_alike(tmp_path: Path, optimize: bool) -> None:
    data = proto().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    for model in (data, ModelView.from_bytes(data), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        opened = open_session(model, threads=1, optimize=optimize)
        assert (opened.input_names, opened.output_names) == (("x",), ("y", "z"))
        outputs = opened.run({"x": X})
        np.testing.assert_array_equal(outputs["y"], 2 * X)
        np.testing.assert_array_equal(outputs["z"], np.maximum(2 * X, 0))
        assert list(opened.run({"x": X}, ["z"])) == ["z"]


@pytest.mark.parametrize(("optimize", "level"), [(True, "ORT_ENABLE_ALL"), (False, "ORT_DISABLE_ALL")])
def test_what_the_runtime_is_asked_for(monkeypatch: pytest.MonkeyPatch, optimize: bool, level: str) -> None:
    runtime = require_runtime()
    asked: list[Any] = []
    real = runtime.InferenceSession

    def recorded(source: Any, settings: Any, **keywords: Any) -> Any:
        asked.append(settings)
        return real(source, settings, **keywords)

    monkeypatch.setattr(runtime, "InferenceSession", recorded)
    open_session(proto().SerializeToString(), threads=1, optimize=optimize)
    assert asked[0].graph_optimization_level == getattr(runtime.GraphOptimizationLevel, level)
    assert (asked[0].intra_op_num_threads, asked[0].use_deterministic_compute) == (1, True)


def test_an_ir_version_that_is_too_new_is_stated_lower_on_a_copy(tmp_path: Path) -> None:
    newest = proto()
    newest.ir_version = onnx.IR_VERSION
    (tmp_path / "m.onnx").write_bytes(newest.SerializeToString())
    for model in (newest.SerializeToString(), tmp_path / "m.onnx"):
        np.testing.assert_array_equal(open_session(model).run({"x": X})["y"], 2 * X)
    assert onnx.load(tmp_path / "m.onnx").ir_version == onnx.IR_VERSION


def test_an_opset_that_is_too_new_is_lowered_on_a_copy() -> None:
    newest = proto()
    newest.opset_import[0].version = onnx.defs.onnx_opset_version()
    np.testing.assert_array_equal(open_session(newest.SerializeToString()).run({"x": X})["y"], 2 * X)


def test_an_opset_nobody_knows() -> None:
    newest = proto()
    newest.opset_import[0].version = 99
    with pytest.raises(
        UnsupportedModel, match=r"got opset 99; expected at most \d+ \(onnxruntime.*onnx-admm\[runtime\]"
    ):
        open_session(newest.SerializeToString())


def test_models_the_runtime_refuses(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.onnx: no such model file"):
        open_session(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"junk.onnx: onnxruntime.* refuses the model \("):
        open_session(tmp_path / "junk.onnx")
    unknown = DOUBLE.replace("Relu", "Rolu")
    with pytest.raises(UnsupportedModel, match="Rolu"):
        session(unknown)


@pytest.mark.parametrize("feeds", [{}, {"q": X}, {"x": X[0]}, {"x": X.astype(np.float64)}, {"x": X[:, :1]}])
def test_feeds_the_model_does_not_take(feeds: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="the model does not take these inputs") as caught:
        session(DOUBLE).run(feeds)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_an_operator_that_fails() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N] x, int64[M] shape) => (float[a,b] y) { y = Reshape(x, shape) }"""
    with pytest.raises(WorkError, match=r"failed while running the model .*Reshape"):
        session(text).run({"x": np.zeros(5, np.float32), "shape": np.array([2, 2])})


def test_a_model_that_wrong_stored_shapes_break_runs_without_them() -> None:
    model = proto(
        """<ir_version: 10, opset_import: ["" : 17]>
        g (float[h,w] x) => (float[a,b] y) {
            p = Relu(x) q = Transpose(p) r = Neg(q) s = Concat <axis = 0> (r, r) t = Abs(s) y = Sqrt(t)
        }"""
    )
    for name in "pqrst":
        shape = [1, 1]
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    opened = open_session(model.SerializeToString(), optimize=False)
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_allclose(opened.run({"x": x})["y"], np.sqrt(np.vstack([x.T, x.T])), rtol=1e-6)


def test_a_view_over_2_gb_goes_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    view = ModelView.from_bytes(proto().SerializeToString())

    def too_large(self: ModelView) -> bytes:
        raise OutputError("over 2 GB")

    monkeypatch.setattr(ModelView, "to_bytes", too_large)
    opened = open_session(view)
    np.testing.assert_array_equal(opened.run({"x": X})["y"], 2 * X)
    del opened
    gc.collect()


def test_sequences_among_the_outputs_are_left_out() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,2] x) => (seq(float[N,2]) s, float[N,2] y) { s = SequenceConstruct(x) y = Relu(x) }"""
    opened = session(text)
    assert opened.output_names == ("y",)
    with pytest.raises(UnsupportedModel, match="no output of the model is a tensor"):
        session(text.replace(", float[N,2] y", "").replace("y = Relu(x)", ""))


def batch(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("first", "runs"),
    [("N", [(0, 5)]), ("1", [(i, i + 1) for i in range(5)]), ("2", [(0, 2), (2, 4), (4, 5)])],
)
def test_samples_run_as_many_at_a_time_as_the_input_says(first: str, runs: list[tuple[int, int]]) -> None:
    text = DOUBLE.replace("[N,2]", f"[{first},2]")
    x = batch(5, 2)
    found = list(run_samples(session(text), {"x": x}))
    assert [(run.start, run.stop) for run in found] == runs
    np.testing.assert_array_equal(np.concatenate([run.outputs["y"] for run in found]), 2 * x)


def test_large_samples_run_a_few_megabytes_at_a_time() -> None:
    text = DOUBLE.replace("[N,2]", "[N,k]")
    found = list(run_samples(session(text), {"x": batch(7, 1 << 18)}))
    assert [(run.start, run.stop) for run in found] == [(0, 4), (4, 7)]


def test_whole_feeds_run_one_at_a_time() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[1,2] x, float[2,1,2] h, float k) => (float[2,1,2] y) { a = Add(h, x) y = Mul(a, k) }"""
    x, h, k = batch(3, 2), batch(3, 2, 1, 2), batch(3)
    opened = session(text)
    found = [run.outputs["y"] for run in run_samples(opened, {"x": x, "h": h, "k": k})]
    np.testing.assert_array_equal(found, [(h[i] + x[i : i + 1]) * k[i] for i in range(3)])
    fed = feed_at(opened, Batch({"x": x, "h": h, "k": k}).feeds, 1)
    assert {name: array.shape for name, array in fed.items()} == {"x": (1, 2), "h": (2, 1, 2), "k": ()}


def test_inputs_that_disagree_on_the_samples_of_a_run() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[1,2] x, float[2,2] h) => (float[2,2] y) { y = Add(h, x) }"""
    with pytest.raises(DataError, match="disagree on the number of samples in a run; got x 1, h 2"):
        list(run_samples(session(text), {"x": batch(4, 2), "h": batch(4, 2)}))


def test_a_time_limit_ends_a_run_in_the_runtime() -> None:
    """A Loop that does not end is C++ alone: no exception of Python's reaches it."""
    session = open_session(hostile_models.endless_loop().SerializeToString(), threads=1)
    started = time.monotonic()
    with pytest.raises(LimitReached, match=r"the time limit of 0\.3 s"), run_within(RunLimits(timeout_s=0.3)):
        session.run({"x": np.ones((1, 4), np.float32)})
    assert time.monotonic() - started < 20
