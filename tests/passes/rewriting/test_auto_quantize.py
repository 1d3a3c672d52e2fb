"""AutoQuantize: what is rounded how far, that it holds, and what is left alone."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import TWO_GEMMS, context_of_gemms

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.data import from_arrays, synthetic_dataset
from onnx_admm.errors import OnnxAdmmError, PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.auto_quantize import AutoQuantize
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.testing import model_family

CHAIN = """
    <ir_version: 10, opset_import: ["" : 17]>
    chain (float[N,1,32] x) => (float[N,1,24] y)
    <float[32,40] first, float[40,24] last, float[24,24] faint, float factor = {0.1}>
    {
        a = MatMul (x, first)
        b = Relu (a)
        c = MatMul (b, last)
        d = MatMul (c, faint)
        e = Mul (d, factor)
        y = Add (c, e)
    }
"""


def chosen(
    model: ModelView, context: PassContext | None = None, **settings: object
) -> tuple[ModelView, PassReport]:
    step, context = AutoQuantize(**settings), context or PassContext(reference=model)  # type: ignore[arg-type]
    step.requires(model, context)
    report = step.run(fork := model.fork(), context)
    return fork, report


def sqnr_db(before: ModelView, after: ModelView, seed: int = 99) -> float:
    found = evaluate(after, synthetic_dataset(before, 200, seed), reference=before, threads=1).sqnr_db
    assert found is not None
    return found


def level_count(model: ModelView, name: str) -> int:
    """Most distinct values in a column, of the encoder's per-channel grids."""
    return max(len(np.unique(column)) for column in model.read(name).T)


@pytest.mark.parametrize("least", [15.0, 22.0, 35.0])
def test_outputs_keep_the_ratio_on_samples_never_seen(least: float) -> None:
    model = parse_text(CHAIN)
    after, report = chosen(model, least_sqnr_db=least)
    assert report.changed
    assert least - 0.5 < sqnr_db(model, after) < least + 12
    assert report.figures["sqnr_db"] >= least
    assert report.figures["expected_bytes"] < report.figures["bytes_before"] / 3


def test_less_is_left_of_what_matters_less() -> None:
    model = parse_text(CHAIN)
    after, report = chosen(model)
    assert level_count(after, "faint") < level_count(after, "last")
    assert {edit.layer for edit in report.edits} == {"first", "last", "faint"}
    for edit in report.edits:
        said = r"\d+ levels(, \d+% zeros)?: [\d,]+ to about [\d,]+ bytes; "
        assert re.fullmatch(said + r"rounded alone it leaves the outputs \d+\.\d dB", edit.what)


def test_a_tighter_tolerance_takes_more_bytes() -> None:
    model = parse_text(CHAIN)
    sizes = [chosen(model, least_sqnr_db=least)[1].figures["expected_bytes"] for least in (12.0, 22.0, 40.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 1.5


def test_a_second_run_changes_nothing_and_says_why() -> None:
    once, _ = chosen(parse_text(CHAIN))
    twice, report = chosen(once)
    assert not report.changed
    assert twice.to_bytes() == once.to_bytes()
    assert {skip.layer for skip in report.skipped} == {"first", "last", "faint"}
    assert all(re.fullmatch(r"lies on \d+ levels already", skip.why) for skip in report.skipped)


def test_a_model_that_was_worked_on_is_left_also_where_weights_lie_on_no_grid() -> None:
    model = parse_text(CHAIN)
    model.metadata["onnx_admm.passes"] = "fold_bias,auto_quantize"
    after, report = chosen(model)
    assert not report.changed
    assert after.to_bytes() == model.to_bytes()
    assert {skip.why.partition(";")[0] for skip in report.skipped} == {"was rounded in an earlier run"}
    assert chosen(model, include=("first",))[1].changed


@pytest.mark.parametrize(
    ("constant", "name"),
    [
        (np.arange(16, dtype=np.float32).reshape(1, 16), "distribution"),
        (np.tile(np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32), (2, 2)), "sobel"),
        (np.where(np.arange(64).reshape(8, 8) % 3 == 0, 1.0, -1.0).astype(np.float32), "signs"),
    ],
)
def test_one_constant_on_a_grid_does_not_stop_the_others(constant: np.ndarray, name: str) -> None:
    rows, columns = constant.shape
    model = parse_text(f"""
    <ir_version: 10, opset_import: ["" : 17]>
    net (float[N,32] x) => (float[N,{columns}] y)
    <float[32,{rows}] learned, float[{rows},{columns}] {name}>
    {{
        a = MatMul (x, learned)
        y = MatMul (a, {name})
    }}""")
    model.replace(name, constant)
    after, report = chosen(model)
    assert {edit.layer for edit in report.edits} == {"learned"}
    np.testing.assert_array_equal(after.read(name), constant)
    assert re.fullmatch(r"lies on \d+ levels already", {s.layer: s.why for s in report.skipped}[name])


def test_weights_inside_subgraphs_are_rounded_too() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 17]>
    branches (float[N,16] x, bool turned) => (float[N,16] y)
    {
        [choice] y = If (turned) <
            then_branch = one () => (float[N,16] yt) <float[16,16] wt> { yt = MatMul (x, wt) },
            else_branch = two () => (float[N,16] ye) <float[16,16] we> { ye = MatMul (x, we) }
        >
    }
    """
    model = parse_text(text)
    _, report = chosen(model, samples=64)
    assert {edit.layer for edit in report.edits} == {"choice.then_branch/wt", "choice.else_branch/we"}


def test_a_classifier_is_held_by_agreement_where_there_is_data() -> None:
    model = parse_text(TWO_GEMMS)
    context = context_of_gemms(model, trained=True)
    assert context.validation is not None
    after, report = chosen(model, context, least_agreement=1.0, least_sqnr_db=5.0)
    assert evaluate(after, context.validation, reference=model, threads=1).agreement == 1.0
    assert report.figures["agreement"] == 1.0
    loose, _ = chosen(model, context, least_agreement=0.5, least_sqnr_db=5.0)
    agreement = evaluate(loose, context.validation, reference=model, threads=1).agreement
    assert agreement is not None
    assert 0.5 <= agreement < 1.0


def test_a_classifier_without_data_is_held_closer() -> None:
    model = parse_text(TWO_GEMMS)
    after, report = chosen(model, blind_sqnr_db=33.0)
    assert report.figures["sqnr_db"] >= 33.0
    assert sqnr_db(model, after) > 31.0


def test_integer_outputs_are_judged_by_what_they_are_made_from() -> None:
    text = TWO_GEMMS.replace("(float[N,4] logits)", "(int64[N,1] class)").replace(
        "(r, w2, b2)", "(r, w2, b2) class = ArgMax <axis = 1> (logits)"
    )
    model = parse_text(text)
    after, report = chosen(model)
    assert report.figures["sqnr_db"] >= 30.0
    agreement = evaluate(after, synthetic_dataset(model, 400, 5), reference=model, threads=1).agreement
    assert agreement is not None
    assert agreement > 0.95


def test_half_and_double_weights_keep_their_type() -> None:
    for kind, dtype in (("float16", np.float16), ("double", np.float64)):
        plain = parse_text(CHAIN)
        constants = {name: plain.read(name).astype(dtype) for name in ("first", "last", "faint")}
        head, _, tail = CHAIN.replace("float[", f"{kind}[").partition(f"<{kind}[32,40]")
        text = head + tail.partition("}>")[2]
        model = parse_text(text, constants={**constants, "factor": np.array(0.03, dtype)})
        after, report = chosen(model)
        assert report.changed
        assert after.read("first").dtype == dtype
        assert sqnr_db(model, after) > 21.0


def test_what_cannot_be_rounded_is_left_with_a_reason() -> None:
    model = parse_text(CHAIN)
    spoilt = model.read("last")
    spoilt[0, 0] = np.nan
    model.replace("last", spoilt)
    _, report = chosen(model, exclude=("first",))
    reasons = {skip.layer: skip.why for skip in report.skipped}
    assert reasons["first"] == "excluded"
    assert reasons["last"] == "holds values that are not finite"


def test_small_weights_are_left_as_they_are() -> None:
    model = model_family()["constant_node_weights"]
    _, report = chosen(model)
    assert not report.changed
    assert report.skipped[0].why == "24 bytes: no form of it is smaller"


def test_nothing_is_done_where_nothing_holds() -> None:
    model = parse_text(CHAIN)
    other = model.fork()
    other.replace("last", 2 * model.read("last"))
    after, report = chosen(model, PassContext(reference=other))
    assert not report.changed
    assert np.array_equal(after.read("first"), model.read("first"))


def test_blind_layers_are_not_thrown_away() -> None:
    """A branch that random inputs hardly reach: what it does with others nobody knows."""
    text = """
    <ir_version: 10, opset_import: ["" : 17]>
    gated (float[N,1,32] x) => (float[N,1,32] y)
    <float[32,32] seen, float[32,32] unseen, float limit = {1000}>
    { a = MatMul (x, seen) far = Sub (x, limit) r = Relu (far) b = MatMul (r, unseen) y = Add (a, b) }
    """
    model = parse_text(text)
    after, report = chosen(model)
    change = after.read("unseen") - model.read("unseen")
    assert np.square(change).sum() < 10**-2.2 * np.square(model.read("unseen")).sum()
    assert any(edit.layer == "unseen" and "hardly excite it" in edit.what for edit in report.edits)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"least_sqnr_db": 0.0}, r"least_sqnr_db: impossible tolerance"),
        ({"blind_sqnr_db": -1.0}, r"blind_sqnr_db: impossible tolerance"),
        ({"least_agreement": 1.5}, r"least_agreement: impossible share"),
        ({"samples": 0}, r"samples: too few samples"),
        ({"include": ("nothing",)}, r"no layer matches"),
    ],
)
def test_mistakes_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(PassRefused, match=sentence):
        chosen(parse_text(CHAIN), **settings)


def test_few_real_samples_will_do() -> None:
    model = parse_text(CHAIN)
    x = np.random.default_rng(0).normal(size=(3, 1, 32)).astype(np.float32)
    data = from_arrays({"x": x})
    context = PassContext(
        reference=model, train=data.select(np.arange(2)), validation=data.select(np.arange(2, 3))
    )
    assert chosen(model, context)[1].changed


def test_what_holds_on_samples_holds_on_made_up_inputs_too() -> None:
    """The samples reach one row of the first weight, a large one; in the others' scale errors are large."""
    model = parse_text(CHAIN)
    first = np.array(model.read("first"))
    first[0] *= 10
    model.replace("first", first)
    x = np.zeros((300, 1, 32), np.float32)
    x[:, :, 0] = np.random.default_rng(0).normal(size=(300, 1))
    data = from_arrays({"x": x})
    context = PassContext(
        reference=model, train=data.select(np.arange(200)), validation=data.select(np.arange(200, 300))
    )
    after, report = chosen(model, context)
    assert report.changed
    assert sqnr_db(model, after) > 21.0


def test_given_samples_will_do_where_none_can_be_made_up() -> None:
    """No made-up index lies within the table: what it is looked up by is computed."""
    text = """
        <ir_version: 10, opset_import: ["" : 17]>
        looks_up (float[N,8] x) => (float[N,16] y)
        <float[3,64] table, float[64,16] w, int64[1] axis = {1}>
        {
            total = ReduceSum <keepdims = 0> (x, axis)
            index = Cast <to = 7> (total)
            row = Gather (table, index)
            y = MatMul (row, w)
        }
    """
    model = parse_text(text)
    with pytest.raises(OnnxAdmmError):
        chosen(model)
    x = np.zeros((200, 8), np.float32)
    x[:, 0] = np.arange(200) % 3
    data = from_arrays({"x": x})
    context = PassContext(
        reference=model, train=data.select(np.arange(100)), validation=data.select(np.arange(100, 200))
    )
    assert chosen(model, context)[1].changed
