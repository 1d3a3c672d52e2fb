"""The report as an object: attributes, short texts, Markdown, HTML, and the published JSON Schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report import comparison, report

from onnx_admm.report import Comparison, Promise, QualityFacts, Report, StepFacts, Timing
from onnx_admm.report.schema import report_schema

ACCURACY = QualityFacts(data="test", samples=200, accuracy_before=0.99, accuracy_after=0.985, agreement=0.97)
MISSED = Promise(
    name="max_drop", what="accuracy drops", required=0.1, got=0.5, unit="points", met=False, stated=True
)


def test_attributes_are_those_of_the_comparison() -> None:
    made = report(comparison=comparison(ACCURACY))
    assert (made.file_ratio, made.pruning_ratio, made.file_bytes) == (10, 20, 400)
    assert (made.accuracy_before, made.accuracy_after, made.agreement) == (0.99, 0.985, 0.97)
    assert (made.latency_ratio, made.sqnr_db, made.verdict) == (0.5, None, None)
    table = made.to_dict()
    assert table["accuracy_after"] == table["comparison"]["accuracy_after"] == 0.985
    assert table["file_ratio"] == 10


def test_accuracy_is_that_of_samples_with_labels_alone() -> None:
    synthetic = QualityFacts(data="synthetic", samples=16, agreement=0.5, sqnr_db=20.0)
    found = comparison(synthetic)
    assert (found.accuracy_before, found.accuracy_after) == (None, None)
    assert "accuracy" not in repr(found)
    assert "accuracy" not in found.to_markdown()
    assert comparison(synthetic, ACCURACY).accuracy_after == 0.985


@pytest.mark.parametrize(
    ("promises", "verdict"), [((), None), ((replace(MISSED, met=True),), "met"), ((MISSED,), "missed")]
)
def test_verdict_says_whether_promises_are_met(promises: tuple[Promise, ...], verdict: str | None) -> None:
    assert replace(comparison(), promises=promises).verdict == verdict
    assert json.loads(replace(comparison(), promises=promises).to_json())["verdict"] == verdict


def test_repr_is_one_line() -> None:
    made = report(comparison=comparison(ACCURACY))
    said = "4,000 to 400 bytes, 10.0x smaller, accuracy 99.00 % to 98.50 %, 0.50x the latency"
    assert repr(made) == f"Report(net.onnx: {said})"
    assert repr(made.comparison) == f"Comparison({said})"
    assert repr(made.comparison.after) == (
        "ModelFacts(net.onnx: 400 bytes, 1 layers, 50 of 1,000 weights nonzero)"
    )
    assert repr(report(written=False)).startswith("Report(not written: ")


def test_markdown_has_a_row_for_each_figure_and_the_notes() -> None:
    text = report(notes=("Mind the | gap.",)).to_markdown()
    lines = text.splitlines()
    assert lines[:3] == [
        "|  | before | after | change |",
        "|---|---:|---:|---:|",
        "| file bytes | 4,000 | 400 | 10.0x |",
    ]
    assert "| accuracy (test, 200 samples) | 99.00 % | 98.50 % | -0.50 points |" in lines
    assert lines[-1] == "- Mind the \\| gap."


def test_html_escapes_what_comes_from_files() -> None:
    quality = QualityFacts(
        data="data", samples=9, sqnr_db=30.0, sqnr_by_output={"<script>": 1.0, "b\x1b": 2.0}
    )
    text = report(comparison=comparison(quality), notes=("a < b",))._repr_html_()
    assert "<tr><td>file bytes</td><td>4,000</td><td>400</td><td>10.0x</td></tr>" in text
    assert "<script>" not in text
    assert "of b\\x1b" in text
    assert text.endswith("<ul><li>a &lt; b</li></ul>\n")


# -- the schema -------------------------------------------------------------------------------


def documents() -> Iterator[Report]:
    yield report()
    yield report(comparison=Comparison(before=comparison().before, after=comparison().after))
    timing = Timing(
        before_us=1.0, after_us=math.inf, ratio=math.nan, before_load_ms=1.0, after_load_ms=1.0, threads=2
    )
    step = StepFacts(name="p", changed=False, seconds=0.1, skipped={"w": "why"}, figures={"a": [1, {"b": 2}]})
    full = replace(comparison(ACCURACY), timing=timing, promises=(MISSED,))
    yield report(comparison=full, steps=(step,), written=False, inputs={"a": "sha256:0"}, notes=("n",))


def test_published_schema_is_that_of_the_code(repository: Path) -> None:
    published = repository / "docs" / "report.schema.json"
    assert json.loads(published.read_text(encoding="utf-8")) == report_schema()


def test_documented_attributes_exist(repository: Path) -> None:
    text = (repository / "docs" / "report.md").read_text(encoding="utf-8")
    names = [
        name
        for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)", row)
    ]
    assert len(names) > 15
    assert [name for name in names if not hasattr(report(), name) and name != "Report"] == []


def test_reports_fit_the_schema() -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    schema = report_schema()
    validator.check_schema(schema)
    for made in documents():
        validator(schema).validate(json.loads(made.to_json()))
    broken = report().to_dict()
    del broken["comparison"]["after"]["opset"]
    assert [error.message for error in validator(schema).iter_errors(broken)] == [
        "'opset' is a required property"
    ]


def test_schema_has_each_key_of_a_report_and_no_other() -> None:
    schema = report_schema()

    def check(part: dict[str, Any], value: Any) -> None:
        for option in part.get("anyOf", ()):
            if "$ref" in option and value is not None:
                part = option
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rpartition("/")[2]]
        if "properties" in part:
            assert set(part["properties"]) == set(value) == set(part["required"])
            for name, entry in value.items():
                check(part["properties"][name], entry)
        elif "items" in part and isinstance(value, list):
            for entry in value:
                check(part["items"], entry)

    for made in documents():
        check(schema, made.to_dict())


def test_schema_tells_what_each_property_of_a_report_is() -> None:
    properties = report_schema()["properties"]
    assert [name for name, entry in properties.items() if "description" not in entry] == []
