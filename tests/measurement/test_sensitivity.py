"""What the outputs suffer: against figures computed by hand, wherever the weight stands."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import Array, ModelView
from onnx_admm.data import from_arrays, synthetic_dataset
from onnx_admm.measurement.sensitivity import Effect, OutputProbe
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.runtime.sessions import open_session
from onnx_admm.testing import model_family

LINEAR = """
    <ir_version: 10, opset_import: ["" : 17]>
    linear (float[N,6] x) => (float[N,4] y) <float[6,4] w> { y = MatMul (x, w) }
"""

CLASSIFIER = """
    <ir_version: 10, opset_import: ["" : 17]>
    classifier (float[N,6] x) => (int64[N] class)
    <float[6,4] w> { s = MatMul (x, w) p = Softmax (s) class = ArgMax <axis = 1, keepdims = 0> (p) }
"""

WRITTEN_OUT = """
    <ir_version: 10, opset_import: ["" : 17]>
    classifier (float[N,6] x) => (float[N,4] p)
    <float[6,4] w, int64[1] last = {1}>
    {
        s = MatMul (x, w)
        e = Exp (s)
        shape = Shape (e)
        t = ReduceSum (e, last)
        b = Expand (t, shape)
        p = Div (e, b)
    }
"""


def inputs(count: int = 40, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def shaken(model: ModelView, name: str, share: float = 0.1) -> Array:
    weights = model.read(name)
    noise = np.random.default_rng(1).normal(size=weights.shape)
    return (weights + share * weights.std() * noise).astype(weights.dtype)


def test_error_is_noise_over_signal() -> None:
    model, x = parse_text(LINEAR), inputs()
    probe, other = OutputProbe(model, ["w"], from_arrays({"x": x}), threads=1), shaken(model, "w")
    expected, got = x @ model.read("w"), x @ other
    by_hand = np.square(got - expected).sum() / np.square(expected).sum()
    assert probe.relative_error({"w": other}) == pytest.approx(by_hand, rel=1e-4)
    assert probe.relative_error({}) == 0.0
    assert probe.relative_error({"w": np.full_like(other, np.inf)}) == np.inf


@pytest.mark.parametrize("name", [name for name in model_family() if name != "no_weights"])
def test_every_weight_can_be_exchanged_wherever_it_stands(name: str) -> None:
    model = model_family()[name]
    samples = synthetic_dataset(model, 8, 0)
    sites = [site.name for site in model.sites() if site.editable]
    probe = OutputProbe(model, [site.name for site in model.sites()], samples, threads=1)
    assert sites
    for site in sites:
        fork, other = model.fork(), shaken(model, site)
        fork.replace(site, other)
        decibels = evaluate(fork, samples, reference=model, threads=1).sqnr_by_output
        assert decibels
        by_output = sum(10 ** (-each / 10) for each in decibels.values())
        assert probe.relative_error({site: other}) == pytest.approx(by_output, rel=1e-3, abs=1e-12)


def test_a_weight_inside_a_function_takes_a_session_of_its_own() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    g (float[N,6] x) => (float[N,2] y) { y = own.project (x) }
    <domain: "own", opset_import: ["" : 17]>
    project (i) => (o) { k = Constant <value = float[6,2] {9,8,7,6,5,4,3,2,1,0,1,2}> () o = MatMul (i, k) }
    """
    model, x = ModelView.from_bytes(onnx.parser.parse_model(text).SerializeToString()), inputs()
    probe = OutputProbe(model, ["project/k"], from_arrays({"x": x}), threads=1)
    half = (0.5 * model.read("project/k")).astype(np.float32)
    assert probe.relative_error({"project/k": half}) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("text", [CLASSIFIER, WRITTEN_OUT])
def test_scores_count_where_probabilities_saturate(text: str) -> None:
    model, x = parse_text(text), 10 * inputs()
    probe = OutputProbe(model, ["w"], from_arrays({"x": x}), threads=1)
    other = shaken(model, "w", 0.02)
    expected, got = (s - s.mean(1, keepdims=True) for s in (x @ model.read("w"), x @ other))
    by_hand = np.square(got - expected).sum() / np.square(expected).sum()
    effect = probe.effect({"w": other})
    output = model.signature().outputs[0].name
    assert effect.by_output[f"{output}::score"] == pytest.approx(by_hand, rel=1e-3)
    assert effect.agreement == pytest.approx(np.mean(got.argmax(1) == expected.argmax(1)))
    assert ("class" in effect.by_output) is False


@pytest.mark.parametrize("opset", [12, 13, 17, 20])
@pytest.mark.parametrize("end", ["Softmax <axis = 1> (s)", "ArgMax <axis = 1> (s)"])
def test_a_shift_that_all_classes_share_does_not_count(end: str, opset: int) -> None:
    kind = "int64[N,1]" if "ArgMax" in end else "float[N,4]"
    text = f"""
    <ir_version: 8, opset_import: ["" : {opset}]>
    shifted (float[N,6] x) => ({kind} y) <float[6,4] w> {{ s = MatMul (x, w) y = {end} }}
    """
    model, x = parse_text(text), inputs()
    probe = OutputProbe(model, ["w"], from_arrays({"x": x}), threads=1)
    weights = model.read("w")
    shifted = weights + np.arange(6, dtype=np.float32)[:, None]
    assert probe.relative_error({"w": shifted}) < 1e-9
    assert probe.relative_error({"w": 1.1 * weights}) > 1e-3


def test_probabilities_that_are_all_but_zero_may_move() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,6] x) => (float[N,4] y) <float[6,4] w, float[4] low = {-18, -18, -18, -18}>
        { a = MatMul (x, w) b = Add (a, low) y = Sigmoid (b) }"""
    model, x = parse_text(text), inputs()
    effect = OutputProbe(model, ["w"], from_arrays({"x": x}), threads=1).effect({"w": 1.2 * model.read("w")})
    assert effect.by_output["y"] < 1e-6 < effect.by_output["y::score"] < 1e-3


def test_discrete_outputs_count_by_the_share_that_differs() -> None:
    text = LINEAR.replace("float[N,4] y", "int64[N,4] y").replace(
        "y = MatMul (x, w)", "m = MatMul (x, w) y = Cast <to = 7> (m)"
    )
    model, x = parse_text(text), inputs()
    probe, other = OutputProbe(model, ["w"], from_arrays({"x": x}), threads=1), shaken(model, "w", 2.0)
    expected, got = np.trunc(x @ model.read("w")), np.trunc(x @ other)
    assert 0 < probe.relative_error({"w": other}) == pytest.approx(np.mean(expected != got), abs=0.02)


def test_relative_errors_of_small_changes_add_up() -> None:
    model = model_family()["conv_net"]
    probe = OutputProbe(model, ["w1", "w2", "w3"], synthetic_dataset(model, 64, 0), threads=1)
    changes = {name: shaken(model, name, 0.05) for name in ("w1", "w2", "w3")}
    alone = sum(probe.relative_error({name: change}) for name, change in changes.items())
    assert probe.relative_error(changes) == pytest.approx(alone, rel=0.3)


def test_the_reference_is_what_counts_as_right() -> None:
    model, x = parse_text(LINEAR), inputs()
    worse = model.fork()
    worse.replace("w", shaken(model, "w"))
    probe = OutputProbe(worse, ["w"], from_arrays({"x": x}), reference=model, threads=1)
    assert probe.relative_error({}) > 1e-3
    assert probe.relative_error({"w": model.read("w")}) == pytest.approx(0.0, abs=1e-12)


def test_other_samples_share_the_session() -> None:
    model = parse_text(LINEAR)
    probe, other = OutputProbe(model, ["w"], from_arrays({"x": inputs()}), threads=1), shaken(model, "w")
    there = probe.on(from_arrays({"x": inputs(seed=7)}))
    alone = OutputProbe(model, ["w"], from_arrays({"x": inputs(seed=7)}), threads=1)
    assert (
        there.relative_error({"w": other})
        == alone.relative_error({"w": other})
        != probe.relative_error({"w": other})
    )


def test_samples_that_fill_up_a_run_do_not_count() -> None:
    model = parse_text(LINEAR.replace("[N,6]", "[8,6]").replace("[N,4]", "[8,4]"))
    other, x = shaken(model, "w"), inputs(11)
    open_batch = OutputProbe(parse_text(LINEAR), ["w"], from_arrays({"x": x}), threads=1)
    fixed = OutputProbe(model, ["w"], from_arrays({"x": x}), threads=1)
    assert fixed.relative_error({"w": other}) == pytest.approx(
        open_batch.relative_error({"w": other}), rel=1e-5
    )


COUNTS = """
    <ir_version: 10, opset_import: ["" : 17]>
    counts (float[N,6] x) => (float[N] many)
    <float[6,4] w, float half = {{0.5}}, int64[1] last = {{1}}>
    {{
        s = MatMul (x, w)
        p = {squash} (s)
        c = {compare}
        f = Cast <to = 1> (c)
        many = ReduceSum <keepdims = 0> (f, last)
    }}
"""


@pytest.mark.parametrize(
    ("squash", "compare"),
    [("Identity", "Greater (p, half)"), ("Relu", "Floor (p)"), ("Tanh", "Less (half, p)")],
)
def test_what_is_counted_is_measured_in_place_of_the_count(squash: str, compare: str) -> None:
    model, x = parse_text(COUNTS.format(squash=squash, compare=compare)), inputs()
    probe = OutputProbe(model, ["w"], from_arrays({"x": x}), threads=1)
    effect = probe.effect({"w": shaken(model, "w", 1e-4)})
    [(name, relative_error)] = effect.by_output.items()
    assert name == "many::score"
    assert 0 < relative_error < 1e-6  # the count itself jumps or stays


def test_an_output_that_gives_real_values_too_is_no_count() -> None:
    text = COUNTS.format(squash="Identity", compare="Greater (p, half)").replace("(f, last)", "(g, last)")
    model = parse_text(
        text.replace("f = Cast <to = 1> (c)", "f = Cast <to = 1> (c)  g = Mul (f, s2)").replace(
            "p = Identity (s)", "p = Identity (s)  s2 = Exp (s)"
        )
    )
    effect = OutputProbe(model, ["w"], from_arrays({"x": inputs()}), threads=1).effect({})
    assert set(effect.by_output) == {"many"}


SOFTMAX = """
    <ir_version: 10, opset_import: ["" : 17]>
    classifier (float[N,6] x) => (float[N,4] p) <float[6,4] w> { s = MatMul (x, w) p = Softmax (s) }
"""


def test_scores_have_an_error_of_their_own_where_there_are_any() -> None:
    data = from_arrays({"x": inputs()})
    closed, linear = parse_text(SOFTMAX), parse_text(LINEAR)
    with_scores = OutputProbe(closed, ["w"], data, threads=1).effect({"w": shaken(closed, "w")})
    without = OutputProbe(linear, ["w"], data, threads=1).effect({"w": shaken(linear, "w")})
    assert with_scores.has_scores
    assert not without.has_scores
    assert without.score_error == without.relative_error
    assert 0 < with_scores.score_error < with_scores.relative_error


def test_another_session_has_the_effect_of_its_weights() -> None:
    model, data = parse_text(LINEAR), from_arrays({"x": inputs()})
    probe, other = OutputProbe(model, ["w"], data, threads=1), shaken(model, "w")
    changed = model.fork()
    changed.replace("w", other)
    session = open_session(changed, threads=1)
    assert probe.effect_of(session.run).relative_error == pytest.approx(probe.relative_error({"w": other}))


def test_a_score_counts_in_place_of_its_output_and_beside_the_others() -> None:
    """A detector: probabilities of classes, whose logits count, and boxes."""
    effect = Effect({"classes": 0.5, "classes::score": 0.01, "boxes": 0.04, "sides": 0.02}, None)
    assert effect.score_error == pytest.approx(0.07)
    assert effect.relative_error == pytest.approx(0.57)
    assert Effect({"boxes": 0.04, "sides": 0.02}, None).score_error == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("agreement", "predictions", "keeps"),
    [(0.99, 1000, True), (0.98, 1000, False), (41 / 42, 42, True), (40 / 42, 42, False), (0.0, 1, False)],
)
def test_one_of_few_predictions_may_change(agreement: float, predictions: int, keeps: bool) -> None:
    assert Effect({"y": 0.1}, agreement, predictions).keeps_predictions(0.99) == keeps
    assert Effect({"y": 0.1}, None).keeps_predictions(0.99)
