"""The report: facts read back from files, JSON and tables."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from onnx_admm.api import inspect_model
from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.errors import UsageError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.report import (
    Comparison,
    LayerFacts,
    ModelFacts,
    QualityFacts,
    Report,
    Sizes,
    StepFacts,
    Timing,
    to_json,
)
from onnx_admm.report.comparison import four_digits
from onnx_admm.report.tables import model_table, report_view


def facts(*, file: int, nonzeros: int, path: str = "net.onnx") -> ModelFacts:
    sizes = Sizes(data=nonzeros, data_index=2 * nonzeros, decode=3 * nonzeros)
    layer = LayerFacts(
        weight="fc1", node="gemm1", op_type="Gemm", shape=(10, 100), parameters=1000, nonzeros=nonzeros,
        bits=8, macs=1000, sizes=sizes,
    )  # fmt: skip
    return ModelFacts(
        path=path, parameters=1000, nonzeros=nonzeros, macs=1000, opset=17, ir_version=8,
        sizes=Sizes(data=nonzeros, data_index=2 * nonzeros, decode=3 * nonzeros, file=file), layers=(layer,),
    )  # fmt: skip


def comparison(*quality: QualityFacts) -> Comparison:
    timing = Timing(
        before_us=100.0, after_us=50.0, ratio=0.5, before_load_ms=1.0, after_load_ms=2.0, threads=1
    )
    return Comparison(
        before=facts(file=4000, nonzeros=1000),
        after=facts(file=400, nonzeros=50),
        quality=quality,
        timing=timing,
    )


def report(**changes: object) -> Report:
    quality = QualityFacts(data="test", samples=200, accuracy_before=0.99, accuracy_after=0.985)
    edits, figures = {"fc1": "50 kept"}, {"r": [1.0]}
    settings: dict[str, object] = {
        "comparison": comparison(quality),
        "steps": (StepFacts(name="prune", changed=True, seconds=1.5, edits=edits, figures=figures),),
        "recipe": '[[pass]]\nname = "prune"\n',
        "seed": 3,
        "threads": 0,
        "seconds": 2.0,
        "versions": {"numpy": "2"},
        "written": True,
    }
    return Report(**(settings | changes))  # type: ignore[arg-type]


def labelled(before: float, after: float) -> QualityFacts:
    return QualityFacts(data="validation", samples=1000, accuracy_before=before, accuracy_after=after)


# -- facts ------------------------------------------------------------------------------------


def test_dense_model_is_read_back_to_the_byte(tiny_conv: ModelView, tmp_path: Path) -> None:
    weights = {site.name: tiny_conv.read(site) for site in tiny_conv.sites()}
    pruned = np.where(np.abs(weights["w2"]) > 0.2, weights["w2"], 0).astype(np.float32)
    tiny_conv.replace("w2", pruned)
    size = tiny_conv.save(tmp_path / "net.onnx")
    found = inspect_model(tmp_path / "net.onnx")
    layers = {layer.weight: layer for layer in found.layers}
    assert layers["w2"].nonzeros == np.count_nonzero(pruned) < pruned.size == layers["w2"].parameters
    assert layers["w2"].bits == 32
    assert layers["w2"].sizes == Sizes(
        data=4 * layers["w2"].nonzeros, data_index=4 * pruned.size, decode=4 * pruned.size
    )
    assert layers["w1"].macs == 8 * 8 * 4 * 9
    assert found.parameters == 36 + 216 + 72
    assert found.sizes.decode == 4 * (36 + 4 + 216 + 6 + 72 + 3)
    assert found.sizes.file == size == (tmp_path / "net.onnx").stat().st_size


def test_quantised_weight_counts_codes_scales_and_bits(tmp_path: Path) -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[N,4] x) => (float[N,2] y)
        <int8[4,2] codes = {1, 0, -3, 0, 0, 0, 7, 2}, float scale = {0.5}, int8 zero = {0}>
        {
            w = DequantizeLinear (codes, scale, zero)
            y = MatMul (x, w)
        }""")
    model.save(tmp_path / "net.onnx")
    (layer,) = inspect_model(tmp_path / "net.onnx").layers
    assert (layer.parameters, layer.nonzeros, layer.bits) == (8, 4, 8)
    # The text's integers are stored as varints: a negative one takes 10 bytes.
    assert layer.sizes == Sizes(data=4, data_index=7 + 10 + 1, decode=7 + 10 + 1 + 4)


def test_weight_computed_from_floats_counts_the_floats(tmp_path: Path) -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[N,4] x) => (float[N,2] y) <float[4,2] raw, float scale = {0.5}>
        {
            w = Mul (raw, scale)
            y = MatMul (x, w)
        }""")
    model.save(tmp_path / "net.onnx")
    (layer,) = inspect_model(tmp_path / "net.onnx").layers
    assert layer.sizes == Sizes(data=32, data_index=32, decode=36)


def test_codebook_weight_counts_what_its_levels_need(tmp_path: Path) -> None:
    model = parse_text(
        """
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[N,4] x) => (float[N,2] y)
        <uint8[4] packed = {16, 2, 49, 0}, float[4] book = {0.0, 0.25, -0.5, 0.75}, uint8[2] shift = {0, 4},
         uint8 mask = {3}, int64[2] shape = {4, 2}, int64[1] last = {1}>
        {
            wide = Unsqueeze (packed, last)
            shifted = BitShift <direction = "RIGHT"> (wide, shift)
            codes = Mod (shifted, four)
            numbers = Cast <to = 6> (codes)
            flat = Gather (book, numbers)
            w = Reshape (flat, shape)
            y = MatMul (x, w)
        }""".replace("uint8 mask = {3}", "uint8 four = {4}")
    )
    model.save(tmp_path / "net.onnx")
    (layer,) = inspect_model(tmp_path / "net.onnx").layers
    assert (layer.parameters, layer.nonzeros, layer.bits) == (8, 4, 2)
    assert layer.sizes.data == 1
    assert layer.sizes.data_index == 4 + 2 + 1
    assert layer.sizes.decode == 4 + 2 + 1 + 16 + 2 + 1


def test_external_data_counts(shared: Path, tmp_path: Path) -> None:
    import onnx

    onnx.save(
        onnx.load(shared / "models" / "lenet5-mnist.onnx"),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=1024,
    )
    total = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert inspect_model(tmp_path / "net.onnx").file_bytes == total > 1_700_000


# -- figures and budgets ----------------------------------------------------------------------


def test_ratios_and_drop() -> None:
    found = comparison(labelled(0.99, 0.985))
    assert found.file_ratio == 10
    assert found.pruning_ratio == 20
    assert found.quality[0].drop_points == pytest.approx(0.5)


def test_without_labels_the_drop_is_the_disagreement() -> None:
    assert QualityFacts(data="data", samples=10, agreement=0.9).drop_points == pytest.approx(10)
    assert QualityFacts(data="data", samples=10, sqnr_db=30.0).drop_points is None


# -- views ------------------------------------------------------------------------------------


def test_json_holds_everything_and_reads_back() -> None:
    made = report()
    table = json.loads(to_json(made))
    assert table["schema_version"] == 1
    assert table["comparison"]["file_ratio"] == 10
    assert table["comparison"]["quality"][0]["drop_points"] == pytest.approx(0.5)
    assert table["steps"][0]["figures"] == {"r": [1.0]}
    assert Report.from_json(to_json(made)) == made


def test_json_has_no_numbers_that_json_does_not_know() -> None:
    step = StepFacts(
        name="p",
        changed=True,
        seconds=0.1,
        figures={"a": math.inf, "b": [math.nan, np.float32(2)], "c": np.int64(3)},
    )
    text = to_json(report(steps=(step,)))
    assert json.loads(text, parse_constant=pytest.fail)["steps"][0]["figures"] == {
        "a": None,
        "b": [None, 2.0],
        "c": 3,
    }


@pytest.mark.parametrize("text", ["{}", "not json", "[]"])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a report"):
        Report.from_json(text)


def test_report_of_another_schema_is_refused() -> None:
    text = to_json(report()).replace('"schema_version": 1', '"schema_version": 99')
    with pytest.raises(UsageError, match="another schema version; got 99"):
        Report.from_json(text)


def render(*parts: object) -> str:
    console = Console(width=150, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


def test_tables_show_what_counts() -> None:
    text = render(*report_view(report(notes=("Mind the gap.",)), verbose=True))
    for piece in (
        "file bytes", "4,000", "400", "10.0x", "nonzero weights", "20.0x", "accuracy (test, 200 samples)",
        "99.00 %", "98.50 %", "-0.50 points", "0.50x time", "Note: Mind the gap.", "50 kept", "10x100",
    ):  # fmt: skip
        assert piece in text, piece


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (0.0, "0"),
        (0.0123, "0.01230"),
        (0.58349, "0.5835"),
        (1.5, "1.500"),
        (12.345, "12.35"),
        (54321.4, "54,321"),
    ],
)
def test_times_have_digits_enough_for_the_ratio_beside_them(figure: float, text: str) -> None:
    assert four_digits(figure) == text


@pytest.mark.parametrize("before_us", [0.0123, 0.6, 10.8, 333.3, 12345.6])
@pytest.mark.parametrize("ratio", [0.013, 0.97, 1.344, 1.355, 88.88])
def test_a_ratio_of_times_is_that_of_the_two_figures_beside_it(before_us: float, ratio: float) -> None:
    timing = Timing(
        before_us=before_us,
        after_us=before_us * ratio,
        ratio=ratio,
        before_load_ms=before_us,
        after_load_ms=before_us * ratio,
        threads=1,
    )
    rows = {row[0]: row[1:] for row in replace(comparison(), timing=timing).rows()}
    for row in (rows["latency, us (1 thread)"], rows["load, ms"]):
        before, after, shown = (float(cell.replace(",", "").removesuffix("x time")) for cell in row)
        assert after / before == pytest.approx(shown, abs=0.0051, rel=0.005)


def test_what_a_budget_made_of_a_layer_is_told_once() -> None:
    layer = {
        "density": 0.5, "bits": 4, "dense_cost": {"macs": 100.0}, "cost": {"macs": 50.0}, "break_even": None,
        "why": "reasons enough",
    }  # fmt: skip
    step = StepFacts(
        name="meet",
        changed=True,
        seconds=1.0,
        edits={"w1": "reasons enough"},
        skipped={"w2": "no weight"},
        figures={"layers": {"w1": layer}, "budget": {"macs": {"original": 200.0}}},
    )
    for steps in ((step,), (step, step)):
        text = render(*report_view(report(steps=steps), verbose=True))
        assert text.count("reasons enough") == text.count("50.00 -> 25.00") == len(steps)
        assert text.count("left: no weight") == len(steps)


def test_unknown_macs_are_a_dash() -> None:
    from dataclasses import replace

    assert " - " in render(model_table(replace(facts(file=1, nonzeros=1), macs=None)))


def test_a_weight_that_branches_share_counts_once(tmp_path: Path) -> None:
    """Each branch decodes the same codes."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    branches (float[N,16] x, bool turned) => (float[N,16] y)
    <float scale = {0.01}>
    {
        w = DequantizeLinear (codes, scale)
        y = If (turned) <
            then_branch = one () => (float[N,16] yt) { a = Identity (w) yt = MatMul (x, a) },
            else_branch = two () => (float[N,16] ye) { b = Identity (w) ye = MatMul (x, b) }
        >
    }"""
    codes = np.random.default_rng(0).integers(-127, 128, (16, 16)).astype(np.int8)
    parse_text(text, constants={"codes": codes}).save(tmp_path / "net.onnx")
    facts = inspect_model(tmp_path / "net.onnx")
    assert sum(layer.parameters for layer in facts.layers) in (256, 512)
    assert facts.parameters == 256
    assert facts.nonzeros == np.count_nonzero(codes)


def test_a_grid_of_each_channel_counts_the_levels_of_a_channel(tmp_path: Path) -> None:
    """All channels together have 37 values, one has 7."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,480] x) => (float[N,6] y) { y = MatMul (x, w) }"""
    codes = np.random.default_rng(0).integers(-3, 4, (480, 6)).astype(np.float32)
    weight = codes * np.linspace(0.1, 0.4, 6, dtype=np.float32)
    model = parse_text(text, constants={"w": weight})
    Encode("packed").run(model, PassContext(reference=model))
    model.save(tmp_path / "net.onnx")
    (layer,) = inspect_model(tmp_path / "net.onnx").layers
    assert layer.bits == 3
    assert layer.sizes.data <= layer.sizes.data_index
