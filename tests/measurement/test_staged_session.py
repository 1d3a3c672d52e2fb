"""A model in parts gives what the whole gives, wherever a run begins."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import Array, Feeds, ModelView
from onnx_admm.data import synthetic_dataset
from onnx_admm.errors import ModelError
from onnx_admm.measurement.staged_session import StagedSession
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.trial import SCALE, ZERO_POINT, with_trial_grid
from onnx_admm.model.splitting.cut_points import Flow, cut_into_parts
from onnx_admm.runtime.feeding import feeds_of_runs
from onnx_admm.runtime.sessions import open_session
from onnx_admm.testing import model_family

SKIPS = """
    <ir_version: 10, opset_import: ["" : 17]>
    skips (float[N,6] x) => (float[N,6] early, float[N,6] y)
    <float[6,6] w1, float[6,6] w2, float[6,6] w3, float[6,6] w4>
    {
        a = MatMul (x, w1)
        early = Relu (a)
        b = MatMul (early, w2)
        c = Add (b, early)
        d = MatMul (c, w3)
        e = Add (d, early)
        f = MatMul (e, w4)
        y = Add (f, x)
    }
"""

BRANCHES = """
    <ir_version: 10, opset_import: ["" : 17]>
    branches (float[N,6] x) => (float[N,6] y)
    <float[6,6] w1, float[6,6] w2, float[6,6] w3, float zero = {0}, int64[1] axes = {0}>
    {
        a = MatMul (x, w1)
        b = MatMul (a, w2)
        sum = ReduceSum <keepdims = 0> (b)
        is_positive = Greater (sum, zero)
        c = If (is_positive) <
            then_branch = then () => (float[N,6] t) { s = Add (a, b) t = MatMul (s, w3) },
            else_branch = other () => (float[N,6] o) { s = Sub (a, b) o = MatMul (s, w3) }
        >
        y = Relu (c)
    }
"""


def feeds_of(model: ModelView) -> Feeds:
    shapes = open_session(model, threads=1).input_shapes
    batch = next(synthetic_dataset(model, 4, 0).batches(4)).feeds
    return next(feeds_of_runs(shapes, batch))


def changed(model: ModelView, name: str) -> Array:
    weights = model.read(name)
    noise = np.random.default_rng(0).normal(size=weights.shape)
    return (weights * (1 + 0.3 * noise)).astype(weights.dtype)


def staged(model: ModelView) -> StagedSession:
    batch = next(synthetic_dataset(model, 4, 0).batches(4)).feeds
    return StagedSession(model, [site.name for site in model.sites()], batch, own={}, threads=1)


def assert_same(got: Feeds, expected: Feeds) -> None:
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


MODELS = {
    "skips": parse_text(SKIPS),
    "captured": parse_text(BRANCHES),
    **{name: model for name, model in model_family().items() if name != "no_weights"},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_run_from_a_cut_equals_a_run_of_the_whole(name: str) -> None:
    model = MODELS[name]
    session, feeds = staged(model), feeds_of(model)
    assert_same(session.run(feeds), open_session(model, threads=1).run(feeds))
    trace = session.trace(feeds, math.inf)
    for site in session.inputs:
        fork, other = model.fork(), changed(model, site)
        fork.replace(site, other)
        expected = open_session(fork, threads=1).run(feeds)
        assert_same(session.run(feeds, {site: other}, trace), expected)
        assert_same(session.run(feeds, {site: other}), expected)


@pytest.mark.parametrize("name", ["skips", "captured"])
def test_what_lies_before_a_cut_is_not_run_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]
    session, feeds = staged(model), feeds_of(model)
    trace, last = session.trace(feeds, math.inf), list(session.inputs)[-1]
    first = next(iter(session.inputs))
    runs: list[object] = []
    run = type(open_session(model, threads=1)).run
    monkeypatch.setattr(
        "onnx_admm.runtime.sessions.Session.run", lambda self, *a: (runs.append(self), run(self, *a))[1]
    )
    session.run(feeds, {first: changed(model, first)}, trace)
    whole = len(runs)
    session.run(feeds, {last: changed(model, last)}, trace)
    assert whole >= 3
    assert len(runs) == whole + 1


@pytest.mark.parametrize("name", ["skips", "captured", *list(model_family())[:6]])
def test_an_edit_of_a_part_equals_an_edit_of_the_whole(name: str) -> None:
    """Of each value: read in one part, in several, by a subgraph, or by none."""
    model = MODELS[name]
    batch = next(synthetic_dataset(model, 4, 0).batches(4)).feeds
    session, feeds = StagedSession(model, [], batch, own={}, threads=1), feeds_of(model)
    early, starts = session.trace(feeds, math.inf), set()
    values = [port.name for port in model.signature().inputs if port.dtype == "float32"]
    values += [each.name or "" for node in model.graph_ir.graph for each in node.outputs]
    grid = {SCALE: np.array(0.25, np.float32), ZERO_POINT: np.array(120, np.uint8)}
    for value in dict.fromkeys(values):
        edit = partial(with_trial_grid, name=value)
        try:
            whole = open_session(edit(model), threads=1).run(feeds | grid)
        except ModelError:  # it is no float
            continue
        edited = session.edited(value, edit)
        starts.add(edited.number)
        for trace in (None, early, session.trace(feeds, math.inf)):
            assert_same(edited.run(feeds, grid, trace), whole)
    assert len(starts) > 1 or name not in ("skips", "captured")


def test_a_trace_keeps_the_last_cuts_within_its_bytes() -> None:
    session, feeds = staged(MODELS["skips"]), feeds_of(MODELS["skips"])
    whole, none = session.trace(feeds, math.inf), session.trace(feeds, 0)
    some = session.trace(feeds, whole.nbytes - 1)
    assert whole.first == 1 < some.first < none.first
    assert some.nbytes < whole.nbytes
    other = changed(MODELS["skips"], "w2")
    assert_same(session.run(feeds, {"w2": other}, none), session.run(feeds, {"w2": other}, whole))


def test_cuts_lie_where_few_values_cross() -> None:
    parts = cut_into_parts(MODELS["skips"], {"w1", "w2", "w3", "w4"}, 4)
    assert [set(part.reads) for part in parts] == [set(), {"early"}, {"early", "c"}, {"e"}]
    assert set(parts[0].gives) == {"early"}
    assert set(parts[-1].gives) == {"y"}


def test_inputs_of_negative_extent_take_any_number() -> None:
    proto = onnx.ModelProto.FromString(MODELS["skips"].to_bytes())
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    model = ModelView.from_bytes(proto.SerializeToString())
    session = staged(model)
    assert session.input_shapes == {"x": (None, 6)}
    assert_same(session.run(feeds_of(model)), open_session(model, threads=1).run(feeds_of(model)))


def test_values_that_cross_are_counted() -> None:
    flow = Flow(MODELS["skips"].graph_ir.graph, frozenset({"w1", "w2", "w3", "w4"}))
    counted = flow.counts()
    for cut in range(len(flow.nodes) + 1):
        assert counted[cut] == len(list(flow.crossing(cut)))
