"""The table of released runtimes, and what the oldest one allows passes to write."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from onnx_admm.contracts import PassContext
from onnx_admm.encoding.standard_forms import encode_qdq
from onnx_admm.errors import UnsupportedModel, UsageError
from onnx_admm.model import convert_opset
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.conditions import Conditions
from onnx_admm.model.opsets.lower_for_runtime import forms_in, lower_for_runtime
from onnx_admm.model.runtimes import BLOCKED, INT4, RELEASES, WEIGHT_ONLY, parse_runtime
from onnx_admm.model.view import ModelView
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.exact.rewrite_for_runtime import RewriteForRuntime

NIBBLES = """
    <ir_version: 8, opset_import: ["" : OPSET]>
    nibbles (float[N,4] x) => (float[N,2] y)
    <float[4,2] w = {1, 2, 3, 4, -5, 6, -7, 0}>
    { y = MatMul (x, w) }"""

GELU = """
    <ir_version: 8, opset_import: ["" : 17]>
    gelu (float[N,4] x) => (float[N,4] y)
    <float half = {0.5}, float one = {1}, float a = {0.044715}, float b = {0.7978845608}>
    {
        square = Mul (x, x)
        cube = Mul (square, x)
        small = Mul (cube, a)
        sum = Add (x, small)
        scaled = Mul (sum, b)
        bent = Tanh (scaled)
        up = Add (bent, one)
        halved = Mul (x, half)
        y = Mul (halved, up)
    }"""


def under(text: str, version: str | None) -> ModelView:
    model = parse_text(text)
    model.conditions = Conditions(runtime=None if version is None else parse_runtime(version, "test"))
    return model


@pytest.mark.parametrize(
    ("text", "opset", "ir_version"),
    [
        ("1.15", 18, 9),
        ("1.17", 20, 9),
        ("1.17.3", 20, 9),
        ("1.19.2", 21, 10),
        ("1.27", 26, 13),
        ("1.40", RELEASES[-1].opset, RELEASES[-1].ir_version),
        ("2.0", RELEASES[-1].opset, RELEASES[-1].ir_version),
    ],
)
def test_a_release_counts_as_the_last_one_known_before_it(text: str, opset: int, ir_version: int) -> None:
    found = parse_runtime(text, "test")
    assert (found.opset, found.ir_version, found.text) == (opset, ir_version, text)


def test_newer_releases_load_no_less() -> None:
    versions = [release.version for release in RELEASES]
    assert versions == sorted(set(versions))
    for older, newer in pairwise(RELEASES):
        assert older.opset <= newer.opset
        assert older.ir_version <= newer.ir_version


@pytest.mark.parametrize("text", ["", "1", "1.x", "1.17.3.4", "v1.17", "1.14", "0.9", "1.1755"])
def test_what_is_no_known_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"flag: .*expected a version of ONNX Runtime from 1\.15 on"):
        parse_runtime(text, "flag")


def test_forms_have_an_oldest_version() -> None:
    old, middle, new = (parse_runtime(text, "test") for text in ("1.18", "1.19", "1.25"))
    assert "int4 weights load from onnxruntime 1.19 on, not in 1.18" in str(old.why_not(INT4))
    assert middle.why_not(INT4) is None
    assert old.why_not(BLOCKED) is not None
    assert "have a kernel from onnxruntime 1.25 on" in str(middle.why_slow(WEIGHT_ONLY))
    assert new.why_slow(WEIGHT_ONLY) is None
    assert new.why_slow(INT4) is None
    assert "onnxruntime 1.21 is the first to load opset 22" in str(old.why_not_opset(22))
    assert "no known release loads opset 99" in str(new.why_not_opset(99))


def test_the_opset_does_not_rise_above_what_the_runtime_loads() -> None:
    model = under(NIBBLES.replace("OPSET", "17"), "1.17")
    assert convert_opset(model, at_least=20).opset == 20
    with pytest.raises(UnsupportedModel, match=r"onnxruntime 1\.18 is the first to load opset 21"):
        convert_opset(model.fork(), at_least=21)


def test_types_that_an_older_operator_does_not_take_stop_the_lowering() -> None:
    """DequantizeLinear takes int16 since opset 21."""
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,8] x) => (float[N,8] y)
        { w = DequantizeLinear (c, s) y = MatMul (x, w) }"""
    constants = {"c": np.ones((8, 8), np.int16), "s": np.ones((), np.float32)}
    model = parse_text(text, constants=constants)
    with pytest.raises(UnsupportedModel, match="no form of the same meaning"):
        lower_for_runtime(model, parse_runtime("1.17", "test"))
    narrow = parse_text(text, constants={**constants, "c": np.ones((8, 8), np.int8)})
    assert lower_for_runtime(narrow, parse_runtime("1.17", "test"))


@pytest.mark.parametrize("form", [INT4, BLOCKED])
def test_forms_that_a_runtime_does_not_load_are_found_in_the_model(form: str) -> None:
    model = under(NIBBLES.replace("OPSET", "21"), None)
    if form == INT4:
        encode_qdq(model)
    else:
        text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,2] y)
            { w = DequantizeLinear <axis = 0, block_size = 2> (c, s) y = MatMul (x, w) }"""
        model = parse_text(text, constants={"c": np.ones((4, 2), np.int8), "s": np.ones((2, 2), np.float32)})
    assert forms_in(model) == (form,)
    with pytest.raises(UnsupportedModel, match=r"load from onnxruntime 1\.19 on, not in 1\.18"):
        lower_for_runtime(model, parse_runtime("1.18", "test"))
    assert not any("opset" in what for what in lower_for_runtime(model, parse_runtime("1.19", "test")))


@pytest.mark.parametrize(
    ("opset", "version", "coding"),
    [
        ("17", None, "int4"),
        ("17", "1.19", "int4"),
        ("17", "1.18", "int8"),
        ("21", "1.18", "int8"),
        ("17", "1.16", "int8"),
    ],
)
def test_weights_become_int4_only_where_it_loads(opset: str, version: str | None, coding: str) -> None:
    model = under(NIBBLES.replace("OPSET", opset), version)
    report = encode_qdq(model)
    assert [row.coding for row in report.rows] == [f"DequantizeLinear {coding}"]
    whys = [skip.why for skip in report.skipped if "not int4" in skip.why]
    assert len(whys) == (coding == "int8")
    assert all(f"not in {version}" in why for why in whys)
    assert model.opset == (21 if coding == "int4" else int(opset))


@pytest.mark.parametrize(("version", "operators"), [("1.16", 9), ("1.17", 1), (None, 1)])
def test_a_rewrite_that_needs_a_newer_opset_is_left(version: str | None, operators: int) -> None:
    model = under(GELU, version)
    report = RewriteForRuntime(rules=("gelu",)).run(model, PassContext(reference=model.fork()))
    assert len(model.nodes()) == operators
    left = [skip.why for skip in report.skipped]
    assert len(left) == (operators > 1)
    assert all("onnxruntime 1.17 is the first to load opset 20" in why for why in left)


@pytest.mark.parametrize(("version", "slow"), [("1.24", True), ("1.25", False), (None, False)])
def test_dequantised_weights_are_no_candidate_where_they_have_no_kernel(
    version: str | None, slow: bool
) -> None:
    model = under(NIBBLES.replace("OPSET", "17"), version)
    context = PassContext(reference=model.fork())
    trials = Encode().run(model.fork(), context).figures["trials"]
    verdicts = [str(trial["verdict"]) for trial in trials if trial["format"] == "qdq"]
    assert any("have a kernel from onnxruntime 1.25 on" in verdict for verdict in verdicts) is slow
    asked = Encode("qdq").run(model, context)
    assert any(skip.layer == "model" and "1.25" in skip.why for skip in asked.skipped) is slow
