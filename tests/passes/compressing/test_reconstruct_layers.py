"""ReconstructLayers: budgets met exactly, outputs kept better than by the nearest weights, no labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import CONV_NET, TWO_GEMMS

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.data import from_arrays
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.runtime.sessions import open_session

GROUPED = """
    <ir_version: 10, opset_import: ["" : 17]>
    grouped (float[N,4,6,6] x) => (float[N,2,11,11] y)
    <float[8,2,3,3] w, float[8] b, float[8,2,3,3] t>
    {
        a = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (a)
        y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (r, t)
    }
"""


def context_for(model: ModelView, samples: int = 200) -> PassContext:
    """Samples around a mean that is not zero, with inputs that go together, as real ones do."""
    port = model.signature().inputs[0]
    shape = [extent for extent in port.shape or () if isinstance(extent, int)]
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(samples, 6)) @ rng.normal(size=(6, int(np.prod(shape))))
    x = factors + 0.3 * rng.normal(size=factors.shape) + 1.0
    return PassContext(
        reference=model, train=from_arrays({port.name: x.reshape(samples, *shape).astype(np.float32)})
    )


def sqnr(model: ModelView, changed: ModelView, context: PassContext) -> float:
    assert context.train is not None
    return evaluate(changed, context.train, reference=model).sqnr_db or 0.0


def nonzeros(model: ModelView) -> dict[str, int]:
    return {site.name: int(np.count_nonzero(model.read(site))) for site in model.sites()}


@pytest.mark.parametrize("text", [TWO_GEMMS, CONV_NET, GROUPED])
def test_outputs_stay_far_better_than_with_the_largest_weights(text: str) -> None:
    model = parse_text(text)
    context = context_for(model)
    ReconstructLayers(layers=0.5).run(rebuilt := model.fork(), context)
    AdmmPrune(layers=0.5).run(plain := model.fork(), context)
    assert nonzeros(rebuilt) == nonzeros(plain)
    assert sqnr(model, rebuilt, context) > sqnr(model, plain, context) + 3


def test_levels_keep_the_outputs_better_than_the_nearest_ones() -> None:
    model = parse_text(CONV_NET)
    context = context_for(model)
    ReconstructLayers(bits=3).run(rebuilt := model.fork(), context)
    AdmmQuantize(bits=3, per_channel=True).run(plain := model.fork(), context)
    assert sqnr(model, rebuilt, context) > sqnr(model, plain, context) + 1
    assert rebuilt.sites()
    for site in rebuilt.sites():
        rows = rebuilt.read(site).reshape(site.shape[0], -1)
        assert max(len(np.unique(row)) for row in rows) <= 7


def test_support_and_levels_together() -> None:
    model = parse_text(TWO_GEMMS)
    context = context_for(model)
    ReconstructLayers(layers=0.5, bits=4).run(rebuilt := model.fork(), context)
    assert nonzeros(rebuilt) == {"w1": 256, "w2": 64}
    for row in rebuilt.read("w1").T:  # w1 is (in, out)
        assert len(np.unique(np.abs(row[row != 0]))) <= 8
    assert sqnr(model, rebuilt, context) > 10


def test_zeros_stay_where_only_levels_are_asked_for() -> None:
    model = parse_text(TWO_GEMMS)
    context = context_for(model)
    AdmmPrune(layers=0.5).run(pruned := model.fork(), context)
    ReconstructLayers(bits=4).run(rebuilt := pruned.fork(), context)
    assert model.sites()
    for site in model.sites():
        assert np.array_equal(rebuilt.read(site) != 0, pruned.read(site) != 0)


def test_one_budget_is_spread_by_what_the_outputs_suffer() -> None:
    model = parse_text(TWO_GEMMS)
    weak = model.read("w1")
    weak[:, 16:] *= 1e-3  # half of the first layer hardly matters
    model.replace("w1", weak)
    context = context_for(model)
    ReconstructLayers(keep=0.15).run(spread := model.fork(), context)
    ReconstructLayers(layers=0.15).run(uniform := model.fork(), context)
    kept = nonzeros(spread)
    assert sum(kept.values()) == round(0.15 * 640)
    assert kept["w2"] / 128 > kept["w1"] / 512
    assert sqnr(model, spread, context) > sqnr(model, uniform, context) + 1


@pytest.mark.parametrize("text", [TWO_GEMMS, GROUPED])
def test_a_pattern_runs_along_the_input_channels(text: str) -> None:
    model = parse_text(text)
    ReconstructLayers(pattern="1:2").run(rebuilt := model.fork(), context_for(model))
    assert rebuilt.sites()
    for site in rebuilt.sites():
        if site.in_axis is None:
            continue
        channels = np.moveaxis(rebuilt.read(site), site.in_axis, -1)
        if site.op_type == "ConvTranspose":
            channels = channels.reshape(*channels.shape[:-1], site.group, -1)
        pairs = channels.reshape(-1, 2) != 0
        assert (pairs.sum(axis=1) <= 1).all()


def test_the_bias_makes_up_for_the_mean() -> None:
    model = parse_text(TWO_GEMMS)
    context = context_for(model)
    assert context.train is not None
    ReconstructLayers(layers=0.2, include=("w2",)).run(rebuilt := model.fork(), context)
    feeds = next(context.train.batches(len(context.train))).feeds
    before, after = (open_session(each).run(feeds)["logits"] for each in (model, rebuilt))
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-3 * np.abs(before).max())


def test_a_later_layer_makes_up_for_an_earlier_one() -> None:
    """The second layer, with all its weights, is solved behind the pruned first one."""
    model = parse_text(TWO_GEMMS)
    context = context_for(model)
    ReconstructLayers(layers=(0.15, 1.0)).run(both := model.fork(), context)
    ReconstructLayers(layers=0.15, include=("w1",)).run(first := model.fork(), context)
    assert not np.array_equal(both.read("w2"), model.read("w2"))
    assert sqnr(model, both, context) > sqnr(model, first, context) + 1


def test_without_data_random_inputs_stand_in() -> None:
    model = parse_text(CONV_NET)
    report = ReconstructLayers(layers=0.5).run(rebuilt := model.fork(), PassContext(reference=model))
    assert report.changed
    assert nonzeros(rebuilt) == {"w1": 18, "w2": 108, "w3": 36}


EMBEDDING = """
    <ir_version: 10, opset_import: ["" : 17]>
    embedding (int64[N,4] ids) => (float[N,4,3] y) <float[40,6] table, float[6,3] w>
    {
        e = Gather (table, ids)
        y = MatMul (e, w)
    }
"""


def context_of_words(model: ModelView) -> PassContext:
    """Some words are far more common than others, and the last ten never occur."""
    rng = np.random.default_rng(0)
    ids = rng.choice(30, (400, 4), p=(share := 1 / np.arange(1.0, 31)) / share.sum())
    return PassContext(reference=model, train=from_arrays({"ids": ids}))


@pytest.mark.parametrize("bits", [None, 3])
def test_an_embedding_keeps_most_of_what_is_looked_up_most(bits: int | None) -> None:
    model = parse_text(EMBEDDING)
    context = context_of_words(model)
    ReconstructLayers(layers=(0.4, 1.0), bits=bits).run(rebuilt := model.fork(), context)
    AdmmPrune(layers=(0.4, 1.0)).run(plain := model.fork(), context)
    table = rebuilt.read("table")
    kept = np.count_nonzero(table, axis=1)
    assert kept.sum() == np.count_nonzero(plain.read("table"))
    assert kept[:10].mean() > 1.5 * kept[20:30].mean() > 3 * kept[30:].mean()
    if bits is None:
        np.testing.assert_allclose(table[table != 0], model.read("table")[table != 0], rtol=1e-6)
        assert sqnr(model, rebuilt, context) > sqnr(model, plain, context) + 3
    else:
        assert max(len(np.unique(np.abs(row[row != 0]))) for row in table) <= 4


def test_a_tied_embedding_goes_to_the_nearest_point() -> None:
    """Looked up in one place and multiplied by in another, it is no one problem."""
    model = parse_text(
        '<ir_version: 10, opset_import: ["" : 17]>\n'
        "g (int64[N] ids) => (float[N, 9] y) <float[9, 6] table>"
        " { e = Gather(table, ids)\n y = Gemm<transB = 1>(e, table) }"
    )
    ids = np.random.default_rng(0).integers(0, 9, 100)
    context = PassContext(reference=model, train=from_arrays({"ids": ids}))
    report = ReconstructLayers(layers=0.5).run(rebuilt := model.fork(), context)
    AdmmPrune(layers=0.5).run(plain := model.fork(), context)
    assert np.array_equal(rebuilt.read("table"), plain.read("table"))
    assert [edit.what for edit in report.edits] == ["27 of 54 weights kept, nearest point"]


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
@pytest.mark.parametrize("bits", [8, 4])
def test_half_and_double_weights_lie_on_their_levels(kind: str, dtype: type, bits: int) -> None:
    """Codes times scales are exact in the weights' own type, so that the encoder finds them."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 32), "w2": (32, 4)}
    constants = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
        g ({kind}[N,16] x) => ({kind}[N,4] y) {{ a = MatMul (x, w1) r = Relu (a) y = MatMul (r, w2) }}"""
    model = parse_text(text, constants=constants)
    context = PassContext(reference=model, train=from_arrays({"x": rng.normal(size=(200, 16)).astype(dtype)}))
    ReconstructLayers(bits=bits).run(rebuilt := model.fork(), context)
    assert sqnr(model, rebuilt, context) > 4 * bits
    Encode("packed").run(packed := rebuilt.fork(), context)
    assert [(site.editable, packed.read(site).dtype) for site in packed.sites()] == 2 * [(False, dtype)]


def test_the_same_seed_gives_the_same_bytes() -> None:
    model = parse_text(CONV_NET)
    context = replace(context_for(model), seed=4)
    step = ReconstructLayers(keep=0.4, bits=4, samples=50)
    step.run(one := model.fork(), context)
    step.run(two := model.fork(), context)
    assert one.to_bytes() == two.to_bytes()


MISTAKES = {
    "nothing asked for": (ReconstructLayers(), "no constraint to reconstruct for"),
    "two budgets": (ReconstructLayers(keep=0.5, ratio=2.0), "no single budget"),
    "nine bits": (ReconstructLayers(bits=9), "impossible number of bits"),
    "no samples": (ReconstructLayers(keep=0.5, samples=0), "too few samples"),
    "no such layer": (ReconstructLayers(keep=0.5, include=("nobody",)), "no layer matches"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_refused(case: str) -> None:
    step, sentence = MISTAKES[case]
    model = parse_text(TWO_GEMMS)
    with pytest.raises(PassRefused, match=sentence):
        step.requires(model, context_for(model))


def test_a_layer_of_32_bits_is_pruned_but_not_quantised_and_keeps_its_zeros() -> None:
    model = parse_text(TWO_GEMMS)
    context = context_for(model)
    ReconstructLayers(layers=0.5).run(pruned := model.fork(), context)
    ReconstructLayers(bits=(32, 3)).run(rebuilt := pruned.fork(), context)
    np.testing.assert_array_equal(rebuilt.read("w1") != 0, pruned.read("w1") != 0)
    assert len(np.unique(rebuilt.read("w1"))) > 100
    assert max(len(np.unique(row)) for row in rebuilt.read("w2")) <= 9
    with pytest.raises(PassRefused, match="impossible number of bits; got 16"):
        ReconstructLayers(bits=16).requires(model, context)
