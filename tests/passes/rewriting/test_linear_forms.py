"""Linear layers that stay float with static ranges: dynamic and weight-only int8; times are made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_admm.contracts import Array, ModelView, PassContext, PassReport
from onnx_admm.data.anything import as_dataset
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.quantize_activations import QuantizeActivations
from onnx_admm.pipeline import Pipeline
from onnx_admm.quantization import run as run_module
from onnx_admm.runtime.sessions import open_session, optimised_model

NORMED = """
    <ir_version: 8, opset_import: ["" : 17]>
    normed (float[1,32] x) => (float[1,32] y)
    <float[32,64] w1, float[64,32] w2, float[32] gamma, float[32] beta>
    {
        h = MatMul (x, w1)
        m = MatMul (h, w2)
        y = LayerNormalization (m, gamma, beta)
    }"""
"""Each sample counts alike in the output, however small it is."""

BLOCK = """
    <ir_version: 8, opset_import: ["" : 20]>
    block (float[1,8,32] x) => (float[1,8,32] y)
    <float[32,32] q, float[32,32] k, float[32,32] v, float[32,32] o, float[32,96] up, float[96,32] down,
     float[32] qb, float[32] kb, float[32] vb, float[32] ob, float[96] ub, float[32] db,
     float[32] gamma, float[32] beta, float root = {5.65685}>
    {
        n = LayerNormalization (x, gamma, beta)
        qm = MatMul (n, q)  qa = Add (qm, qb)
        km = MatMul (n, k)  ka = Add (km, kb)
        vm = MatMul (n, v)  va = Add (vm, vb)
        kt = Transpose <perm = [0, 2, 1]> (ka)
        s = MatMul (qa, kt)  sd = Div (s, root)  p = Softmax <axis = -1> (sd)
        c = MatMul (p, va)
        om = MatMul (c, o)  oa = Add (om, ob)
        r = Add (oa, x)
        n2 = LayerNormalization (r, gamma, beta)
        um = MatMul (n2, up)  ua = Add (um, ub)  g = Gelu (ua)
        dm = MatMul (g, down)  da = Add (dm, db)
        y = Add (da, r)
    }"""
MATRICES = {"q", "k", "v", "o", "up", "down"}


def written(view: bytes) -> Counter[str]:
    """Layers of each kind in a model, as it is written: the runtime of the tests may have no kernel."""
    graph = onnx.load_from_string(view).graph
    givers = {name: node for node in graph.node for name in node.output}
    found = Counter[str]()
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            found["dynamic"] += 1
        elif node.op_type in ("Gemm", "MatMul"):
            data, weight = (givers.get(name) for name in node.input[:2])
            if weight is not None and weight.op_type == "DequantizeLinear":
                is_static = data is not None and data.op_type == "DequantizeLinear"
                found["static" if is_static else "weight_only"] += 1
    return found


Save = Callable[[Counter[str]], float]


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Made-up savings by the kind of a layer."""
    chosen = {"static": 0.05, "dynamic": 0.06, "weight_only": 0.04}

    def latency(form: bytes) -> float:
        return 1.0 - sum(chosen[kind] * count for kind, count in written(form).items())

    def ratios_of(base: bytes, forms: Sequence[bytes], feeds: object, threads: int = 1) -> list[float]:
        return [latency(form) / latency(base) for form in forms]

    monkeypatch.setattr(run_module, "ratios_of", ratios_of)
    return chosen


def run(view: ModelView, samples: Array, **settings: object) -> PassReport:
    data = as_dataset({"x": samples}, view, preprocessing=None, part="train", label=None)
    step = QuantizeActivations(**settings)  # type: ignore[arg-type]
    return step.run(view, PassContext(reference=view.fork(), train=data, validation=data))


def normal(count: int, *shape: int) -> Array:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def of_all_sizes(count: int, *shape: int) -> Array:
    """Samples whose magnitudes differ by a factor of a thousand."""
    factors = np.geomspace(0.01, 10, count).astype(np.float32)
    return normal(count, *shape) * factors.reshape(-1, *(1 for _ in shape))


def decibels(view: ModelView, other: ModelView, samples: Array) -> float:
    first, second = (open_session(each, threads=1) for each in (view, other))
    pairs = [(first.run({"x": x[None]})["y"], second.run({"x": x[None]})["y"]) for x in samples]
    noise = sum(float(np.sum((a - b) ** 2)) for a, b in pairs)
    return 10 * float(np.log10(sum(float(np.sum(a**2)) for a, _ in pairs) / max(noise, 1e-20)))


def test_where_one_range_loses_too_much_a_range_at_each_run_holds(saves: dict[str, float]) -> None:
    before, samples = parse_text(NORMED), of_all_sizes(48, 32)
    static = before.fork()
    assert not run(static, samples, linear="static").changed
    view = before.fork()
    report = run(view, samples)
    assert written(view.to_bytes()) == {"dynamic": 2}
    assert kernel_counts(optimised_model(view.to_bytes()))["DynamicQuantizeMatMul"] == 2
    assert decibels(before, view, samples) > 30
    assert report.figures["latency_ratio"] == pytest.approx(1 - 2 * 0.06)
    for edit in report.edits:
        assert edit.what.startswith("dynamic int8 MatMul, weight on int8 by output channel; layers of its")
        assert "weight-only int8: it would save 4.0% of the latency" in edit.what
        assert "static int8: " in edit.what
        assert "alone in 8 bits leaves the outputs" in edit.what


def test_the_weight_alone_is_rounded_where_that_is_fastest(saves: dict[str, float], tmp_path: Path) -> None:
    saves |= {"static": -0.1, "dynamic": 0.1, "weight_only": 0.2}
    before = parse_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,256] x) => (float[1,16] y)
        <float[192,256] w1, float[192] b1, float[16,192] w2, float[16] b2>
        { a = Gemm <transB = 1> (x, w1, b1) r = Relu (a) y = Gemm <transB = 1> (r, w2, b2) }""")
    view = before.fork()
    report = run(view, normal(48, 256))
    assert {edit.layer for edit in report.edits} == {"w1", "w2"}
    assert all(edit.what.startswith("weight-only int8 Gemm") for edit in report.edits)
    assert all("static int8: float is faster" in edit.what for edit in report.edits)
    nodes = {node.op_type: node for node in view.nodes()}
    assert "Relu" not in nodes
    assert nodes["Gemm"].attribute("transB", 0) == 0
    view.save(tmp_path / "out.onnx")
    before.save(tmp_path / "in.onnx")
    again = ModelView.load(tmp_path / "out.onnx")
    assert decibels(before, again, normal(8, 256)) > 30
    assert (tmp_path / "out.onnx").stat().st_size < 0.35 * (tmp_path / "in.onnx").stat().st_size


def test_a_transformer_block_is_dynamic_but_for_its_attention(
    saves: dict[str, float], tmp_path: Path
) -> None:
    saves |= {"static": -0.1}
    before = parse_text(BLOCK)
    view = before.fork()
    report = run(view, normal(48, 8, 32))
    assert {edit.layer for edit in report.edits} == MATRICES
    assert written(view.to_bytes()) == {"dynamic": 6}
    found = kernel_counts(optimised_model(view.to_bytes()))
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 6
    assert found["DynamicQuantizeLinear"] == 1  # of the three that read the same value
    assert not {"MatMulInteger", "Cast"} & found.keys()
    view.save(tmp_path / "out.onnx")
    assert decibels(before, ModelView.load(tmp_path / "out.onnx"), normal(8, 8, 32)) > 25


def test_layers_with_static_integers_stay_so(saves: dict[str, float]) -> None:
    saves |= {"static": 0.1}
    view = parse_text(BLOCK)
    report = run(view, normal(48, 8, 32))
    assert written(view.to_bytes())["static"] == 6
    assert not any("dynamic" in edit.what for edit in report.edits)


@pytest.mark.parametrize(("linear", "kind"), [("dynamic", "dynamic"), ("weight_only", "weight_only")])
def test_only_the_forms_asked_for_are_on_offer(saves: dict[str, float], linear: str, kind: str) -> None:
    saves |= {"static": -0.1, "dynamic": 0.1, "weight_only": 0.1}
    view = parse_text(BLOCK)
    report = run(view, normal(48, 8, 32), linear=linear)
    assert written(view.to_bytes()) == {kind: 6}
    (other,) = (
        {"dynamic int8: ", "weight-only int8: "} - {f"{kind.replace('_', '-')} int8: "}
        if (kind == "weight_only")
        else {"weight-only int8: "}
    )
    assert not any(other in edit.what for edit in report.edits)


def test_excluded_layers_stay_float(saves: dict[str, float]) -> None:
    saves |= {"static": -0.1}
    view = parse_text(BLOCK)
    report = run(view, normal(48, 8, 32), exclude=("up", "q"))
    assert {edit.layer for edit in report.edits} == MATRICES - {"up", "q"}


def test_where_no_form_is_faster_the_model_stays_and_each_layer_says_why(saves: dict[str, float]) -> None:
    saves |= dict.fromkeys(saves, -0.1)
    view = parse_text(BLOCK)
    before = view.fork()
    report = run(view, normal(48, 8, 32))
    assert not report.changed
    assert same_model(before, view)
    whys = {skip.layer: skip.why for skip in report.skipped}
    for name in MATRICES:
        assert whys[name].startswith("float is faster")
        assert "dynamic int8: it would take" in whys[name]
        assert "weight-only int8: it would take" in whys[name]


@pytest.mark.parametrize("kind", ["dynamic", "weight_only"])
def test_weights_keep_their_grid_and_packed_codes_keep_the_kernels(
    saves: dict[str, float], kind: str
) -> None:
    saves |= {"static": -0.1, "dynamic": -0.1, "weight_only": -0.1} | {kind: 0.1}
    view = parse_text(BLOCK)
    rng = np.random.default_rng(1)
    for name in MATRICES:
        codes = rng.integers(-3, 4, view.site(name).shape)
        view.replace(name, (codes * np.float32(0.0613)).astype(np.float32))
    data = as_dataset({"x": normal(48, 8, 32)}, view, preprocessing=None, part="train", label=None)
    context = PassContext(reference=view.fork(), train=data, validation=data)
    steps = [QuantizeActivations(), Encode(format="packed")]
    integer, packed = (Pipeline(steps[:count]).run(view, context) for count in (1, 2))
    assert all("weight on its own grid" in edit.what for edit in integer.reports[0].report.edits)
    assert kernel_counts(optimised_model(packed.model.to_bytes())) == kernel_counts(
        optimised_model(integer.model.to_bytes())
    )
    assert len(packed.model.to_bytes()) < len(integer.model.to_bytes())
    feeds = {"x": normal(1, 8, 32)}
    expected, got = (open_session(each.model, threads=1).run(feeds)["y"] for each in (integer, packed))
    assert np.array_equal(expected, got)
