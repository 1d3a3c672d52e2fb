"""MeetLatency: integers first, channels where they are not enough, training where accuracy asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from conftest import CONV_NET

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.data import from_arrays
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.passes import meet_latency as module
from onnx_admm.passes.meet_latency import MeetLatency
from onnx_admm.passes.remove_channels import RemoveChannels
from onnx_admm.quantization import run as run_module
from onnx_admm.removal.node_costs import macs_by_node
from onnx_admm.runtime.sessions import open_session
from onnx_admm.training.graph.trainer import GraphTrainer

pytestmark = pytest.mark.slow


def macs(model: ModelView) -> float:
    axes = {axis for port in model.signature().inputs for axis in port.shape or ()}
    return sum(macs_by_node(model, {"N": 1} | ({"T": 5} if "T" in axes else {})).values())


@pytest.fixture(autouse=True)
def latency_of_macs(monkeypatch: pytest.MonkeyPatch, made_up_times: object) -> None:
    """Latency is that of the multiply-accumulates; a model with integer weights takes 0.6 of it."""

    def ratios_of(base: bytes, forms: Sequence[bytes], feeds: object, threads: int = 1) -> list[float]:
        return [latency(ModelView.from_bytes(form)) / latency(ModelView.from_bytes(base)) for form in forms]

    monkeypatch.setattr(run_module, "ratios_of", ratios_of)
    monkeypatch.setattr(module, "ratios_of", ratios_of)


def latency(model: ModelView) -> float:
    is_integer = any(node.op_type == "DequantizeLinear" for node in model.nodes())
    return macs(model) * (0.6 if is_integer else 1.0)


def context(**changes: object) -> PassContext:
    """``CONV_NET`` and samples that it is always right on."""
    model = parse_text(CONV_NET)
    x = np.random.default_rng(0).normal(size=(400, 1, 8, 8)).astype(np.float32)
    labels = open_session(model, threads=1).run({"x": x})["scores"].argmax(axis=1)
    data = from_arrays({"x": x}, labels.astype(np.int64))
    settled = PassContext(
        reference=model,
        train=data.select(np.arange(200)),
        validation=data.select(np.arange(200, 400)),
        bindings={"N": 1},
    )
    return replace(settled, **changes)  # type: ignore[arg-type]


def test_integers_are_enough_for_a_mild_budget() -> None:
    given = context()
    model = given.reference.fork()
    report = MeetLatency(share=0.7).run(model, given)
    assert report.changed
    assert report.unmet is None
    assert [each["share"] for each in report.figures["tried"]] == [1.0]
    assert report.figures["budget"]["latency"] == {"asked": 0.7, "reached": pytest.approx(0.6), "original": 1}
    assert macs(model) == macs(given.reference)
    assert report.figures["removal"] == {}


def test_channels_go_where_integers_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """One study serves all shares that are tried."""
    given = context()
    model = given.reference.fork()
    studies, study = [], RemoveChannels.study
    monkeypatch.setattr(RemoveChannels, "study", lambda *them: studies.append(them) or study(*them))
    report = MeetLatency(share=0.4).run(model, given)
    assert len(report.figures["tried"]) > 3
    assert len(studies) == 1
    assert report.unmet is None
    reached = report.figures["budget"]["latency"]["reached"]
    assert 0.2 < reached <= 0.4
    assert reached == pytest.approx(0.6 * macs(model) / macs(given.reference))
    assert any("channels kept" in edit.what for edit in report.edits)
    assert any("integer" in edit.what for edit in report.edits)
    assert kernel_counts(model.to_bytes(maps=False))
    open_session(model, threads=1).run({"x": np.zeros((2, 1, 8, 8), np.float32)})


def test_a_budget_out_of_reach_is_said() -> None:
    given = context()
    report = MeetLatency(share=0.4, exclude=("w1", "w2")).run(given.reference.fork(), given)
    assert report.unmet is not None
    assert "not reachable: the fastest model found takes 0.6x of the latency" in report.unmet


def test_a_drop_over_the_limit_is_said() -> None:
    given = context(max_drop=0.0)
    report = MeetLatency(share=0.2).run(given.reference.fork(), given)
    assert report.unmet is not None
    assert "points, and 0 are allowed" in report.unmet
    assert not report.figures["trained"]


def test_what_loses_too_much_is_trained() -> None:
    given = context(trainer=GraphTrainer(), max_drop=1.0)
    untrained = MeetLatency(share=0.4, tries=4).run(given.reference.fork(), given).figures
    step = MeetLatency(share=0.4, epochs=30, learning_rate=5e-3, tries=4)
    trained = step.run(given.reference.fork(), given).figures
    assert not untrained["trained"]
    assert trained["trained"]
    assert trained["drop"] != untrained["drop"]
    assert trained["budget"]["latency"]["reached"] <= 0.4


def test_what_still_loses_too_much_is_trained_with_its_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged with integers, and again behind their training: the better of the two is kept."""
    given = context(trainer=GraphTrainer(), max_drop=1.0)

    def trained_by(*drops: float) -> tuple[PassReport, ModelView]:
        told = iter(drops)
        monkeypatch.setattr(module, "accuracy_drop", lambda *_: next(told))
        model = given.reference.fork()
        return MeetLatency(share=0.7, epochs=4).run(model, given), model

    better, tuned = trained_by(3.0, 0.5)
    worse, left = trained_by(3.0, 4.0)
    assert (better.figures["drop"], better.figures["trained"], better.unmet) == (0.5, True, None)
    assert any("trained" in edit.what for edit in better.edits)
    assert (worse.figures["drop"], worse.figures["trained"]) == (3.0, False)
    assert worse.unmet is not None
    assert tuned.to_bytes(maps=False) != left.to_bytes(maps=False)
    assert [node.op_type for node in tuned.nodes()] == [node.op_type for node in left.nodes()]


def test_what_keeps_its_accuracy_is_not_trained() -> None:
    given = context(trainer=GraphTrainer(), max_drop=100.0)
    assert not MeetLatency(share=0.3, epochs=2, tries=3).run(given.reference.fork(), given).figures["trained"]


RESIDUAL = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N,3,8,8] x) => (float[N,4] scores)
    <float[16,3,3,3] w1, float[16,16,3,3] w2, float[16,16,3,3] w3, float[1024,4] w4>
    {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        r2 = Relu (c2)
        c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3)
        s = Add (c3, r1)
        f = Flatten (s)
        scores = MatMul (f, w4)
    }"""


def test_a_block_that_hardly_matters_goes_before_channels() -> None:
    model = parse_text(RESIDUAL)
    model.write_back({"w3": 1e-3 * model.read("w3")})
    x = np.random.default_rng(0).normal(size=(96, 3, 8, 8)).astype(np.float32)
    data = from_arrays({"x": x})
    given = PassContext(reference=model, train=data, validation=data, bindings={"N": 1})
    made = model.fork()
    figures = MeetLatency(share=0.4, samples=48, tries=3).run(made, given).figures
    assert len(figures["blocks"]) == 1
    assert figures["removal"] == {}
    assert macs(made) < 0.3 * macs(model)
    kept = model.fork()
    figures = MeetLatency(share=0.4, samples=48, tries=4, blocks=False).run(kept, given).figures
    assert figures["blocks"] == {}
    assert figures["removal"]["groups"]


def test_layers_that_are_not_named_are_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do blocks that take named layers with them end the run."""
    given = context(trainer=GraphTrainer(), max_drop=0.0)
    monkeypatch.setattr(module, "accuracy_drop", lambda *_: 3.0)
    report = MeetLatency(share=0.7, epochs=2, exclude=("w2",)).run(given.reference.fork(), given)
    assert not [edit for edit in report.edits if edit.layer == "w2"]
    model = parse_text(RESIDUAL)
    data = from_arrays({"x": np.random.default_rng(0).normal(size=(48, 3, 8, 8)).astype(np.float32)})
    given = PassContext(reference=model, train=data, validation=data, bindings={"N": 1})
    report = MeetLatency(share=0.3, samples=48, tries=2, include=("w2", "w3")).run(model.fork(), given)
    assert report.figures["tried"]


def test_it_needs_samples_and_a_share_below_one() -> None:
    model = context().reference
    with pytest.raises(PassRefused, match="a budget for latency needs samples of the input"):
        MeetLatency().requires(model, context(train=None))
    with pytest.raises(PassRefused, match="impossible share"):
        MeetLatency(share=1.0).requires(model, context())


def test_without_integers_only_channels_go() -> None:
    given = context()
    model = given.reference.fork()
    report = MeetLatency(share=0.6, integers=False).run(model, given)
    assert not any(node.op_type == "DequantizeLinear" for node in model.nodes())
    assert report.figures["integers"] == {}
    assert report.unmet is None


def test_a_drop_that_cannot_be_judged_is_refused_before_the_work() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,4,6] x) => (float[N,4,6] y) <float[6,6] w> { y = MatMul (x, w) }"""
    model = parse_text(text)
    data = from_arrays({"x": np.zeros((32, 4, 6), np.float32)})
    given = PassContext(reference=model, train=data, validation=data, max_drop=1.0)
    with pytest.raises(PassRefused, match="--max-drop: the data cannot show a drop"):
        MeetLatency().requires(model, given)


def test_a_model_whose_axes_are_open_is_counted_by_its_samples() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,T,32] x) => (float[N,T,32] y) <float[32,64] w1, float[64,32] w2>
        { a = MatMul (x, w1) r = Relu (a) b = MatMul (r, w2) y = Add (x, b) }"""
    model = parse_text(text)
    data = from_arrays({"x": np.random.default_rng(0).normal(size=(64, 5, 32)).astype(np.float32)})
    given = PassContext(reference=model, train=data, validation=data)
    report = MeetLatency(share=0.5, samples=64).run(model.fork(), given)
    assert report.figures["removal"] or report.figures["blocks"] or report.unmet
