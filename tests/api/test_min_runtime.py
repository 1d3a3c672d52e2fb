"""--min-runtime: the model is lowered, passes write nothing newer, and the written file is checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from conftest import RunCommand

import onnx_admm
from onnx_admm.api import Compression
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport
from onnx_admm.errors import BudgetExceeded, RecipeError, UsageError
from onnx_admm.model import convert_opset
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.sessions import open_session

ATTENTION = """
    <ir_version: 11, opset_import: ["" : 23]>
    attends (float[1,4,8] x) => (float[1,4,8] z) <float[8,8] w>
    { y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x)
      z = MatMul (y, w) }"""


@dataclass(frozen=True)
class TooNew:
    """Raises the opset whatever the runtime loads."""

    name: ClassVar[str] = "too_new"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    def requires(self, model: ModelView, context: PassContext) -> None:
        pass

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        free = ModelView.from_bytes(model.to_bytes())
        model.become(convert_opset(free, at_least=21))
        return PassReport(True, (Edit("model", "raised"),))


@pytest.fixture
def newer(net: Path) -> Path:
    """The model of the tests at opset 21 and IR version 10."""
    convert_opset(ModelView.load(net), at_least=21).save(net)
    model = onnx.load(net)
    model.ir_version = 10
    onnx.save(model, net)
    return net


@pytest.mark.parametrize(
    ("version", "opset", "ir_version"), [("1.16", 19, 9), ("1.17", 20, 9), ("1.19", 21, 10), ("1.32", 21, 10)]
)
def test_a_newer_model_is_lowered(version: str, opset: int, ir_version: int, newer: Path) -> None:
    target = newer.with_name("out.onnx")
    report = onnx_admm.compress(newer, target, min_runtime=version, threads=1).report
    written = onnx.load(target)
    assert (written.opset_import[0].version, written.ir_version) == (opset, ir_version)
    lowered = [note for note in report.notes if note.startswith("The model was lowered")]
    assert len(lowered) == (version in ("1.16", "1.17"))
    met = {
        promise.unit: promise.met for promise in report.comparison.promises if promise.name == "min_runtime"
    }
    assert met == {"(opset)": True, "(IR version)": True}
    assert f'min_runtime = "{version}"' in report.recipe
    run = [open_session(ModelView.load(file), threads=1).run for file in (newer, target)]
    x = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
    before, after = (np.asarray(next(iter(each({"x": x}).values()))) for each in run)
    assert np.abs(before - after).max() < 0.1 * np.abs(before).max()


def test_a_domain_that_no_node_uses_is_left_out(net: Path) -> None:
    """Files of ONNX Runtime's own optimiser import every domain; 1.17 refuses ai.onnx.ml 5 unused."""
    model = onnx.load(net)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 5))
    onnx.save(model, net)
    target = net.with_name("out.onnx")
    report = onnx_admm.compress(net, target, bits=6, min_runtime="1.17", threads=1).report
    assert [each.domain for each in onnx.load(target).opset_import] == [""]
    assert any("ai.onnx.ml 5, which no node uses" in note for note in report.notes)
    onnx_admm.compress(net, target, bits=6, min_runtime="1.18", threads=1)


@pytest.mark.parametrize(("op_type", "version", "code"), [("Scaler", "1.16", 0), ("LabelEncoder", "1.16", 2)])
def test_a_domain_in_use_is_restated_where_its_operators_are_the_same(
    op_type: str, version: str, code: int, tmp_path: Path, run: RunCommand
) -> None:
    attributes = {
        "Scaler": "offset = [0.0], scale = [2.0]",
        "LabelEncoder": "keys_floats = [0.0], values_floats = [1.0]",
    }
    text = f"""
        <ir_version: 9, opset_import: ["" : 17, "ai.onnx.ml" : 4]>
        scaled (float[N,8] x) => (float[N,8] y) <float[8,8] w>
        {{ z = ai.onnx.ml.{op_type} <{attributes[op_type]}> (x)
           y = MatMul (z, w) }}"""
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    parse_text(text, 3).save(source)
    found, _, errors = run("compress", source, target, "--bits", "6", "--min-runtime", version, "--keep")
    assert found == code, errors
    if code:
        assert f"{op_type} has another form at ai.onnx.ml 3" in errors
    else:
        assert {each.domain: each.version for each in onnx.load(target).opset_import}["ai.onnx.ml"] == 3


def test_a_model_that_cannot_be_lowered_is_refused_before_the_work(tmp_path: Path, run: RunCommand) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    parse_text(ATTENTION, 3).save(source)
    for dry in ([], ["--dry-run"]):
        code, _, errors = run("compress", source, target, "--min-runtime", "1.19", *dry)
        assert code == 2
        assert "the model cannot be brought to an opset that onnxruntime 1.19 loads; got opset 23" in errors
    assert not target.exists()


@pytest.mark.parametrize("keep", [False, True])
def test_a_file_that_the_runtime_does_not_load_misses_a_promise(keep: bool, net: Path) -> None:
    target = net.with_name("out.onnx")
    recipe = Recipe((TooNew(),), min_runtime="1.17")
    job = Compression(recipe=recipe, threads=1, keep=keep)
    report = job.run(net, target)
    with pytest.raises(BudgetExceeded, match=r"onnxruntime 1\.17 does not load the result's opset; got 21"):
        report.raise_if_missed()
    assert target.exists() is keep


def test_int4_loads_in_the_runtime_that_is_named(net: Path) -> None:
    target = net.with_name("out.onnx")
    onnx_admm.compress(net, target, bits=4, format="qdq", min_runtime="1.19", threads=1)
    kinds = {tensor.data_type for tensor in onnx.load(target).graph.initializer}
    assert onnx.TensorProto.INT4 in kinds
    onnx_admm.compress(net, target, bits=4, format="qdq", min_runtime="1.18", threads=1)
    assert onnx.TensorProto.INT4 not in {tensor.data_type for tensor in onnx.load(target).graph.initializer}


def test_recipes_state_a_version_as_text() -> None:
    recipe = Recipe.parse('min_runtime = "1.17"')
    assert Recipe.parse(recipe.dump()) == recipe
    with pytest.raises(RecipeError, match=r'not a version; got 1\.17; expected such as "1\.17"'):
        Recipe.parse("min_runtime = 1.17")
    with pytest.raises(UsageError, match="recipe, key 'min_runtime': older than what is known"):
        Recipe.parse('min_runtime = "1.9"')


def test_the_report_has_the_reasons(net: Path, run: RunCommand) -> None:
    target, report = net.with_name("out.onnx"), net.with_name("r.json")
    flags = ["--bits", "4", "--format", "qdq", "--min-runtime", "1.17", "--report", report]
    assert run("compress", net, target, *flags)[0] == 0
    steps = {step["name"]: step for step in json.loads(report.read_text(encoding="utf-8"))["steps"]}
    assert "int4 weights load from onnxruntime 1.19 on" in steps["encode"]["skipped"]["w1"]
