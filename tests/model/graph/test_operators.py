"""The table of operators against the schemas of onnx, and against the operators of real models."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.defs
import pytest

from onnx_admm.model.files.guards import all_nodes
from onnx_admm.model.operators import OPERATORS, Macs, Operator, Trait, biased_operators, operators_with
from onnx_admm.model.operators import STANDARD as STANDARD_NAMES

STANDARD = [entry for entry in OPERATORS.values() if not entry.domain]


def schemas(name: str) -> list[onnx.defs.OpSchema]:
    found = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.name == name]
    return sorted(found, key=lambda schema: schema.since_version)


@pytest.mark.parametrize("entry", STANDARD, ids=lambda entry: entry.name)
def test_a_record_agrees_with_the_schema(entry: Operator) -> None:
    known = schemas(entry.name)
    assert known, "onnx has no such operator"
    assert entry.since in {schema.since_version for schema in known}
    newest = known[-1]
    most = newest.max_input
    for index in [*(weight.index for weight in entry.weights), *entry.products]:
        assert index < most
    if entry.bias is not None:
        assert newest.inputs[entry.bias].name in ("B", "C")
        assert newest.inputs[entry.bias].option == onnx.defs.OpSchema.FormalParameterOption.Optional
    if Trait.UNARY in entry.traits or Trait.REARRANGES in entry.traits:
        assert len(newest.outputs) == 1
        assert newest.min_input <= 2
    assert (Trait.CONTAINS in entry.traits) == any(
        attribute.type == onnx.defs.OpSchema.AttrType.GRAPH for attribute in newest.attributes.values()
    )
    windows = {"strides", "pads", "kernel_shape"}
    assert (Trait.WINDOWED in entry.traits) == (
        windows <= set(newest.attributes) and entry.macs != Macs.UNKNOWN
    )


def test_products_are_counted_where_there_are_some() -> None:
    assert len(STANDARD) > 80
    for entry in STANDARD:
        counts = entry.macs in (Macs.PER_OUTPUT, Macs.PER_INPUT, Macs.PER_STEP, Macs.INNER)
        assert counts == bool(entry.products), entry.name


def test_questions_about_operators() -> None:
    assert biased_operators() == {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
    assert operators_with(Trait.REARRANGES) == {
        "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
    }  # fmt: skip
    assert "Shape" not in operators_with(Trait.REARRANGES)
    assert operators_with(Trait.TAKES_MAXIMA) == {"GlobalMaxPool", "ReduceMax"}


def test_every_operator_of_real_models_is_known_or_in_no_operator_set(shared: Path) -> None:
    """What is missing here was removed from the standard long ago, or never was in it."""
    unknown = set()
    files = sorted((shared / "models").glob("*.onnx"))
    assert files
    for file in files:
        proto = onnx.load(file, load_external_data=False)
        for node in all_nodes(proto):
            if node.domain in STANDARD_NAMES and ("", node.op_type) not in OPERATORS:
                unknown.add(node.op_type)
    assert unknown == {"Affine", "Crop", "ImageScaler", "RequantShift"}
