"""Activations in 8 bits: where integers are written, where not, and why; times are made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import Array, ModelView, PassContext, PassReport
from onnx_admm.data.anything import as_dataset
from onnx_admm.errors import NothingToDo, PassRefused, RecipeError
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.kernels import is_integer_kernel, kernel_counts
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.quantize_activations import QuantizeActivations
from onnx_admm.pipeline import Pipeline
from onnx_admm.quantization import run as run_module
from onnx_admm.quantization.quantizer import Quantizer
from onnx_admm.quantization.range_choice import RangeChoice
from onnx_admm.quantization.result import Result
from onnx_admm.quantization.settings import Samples
from onnx_admm.runtime.sessions import open_session, optimised_model
from onnx_admm.testing import check_pass, model_family

NET = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N,3,12,12] x) => (float[N,10] y)
    <float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[576,10] w3, float[10] b3>
    {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
        r2 = Relu (c2)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
        f = Flatten (p)
        y = Gemm (f, w3, b3)
    }"""

Ratio = Callable[[Mapping[str, int]], float]


def by_kernels(counts: Mapping[str, int]) -> float:
    """Each integer kernel saves a quarter, each conversion costs a tenth."""
    integer = counts.get("QLinearConv", 0) + counts.get("QGemm", 0)
    conversions = counts.get("QuantizeLinear", 0) + counts.get("DequantizeLinear", 0)
    return 1.0 - 0.25 * integer + 0.1 * conversions


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[Ratio]:
    """Made-up latencies by the kernels of a form, 1 for float ones; the last function in the list counts."""
    chosen: list[Ratio] = [by_kernels]

    def latency(form: bytes) -> float:
        counts = kernel_counts(optimised_model(form))
        return chosen[-1](counts) if any(map(is_integer_kernel, counts)) else 1.0

    def ratios_of(base: bytes, forms: Sequence[bytes], feeds: object, threads: int = 1) -> list[float]:
        return [latency(form) / latency(base) for form in forms]

    monkeypatch.setattr(run_module, "ratios_of", ratios_of)
    return chosen


def samples(count: int = 64, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3, 12, 12)).astype(np.float32)


def context_of(view: ModelView, count: int = 64) -> PassContext:
    data = {
        port.name: np.random.default_rng(0).normal(size=(count, *sizes(port.shape))).astype(port.dtype)
        for port in view.signature().inputs
    }
    train = as_dataset(data, view, preprocessing=None, part="train", label=None)
    return PassContext(reference=view.fork(), train=train, validation=train)


def sizes(shape: tuple[int | str | None, ...] | None) -> list[int]:
    return [extent if isinstance(extent, int) else 4 for extent in (shape or ())[1:]]


def run(view: ModelView, **settings: object) -> PassReport:
    step = QuantizeActivations(**settings)  # type: ignore[arg-type]
    context = context_of(view)
    step.requires(view, context)
    return step.run(view, context)


def kernels(view: ModelView) -> dict[str, int]:
    return kernel_counts(optimised_model(view.to_bytes()))


def test_layers_become_integer_kernels_and_outputs_stay(times: list[Ratio]) -> None:
    view = parse_text(NET)
    before = open_session(view, threads=1).run({"x": samples(8)})["y"]
    report = run(view)
    assert report.changed
    assert {edit.layer for edit in report.edits} == {"w1", "w2", "w3"}
    found = kernels(view)
    assert (found["QLinearConv"], found["QGemm"]) == (2, 1)
    after = open_session(view, threads=1).run({"x": samples(8)})["y"]
    assert np.sum((after - before) ** 2) < 10**-2.2 * np.sum(before**2)
    assert report.figures["latency_ratio"] < 1
    assert report.figures["kernels"] == found


def test_a_layer_that_is_faster_in_float_stays_so_and_says_it(times: list[Ratio]) -> None:
    times.append(lambda counts: 1.0 - 0.3 * counts.get("QLinearConv", 0) + 0.2 * counts.get("QGemm", 0))
    view = parse_text(NET)
    report = run(view)
    assert {edit.layer for edit in report.edits} == {"w1", "w2"}
    (why,) = [skip.why for skip in report.skipped if skip.layer == "w3"]
    assert why.startswith("float is faster")
    assert "QGemm" not in kernels(view)


def test_a_model_that_would_not_be_faster_stays_as_it_is_with_a_sentence(times: list[Ratio]) -> None:
    times.append(lambda counts: 1.3)
    view = parse_text(NET)
    before = view.fork()
    report = run(view)
    assert not report.changed
    assert same_model(before, view)
    assert report.skipped[-1].layer == "model"
    assert report.skipped[-1].why == "no placement is faster with integers"
    whys = {skip.layer: skip.why for skip in report.skipped}
    assert all(whys[name].startswith("float is faster") for name in ("w1", "w2", "w3"))


def test_a_gain_below_the_bound_is_no_gain(times: list[Ratio]) -> None:
    times.append(lambda counts: 1.0 - 0.01 * counts.get("QLinearConv", 0))
    report = run(parse_text(NET))
    assert not report.changed
    assert "0.98 of its latency" in report.skipped[-1].why
    assert "over 0.97 (most_latency)" in report.skipped[-1].why
    assert {skip.layer for skip in report.skipped} == {"w1", "w2", "w3", "model"}


def test_no_range_is_chosen_where_no_placement_is_fast_enough(
    times: list[Ratio], monkeypatch: pytest.MonkeyPatch
) -> None:
    times.append(lambda counts: 1.0 - 0.01 * counts.get("QLinearConv", 0))
    monkeypatch.delattr(RangeChoice, "of")
    assert not run(parse_text(NET)).changed


def test_the_latency_reported_is_that_of_the_model_that_is_written(times: list[Ratio]) -> None:
    """Another measurement than the one it was chosen by: the least of many is partly chance."""
    measured: list[float] = []

    def rising(counts: Mapping[str, int]) -> float:
        measured.append(by_kernels(counts) + 0.01 * len(measured))
        return measured[-1]

    times.append(rising)
    report = run(parse_text(NET))
    assert report.changed
    assert report.figures["latency_ratio"] == pytest.approx(measured[-1], abs=1e-4)
    assert measured[-1] > min(measured)


def test_a_value_that_alone_costs_too_much_keeps_its_layers_in_float(times: list[Ratio]) -> None:
    report = run(parse_text(NET), least_alone_db=90.0)
    assert not report.changed
    whys = {skip.layer: skip.why for skip in report.skipped}
    assert all("alone in 8 bits leaves the outputs" in whys[name] for name in ("w1", "w2", "w3"))
    assert whys["model"].startswith("no layer may be computed with 8-bit integers")


def test_placements_that_fail_on_unseen_samples_are_the_reason_of_model_and_layers(
    times: list[Ratio],
) -> None:
    view = parse_text(NET)
    context = context_of(view)
    assert context.train is not None
    feeds = next(context.train.batches(64)).feeds
    far = {"x": 100 * feeds["x"]}  # beyond all ranges
    context = replace(context, validation=as_dataset(far, view))
    report = QuantizeActivations().run(view, context)
    assert not report.changed
    whys = {skip.layer: skip.why for skip in report.skipped}
    assert whys["model"] == "no placement keeps the outputs on unseen samples"
    assert all("not kept on unseen samples" in whys[name] for name in ("w1", "w2", "w3"))


def test_errors_beyond_the_tolerance_are_the_reason_where_integers_are_faster(times: list[Ratio]) -> None:
    report = run(parse_text(NET), least_sqnr_db=80.0, least_alone_db=30.0)
    whys = {skip.layer: skip.why for skip in report.skipped}
    assert whys["model"] == "no placement within the tolerance is faster with integers"
    assert all(whys[name].startswith("the tolerance does not reach") for name in ("w1", "w2", "w3"))


def test_an_integer_layer_is_reported_with_what_it_saves_beside_the_others(times: list[Ratio]) -> None:
    """All three layers as integers take seven times the latency; any two of them save time."""

    def ratio(counts: Mapping[str, int]) -> float:
        integer = counts.get("QLinearConv", 0) + counts.get("QGemm", 0)
        return 7.0 if integer == 3 else 1.0 - 0.1 * integer

    times.append(ratio)
    report = run(parse_text(NET))
    assert report.figures["latency_ratio"] == 0.8
    assert [edit.what.partition("; ")[2] for edit in report.edits] == [
        "it saves 10.0% of the model's latency"
    ] * 2
    (why,) = [skip.why for skip in report.skipped]
    static, *others = why.split("; ")
    assert static == "float is faster: integers would take 620.0% of the model's latency more"
    assert others in ([], ["dynamic int8: it is no faster", "weight-only int8: it is no faster"])


def test_a_model_whose_outputs_are_all_nan_stays_float_with_that_reason(times: list[Ratio]) -> None:
    view = parse_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,16] x) => (float[N,16] y) <float[16,16] w, float[16] b, float[16,16] w2>
        { a = Gemm (x, w, b) s = Sigmoid (a) n = Neg (s) l = Log (n) y = Gemm (l, w2, b) }""")
    before = view.fork()
    report = run(view)
    assert not report.changed
    assert same_model(before, view)
    whys = {skip.layer: skip.why for skip in report.skipped}
    assert "no finite value" in whys["model"]
    assert {"w", "w2"} <= whys.keys()


def test_a_reference_whose_outputs_are_all_nan_confirms_nothing(times: list[Ratio]) -> None:
    view = parse_text(NET)
    context = context_of(view)
    context.reference.replace("w3", np.full_like(view.read("w3"), np.nan))
    report = QuantizeActivations().run(view, context)
    assert not report.changed
    assert "no finite value" in report.skipped[-1].why


@pytest.mark.parametrize(
    ("count", "confirmed_on"), [(64, "samples set aside"), (24, "samples set aside"), (23, "calibration")]
)
def test_without_validation_samples_a_part_of_the_others_is_set_aside(
    times: list[Ratio], monkeypatch: pytest.MonkeyPatch, count: int, confirmed_on: str
) -> None:
    seen: list[Samples] = []
    run_quantizer = Quantizer.run

    def watched(self: Quantizer, model: ModelView, samples: Samples) -> Result:
        seen.append(samples)
        return run_quantizer(self, model, samples)

    monkeypatch.setattr(Quantizer, "run", watched)
    view = parse_text(NET)
    report = QuantizeActivations().run(view, replace(context_of(view, count), validation=None))
    assert str(report.figures["confirmed_on"]).startswith(confirmed_on)
    calibration, unseen = (
        {row.tobytes() for row in next(data.batches(count)).feeds["x"]}
        for data in (seen[0].calibration, seen[0].unseen)
    )
    if confirmed_on == "calibration":
        assert calibration == unseen
    else:
        assert len(unseen) == 8
        assert len(calibration) == count - 8
        assert not calibration & unseen


def test_weights_keep_the_grid_that_they_lie_on(times: list[Ratio]) -> None:
    view = parse_text(NET)
    codes = np.random.default_rng(1).integers(-7, 8, (16, 16, 3, 3))
    grid = (codes * np.float32(0.0213)).astype(np.float32)
    view.replace("w2", grid)
    report = run(view)
    (says,) = [edit.what for edit in report.edits if edit.layer == "w2"]
    assert "its own grid" in says
    assert np.array_equal(view.read("w2"), grid)
    stored = view.graph_ir.graph.initializers["w2_codes"].const_value.numpy()
    assert np.array_equal(stored, codes)


def test_excluded_layers_stay_float(times: list[Ratio]) -> None:
    view = parse_text(NET)
    report = run(view, exclude=("w1",))
    assert {edit.layer for edit in report.edits} == {"w2", "w3"}
    assert "Conv" in kernels(view)


def test_without_samples_nothing_changes(times: list[Ratio]) -> None:
    view = parse_text(NET)
    report = QuantizeActivations().run(view, PassContext(reference=view.fork()))
    assert not report.changed
    assert "--data" in report.skipped[0].why


def test_few_samples_are_not_enough(times: list[Ratio]) -> None:
    view = parse_text(NET)
    report = QuantizeActivations().run(view, context_of(view, 5))
    assert not report.changed
    assert "5 samples are too few" in report.skipped[0].why


def test_a_model_without_weights_has_nothing_to_do() -> None:
    view = model_family()["no_weights"]
    with pytest.raises(NothingToDo):
        QuantizeActivations().requires(view, PassContext(reference=view))


@pytest.mark.parametrize(
    "settings", [{"least_sqnr_db": -1.0}, {"ranges": "widest"}, {"steps": "64"}, {"linear": "none"}]
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    view = parse_text(NET)
    with pytest.raises((PassRefused, RecipeError)):
        Pipeline([QuantizeActivations(**settings)]).run(view, context_of(view))  # type: ignore[arg-type]


def test_a_layer_with_one_channel_of_nearly_no_weight_is_integer_too(times: list[Ratio]) -> None:
    view = parse_text(NET)
    weight = np.array(view.read("w3"))
    weight[:, 3] *= 1e-9
    view.replace("w3", weight)
    before = open_session(view, threads=1).run({"x": samples(8)})["y"]
    report = run(view)
    assert "w3" in {edit.layer for edit in report.edits}
    after = open_session(view, threads=1).run({"x": samples(8)})["y"]
    assert np.sum((after - before) ** 2) < 10**-2.2 * np.sum(before**2)


def test_a_bias_beyond_int32_keeps_its_layer_in_float_with_that_reason(times: list[Ratio]) -> None:
    view = parse_text(NET)
    codes = np.random.default_rng(1).integers(-7, 8, view.site("w3").shape)
    view.replace("w3", (codes * np.float32(1e-12)).astype(np.float32))
    report = run(view)
    assert {edit.layer for edit in report.edits} == {"w1", "w2"}
    (why,) = [skip.why for skip in report.skipped if skip.layer == "w3"]
    assert "bias is too large for int32" in why


def test_packed_weights_and_integer_kernels_combine(times: list[Ratio]) -> None:
    view = parse_text(NET)
    for name in ("w2", "w3"):
        codes = np.random.default_rng(1).integers(-3, 4, view.site(name).shape)
        view.replace(name, (codes * np.float32(0.0213)).astype(np.float32))
    context = context_of(view)
    steps = [QuantizeActivations(), Encode(format="packed")]
    result = Pipeline(steps).run(view, context)
    assert [each.report.changed for each in result.reports] == [True, True]
    integer = Pipeline(steps[:1]).run(view, context).model
    assert kernels(result.model) == kernels(integer)
    assert len(result.model.to_bytes()) < len(integer.to_bytes())
    packed = {edit.layer for edit in result.reports[-1].report.edits}
    assert packed >= {"w2_codes", "w3_codes"}
    feeds = {"x": samples(4)}
    expected, got = (open_session(each, threads=1).run(feeds)["y"] for each in (integer, result.model))
    assert np.array_equal(expected, got)


def test_steps_of_seven_bits_leave_no_code_above_127(times: list[Ratio]) -> None:
    view = parse_text(NET)
    report = run(view, steps="127", ranges="min_max")
    assert report.changed
    graph = onnx.load_from_string(view.to_bytes()).graph
    codes = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    model = onnx.load_from_string(view.to_bytes())
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in codes.values())
    session = open_session(model.SerializeToString(), threads=1, optimize=False)
    found = session.run({"x": next(context_of(view).train.batches(64)).feeds["x"]})  # type: ignore[union-attr]
    assert all(found[name].max() <= 128 for name in codes.values())


def test_the_contract_holds_with_samples(times: list[Ratio]) -> None:
    family = {name: view for name, view in model_family().items() if name != "branches"}
    outcomes = check_pass(QuantizeActivations(), family, context_of)
    assert set(outcomes) == set(family)
    assert outcomes["conv_net"] == "changed"
    assert outcomes["mlp_both_ways"] == "changed"
    assert outcomes["no_weights"] == "unchanged"


def test_a_model_whose_weights_are_all_in_branches_stays_as_it_is() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,4] x, bool c) => (float[N,4] y) <float[4,4] w> {
            y = If (c) <then_branch = t () => (float[N,4] a) { a = MatMul (x, w) },
                        else_branch = e () => (float[N,4] b) { b = Identity (x) }>
        }"""
    view = parse_text(text)
    x = np.zeros((32, 4), np.float32)
    data = as_dataset(
        {"x": x, "c": np.ones(32, np.bool_)}, view, preprocessing=None, part="train", label=None
    )
    report = QuantizeActivations().run(view.fork(), PassContext(reference=view, train=data, validation=data))
    assert not report.changed
    assert report.skipped
