"""``onnx-admm lint``: findings, exit codes, JSON, SARIF, the fix and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import RunCommand

import onnx_admm
from onnx_admm.config.registry import LINT_RULES
from onnx_admm.contracts import ModelView
from onnx_admm.errors import UsageError
from onnx_admm.runtime.sessions import open_session

TARGET = ("--target", "x86-vnni")


def faulty(name: str) -> ModelView:
    """The faulty model of a rule."""
    model = LINT_RULES.get(name)().faulty()
    assert isinstance(model, ModelView)
    return model


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A file with one finding of level slow, which can be mended."""
    file = tmp_path / "slow.onnx"
    faulty("transposed_weight").save(file)
    return file


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    file = tmp_path / "clean.onnx"
    LINT_RULES.get("transposed_weight")().sound().save(file)
    return file


def test_a_clean_model(run: RunCommand, clean: Path) -> None:
    code, out, err = run("lint", str(clean), *TARGET)
    assert (code, err) == (0, "")
    assert "nothing found (target x86-vnni)" in out


def test_findings_are_shown_and_counted(run: RunCommand, slow: Path) -> None:
    code, out, err = run("lint", str(slow), *TARGET)
    assert code == 3
    assert "transposed_weight" in out
    assert "1 slow (target x86-vnni); --fix mends 1" in out
    assert "1 finding at level 'slow' or above" in err


@pytest.mark.parametrize(
    ("rule", "level", "code"),
    [
        ("transposed_weight", "error", 0),
        ("transposed_weight", "slow", 3),
        ("transposed_weight", "note", 3),
        ("unused_constants", "slow", 0),
        ("unused_constants", "note", 3),
        ("bias_scale", "error", 3),
    ],
)
def test_the_level_decides_about_the_exit_code(
    run: RunCommand, tmp_path: Path, rule: str, level: str, code: int
) -> None:
    file = tmp_path / "net.onnx"
    faulty(rule).save(file)
    assert run("lint", str(file), "--fail-on", level, *TARGET)[0] == code


def test_an_unknown_level_or_target_is_refused(run: RunCommand, clean: Path) -> None:
    code, _, err = run("lint", str(clean), "--fail-on", "warning")
    assert code == 2
    assert "unknown level; got 'warning'; expected error, slow, note" in err.replace("--fail-on: ", "")
    code, _, err = run("lint", str(clean), "--target", "vax")
    assert code == 2
    assert "unknown target 'vax'; expected one of this, x86-avx2" in err


def test_json_is_alone_on_stdout(run: RunCommand, slow: Path, tmp_path: Path) -> None:
    code, out, err = run("lint", str(slow), "--json", "--fix", str(tmp_path / "mended.onnx"), *TARGET)
    told = json.loads(out)
    assert code == 0
    assert err == ""
    assert told["schema_version"] == 1
    assert told["counts"] == {"error": 0, "slow": 1, "note": 0}
    (finding,) = told["findings"]
    assert finding["rule"] == "transposed_weight"
    assert finding["level"] == "slow"
    assert finding["nodes"] == ["y", "d"]
    assert finding["slowdown"] > 4
    assert told["fix"]["rules"] == {"transposed_weight": 1}
    assert told["fix"]["findings"] == []
    assert told["unchecked"] == {}


# -- the fix ---------------------------------------------------------------------------------


def test_the_fix_keeps_the_outputs_and_the_original(run: RunCommand, slow: Path, tmp_path: Path) -> None:
    before, mended = slow.read_bytes(), tmp_path / "mended.onnx"
    code, out, _ = run("lint", str(slow), "--fix", str(mended), *TARGET)
    assert code == 0
    assert "equal before and after" in out
    assert slow.read_bytes() == before
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)}
    one, other = (open_session(file, threads=1, optimize=False).run(feeds)["y"] for file in (slow, mended))
    assert np.abs(one - other).max() <= 1e-6 * np.abs(one).max()
    assert ModelView.load(mended).signature() == ModelView.load(slow).signature()


def test_the_input_is_never_overwritten(run: RunCommand, slow: Path) -> None:
    before = slow.read_bytes()
    code, _, err = run("lint", str(slow), "--fix", str(slow), *TARGET)
    assert code == 2
    assert "would overwrite the model" in err
    assert slow.read_bytes() == before


def test_nothing_to_mend_writes_nothing(run: RunCommand, clean: Path, tmp_path: Path) -> None:
    code, out, _ = run("lint", str(clean), "--fix", str(tmp_path / "mended.onnx"), *TARGET)
    assert code == 0
    assert "nothing was written" in out
    assert not (tmp_path / "mended.onnx").exists()


def test_what_a_fix_brings_to_light_is_mended_too(tmp_path: Path) -> None:
    """A BatchNormalization whose parameters are listed as inputs can be folded once they are not."""
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,8,8] x) => (float[N,4,6,6] y)
        <float[4,3,3,3] w, float[4] g, float[4] b, float[4] m, float[4] v = {1.0, 2.0, 1.0, 0.5}>
        { c = Conv (x, w) y = BatchNormalization (c, g, b, m, v) }""")
    rng = np.random.default_rng(0)
    for value in list(proto.graph.value_info):
        shape = [extent.dim_value for extent in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    del proto.graph.value_info[:]
    for tensor in proto.graph.initializer:
        proto.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    report = onnx_admm.lint(proto, fix=tmp_path / "mended.onnx", target="x86-vnni")
    assert [one.rule for one in report.findings] == ["listed_initializers"]
    assert report.fix is not None
    assert report.fix.rules["unfused_batchnorm"] == 1
    assert report.fix.findings == ()
    assert len(onnx.load(tmp_path / "mended.onnx").graph.input) == 1


def test_an_invalid_file_is_examined_and_mended(tmp_path: Path) -> None:
    proto = onnx.load_from_string(LINT_RULES.get("per_channel_opset")().sound().to_bytes())
    proto.opset_import[0].version = 11
    report = onnx_admm.lint(proto, fix=tmp_path / "mended.onnx", target="x86-vnni")
    assert {one.rule for one in report.findings} == {"invalid_model", "per_channel_opset"}
    assert report.fix is not None
    assert report.fix.path is not None
    assert report.fix.compared.startswith("not compared: ")
    assert ModelView.load(tmp_path / "mended.onnx").opset == 13
    assert report.at_least("slow") == ()


def test_a_file_that_stays_invalid_is_not_written(tmp_path: Path) -> None:
    """Its initializers can be taken out of the inputs; a node with an unknown attribute stays."""
    proto = onnx.load_from_string(faulty("listed_initializers").to_bytes())
    proto.graph.node.add(op_type="Relu", input=["x"], output=["z"], name="odd").attribute.append(
        onnx.helper.make_attribute("slope", 1.0)
    )
    report = onnx_admm.lint(proto, fix=tmp_path / "mended.onnx", target="x86-vnni")
    assert {one.rule for one in report.findings} >= {"invalid_model", "listed_initializers"}
    assert report.fix is not None
    assert report.fix.path is None
    assert any("stays invalid" in sentence for sentence in report.fix.left)
    assert not (tmp_path / "mended.onnx").exists()
    assert report.at_least("error")


def test_measured_latency_is_reported(slow: Path) -> None:
    report = onnx_admm.lint(slow, measure=True, target="x86-vnni")
    assert report.measured is not None
    assert report.measured.ratio > 0
    assert report.fix is None


# -- SARIF -----------------------------------------------------------------------------------


def test_sarif_has_the_form_of_the_standard(run: RunCommand, slow: Path, tmp_path: Path) -> None:
    file = tmp_path / "lint.sarif"
    run("lint", str(slow), "--sarif", str(file), *TARGET)
    log = json.loads(file.read_text(encoding="utf-8"))
    assert log["version"] == "2.1.0"
    (one,) = log["runs"]
    rules = one["tool"]["driver"]["rules"]
    assert {rule["id"] for rule in rules} == set(LINT_RULES.names())
    assert {rule["defaultConfiguration"]["level"] for rule in rules} == {"error", "warning", "note"}
    (result,) = one["results"]
    assert result["ruleId"] == rules[result["ruleIndex"]]["id"] == "transposed_weight"
    assert result["level"] == "warning"
    assert result["message"]["text"].endswith(".")
    (location,) = result["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")
    assert location["logicalLocations"][0]["name"] == "y"


# -- broken and hostile files ----------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a\x3a\x05\x0a\x03abc", bytes(64)])
def test_a_broken_file_gets_a_sentence(run: RunCommand, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(content)
    code, out, err = run("lint", str(file))
    assert code in (2, 3)
    assert "Traceback" not in err
    assert err.count("\n") <= 2
    assert code == 3 or out == ""


def test_a_missing_file_gets_a_sentence(run: RunCommand, tmp_path: Path) -> None:
    code, _, err = run("lint", str(tmp_path / "none.onnx"))
    assert code == 2
    assert "no such model file" in err


def test_an_unknown_operator_is_a_finding(run: RunCommand, tmp_path: Path, clean: Path) -> None:
    proto = onnx.load(clean)
    proto.graph.node[0].op_type = "RequantShift"
    (tmp_path / "odd.onnx").write_bytes(proto.SerializeToString())
    code, out, _ = run("lint", str(tmp_path / "odd.onnx"))
    assert code == 3
    assert "Operator RequantShift is in no ONNX operator set" in out


def test_a_rule_that_fails_is_listed_and_the_others_go_on(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = LINT_RULES.get("gelu")

    def check(self: object, subject: object) -> list[object]:
        raise KeyError("nothing there")

    monkeypatch.setattr(broken, "check", check)
    report = onnx_admm.lint(clean, target="x86-vnni")
    assert report.unchecked == {"gelu": "KeyError: 'nothing there'"}
    assert report.findings == ()


def test_an_unknown_target_is_refused_in_python(clean: Path) -> None:
    with pytest.raises(UsageError, match="unknown target 'vax'"):
        onnx_admm.lint(clean, target="vax")
