"""A second run changes nothing, whatever form the coders found fast enough in the first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_admm.config.flags import Flags, recipe_from_flags
from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode, _Candidate

CLASSIFIER = """
    <ir_version: 8, opset_import: ["" : 17]>
    classifier (float[N,16] x) => (float[N,4] y)
    <float[24,16] w, float[24] b, float[4,24] v, float[4] c>
    {
        h = Gemm <transB = 1> (x, w, b)
        r = Relu (h)
        y = Gemm <transB = 1> (r, v, c)
    }"""


@pytest.mark.parametrize("slow", [(), ("packed",), ("packed", "qdq")])
def test_a_second_run_changes_nothing(slow: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def time(self: Encode, model: ModelView, candidate: _Candidate, data: Dataset) -> dict[str, Any]:
        return {"verdict": "slower" if candidate.outcome.format in slow else "taken"}

    monkeypatch.setattr(Encode, "_time", time)
    model, rng = parse_text(CLASSIFIER), np.random.default_rng(0)
    for site in model.sites():
        model.replace(site.name, rng.standard_normal(site.shape).astype(np.float32))
    recipe = recipe_from_flags(Flags())
    first = recipe.pipeline().run(model)
    (encoding,) = (step.report.figures for step in first.reports if step.name == "encode")
    assert encoding["format"] not in slow
    if slow == ("packed",):
        assert encoding["format"] == "qdq"
    second = recipe.pipeline().run(ModelView.from_bytes(first.model.to_bytes()))
    assert [step.report.edits for step in second.reports if step.report.changed] == []
