"""Four bits in DequantizeLinear form: int4 at opset 21, or a line that says why int8."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.data import synthetic_dataset
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime.sessions import open_session, optimised_model

PLAIN = "(float[N,32] x) => (float[N,24] y) <float[32,24] w> { y = MatMul (x, w) }"


def encoded(opset: int, text: str = PLAIN, *, has_zeros: bool = False) -> tuple[ModelView, PassReport]:
    original = parse_text(f'<ir_version: 7, opset_import: ["" : {opset}]> g {text}', 3)
    weights = original.read("w").copy()
    if has_zeros:
        weights[:16] = 0
        original.replace("w", weights)
    context = PassContext(reference=original)
    AdmmQuantize(bits=4, per_channel=True).run(original, context)
    model = original.fork()
    report = Encode("qdq").run(model, context)
    np.testing.assert_array_equal(model.read(model.sites()[0]), original.read("w"))
    feeds = next(synthetic_dataset(original, 4, 0).batches(4)).feeds
    fuses = "MatMulNBits" in kernel_counts(optimised_model(model.to_bytes(maps=False)))
    for optimize in (False, True):
        one, other = (
            next(iter(open_session(each, threads=1, optimize=optimize).run(feeds).values()))
            for each in (original, model)
        )
        least_db = 40 if fuses and optimize else 100  # the fused kernel rounds activations
        assert np.linalg.norm(other - one) < 10 ** (-least_db / 20) * np.linalg.norm(one)
    return model, report


@pytest.mark.parametrize("opset", [9, 13, 21])
def test_four_bits_become_int4_at_whatever_opset_a_model_has(opset: int) -> None:
    model, report = encoded(opset)
    (row,) = report.figures["layers"]
    assert row["coding"] == "DequantizeLinear int4"
    assert (model.opset, report.skipped) == (21, ())


def test_codes_beyond_int4_are_int8_with_a_line() -> None:
    model, report = encoded(13, has_zeros=True)
    assert model.opset == 13
    (row,), (skip,) = report.figures["layers"], report.skipped
    assert row["coding"] == "DequantizeLinear int8"
    assert skip.why == "stored as int8 and not int4: its codes reach from -8 to 8, int4 from -8 to 7"


def test_an_opset_that_cannot_be_raised_means_int8_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "Old has no form at opset 21"
    monkeypatch.setattr("onnx_admm.encoding.standard_forms.raise_opset", lambda view, needed: why)
    model, report = encoded(13)
    (row,), (skip,) = report.figures["layers"], report.skipped
    assert (row["coding"], model.opset) == ("DequantizeLinear int8", 13)
    assert skip.why == f"stored as int8 and not int4: {why}"


def test_other_float_types_are_said_to_have_no_such_form() -> None:
    text = "(double[N,32] x) => (double[N,24] y) { y = MatMul (x, w) }"
    weights = np.random.default_rng(0).integers(-7, 8, size=(32, 24)) * 0.25
    original = parse_text(f'<ir_version: 10, opset_import: ["" : 21]> g {text}', constants={"w": weights})
    report = Encode("qdq").run(original, PassContext(reference=original))
    assert [skip.why for skip in report.skipped] == ["float64 weights have no DequantizeLinear form here"]
