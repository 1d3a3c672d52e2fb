"""Functions of looked-up rows move to the table, where the runtime computes them at load."""

from __future__ import annotations

import numpy as np
import pytest
from rewritten import assert_same, kernels, operators, rewritten

from onnx_admm.config.flags import Flags, recipe_from_flags
from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.exact.rewrite_for_runtime import RewriteForRuntime
from onnx_admm.testing import check_pass

RULE = "function_of_rows"
ROWS, WIDTH, IDS = 40, 32, 48
RNG = np.random.default_rng(0)
CONSTANTS = {
    "table": RNG.normal(size=(ROWS, WIDTH)).astype(np.float32),
    "bias": RNG.normal(size=(1, 1, WIDTH)).astype(np.float32),
    "half": np.float32(0.5),
    "scale": RNG.normal(1, 1, WIDTH).astype(np.float32),
    "column": RNG.normal(size=(IDS, 1)).astype(np.float32),
    "fixed": np.arange(IDS) % ROWS,
}
FEEDS = {"ids": RNG.integers(-ROWS, ROWS, (2, IDS))}


def lookup(body: str, ids: int | str = IDS) -> ModelView:
    """A model that looks up rows of a table as ``r``; ``body`` makes ``y`` of them."""
    text = f"""<ir_version: 8, opset_import: ["" : 20]>
        net (int64[N,{ids}] ids) => (float[N,{ids},{WIDTH}] y) {{ {body} }}"""
    return parse_text(text, constants={name: array for name, array in CONSTANTS.items() if name in body})


FUNCTIONS = {
    "unary": ("r = Gather (table, ids) y = Gelu (r)", 1),
    "of one number": ("r = Gather (table, ids) y = Max (half, r)", 1),
    "of a row": ("r = Gather (table, ids) y = Sub (bias, r)", 1),
    "with limits": ("r = Gather (table, ids) y = Clip (r, half)", 1),
    "twice the same": ("r = Gather (table, ids) y = Mul (r, r)", 1),
    "a normalisation": ("r = Gather (table, ids) y = LayerNormalization <axis = 2> (r, scale)", 1),
    "a chain": ("r = Gather (table, ids) a = Add (r, bias) g = Gelu (a) m = Mul (g, scale) y = Tanh (m)", 4),
    "of a computed bias": ("b = Neg (bias) r = Gather (table, ids) y = Add (r, b)", 1),
    "of a bias that others read": (
        "t = Transpose <perm = [0, 1, 2]> (bias) r = Gather (table, ids) a = Add (r, bias) y = Mul (a, t)",
        2,
    ),
}


@pytest.mark.parametrize(("body", "count"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_of_rows_are_computed_at_load(body: str, count: int) -> None:
    view = lookup(body)
    assert set(kernels(view)) != {"Gather"}
    after, report = rewritten(view, RULE)
    assert report.figures == {RULE: count}
    assert kernels(after) == {"Gather": 1}
    assert_same(view, after, FEEDS)
    assert not rewritten(after, RULE)[1].changed


@pytest.mark.parametrize("body", [FUNCTIONS["unary"][0], FUNCTIONS["of a row"][0], FUNCTIONS["a chain"][0]])
def test_no_bytes_are_added(body: str) -> None:
    view = lookup(body)
    assert len(rewritten(view, RULE)[0].to_bytes()) <= len(view.to_bytes())


@pytest.mark.parametrize(
    "body",
    [
        "r = Gather (table, ids) a = Add (r, column) y = Identity (a)",
        "r = Gather (table, ids) y = Softmax <axis = 1> (r)",
        "r = Gather (table, ids) y = LayerNormalization <axis = 1> (r, r)",
        "r = Gather (table, ids) g = Gelu (r) y = Add (g, r)",
        "r = Gather <axis = 1> (table, ids) t = Transpose <perm = [1, 2, 0]> (r) y = Gelu (t)",
        "r = Gather (table, fixed) y = Gelu (r)",
    ],
)
def test_other_readers_of_rows_stay(body: str) -> None:
    assert not rewritten(lookup(body), RULE)[1].changed


def test_rows_that_are_an_output_stay() -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 20]>
        net (int64[N,{IDS}] ids) => (float[N,{IDS},{WIDTH}] r, float[N,{IDS},{WIDTH}] y)
        {{ r = Gather (table, ids) y = Gelu (r) }}"""
    assert not rewritten(parse_text(text, constants={"table": CONSTANTS["table"]}), RULE)[1].changed


@pytest.mark.parametrize("ids", [ROWS - 1, "length"])
def test_a_table_of_more_rows_than_are_read_stays(ids: int | str) -> None:
    """For one sample: what N samples read counts once."""
    assert not rewritten(lookup(FUNCTIONS["unary"][0], ids), RULE)[1].changed


def test_as_many_ids_as_rows_are_enough() -> None:
    assert rewritten(lookup(FUNCTIONS["unary"][0], ROWS), RULE)[1].changed


def test_a_table_that_is_computed_from_a_graph_input_stays() -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 20]>
        net (int64[N,{IDS}] ids, float[{ROWS},{WIDTH}] table) => (float[N,{IDS},{WIDTH}] y)
        {{ r = Gather (table, ids) y = Gelu (r) }}"""
    assert not rewritten(parse_text(text), RULE)[1].changed


# -- behind the encoding ---------------------------------------------------------------------


def test_it_stands_behind_the_encoding_of_every_format() -> None:
    for form in ("auto", "packed", "qdq"):
        steps = recipe_from_flags(Flags(bits=8, format=form)).passes
        names = [step.name for step in steps]
        (rules,) = (
            step.rules for step in steps[names.index("encode") :] if step.name == "rewrite_for_runtime"
        )
        assert RULE in rules
    assert not rewritten(lookup(FUNCTIONS["unary"][0]))[1].changed


def test_the_table_of_an_encoded_file_is_still_the_weight() -> None:
    levels = np.round(CONSTANTS["table"] * 20).clip(-100, 100)
    view = lookup(FUNCTIONS["a chain"][0])
    view.replace("table", levels / 32)
    encoded = view.fork()
    Encode("packed").run(encoded, PassContext(reference=view))
    after, _ = rewritten(encoded, RULE)
    assert operators(after).count("Gather") == 1
    assert kernels(after) == {"Gather": 1}
    assert_same(encoded, after, FEEDS)
    (before,), (site,) = encoded.sites(), after.sites()
    assert (site.op_type, site.shape, site.editable) == ("Gather", (ROWS, WIDTH), False)
    np.testing.assert_array_equal(after.read(site), encoded.read(before))
    assert after.decoded(site).stored_bits == encoded.decoded(before).stored_bits == 8


def test_a_stored_table_is_still_the_weight() -> None:
    after, _ = rewritten(lookup(FUNCTIONS["a chain"][0]), RULE)
    (site,) = after.sites()
    assert (site.name, site.shape, site.editable) == ("table", (ROWS, WIDTH), True)
    compressed = after.fork()
    compressed.replace(site, np.round(CONSTANTS["table"] * 8) / 8)
    (row,) = Encode("packed").run(compressed, PassContext(reference=after)).figures["layers"]
    assert row["layer"] == "table"
    assert kernels(compressed) == {"Gather": 1}


def test_the_contract_holds_where_it_changes_something() -> None:
    models = {name: lookup(body) for name, (body, _) in FUNCTIONS.items()}
    outcomes = check_pass(RewriteForRuntime(rules=(RULE,)), models)
    assert set(outcomes.values()) == {"changed"}
