"""Every real model is linted without a crash, and what is found there is known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import onnx_admm

KNOWN = {
    "magika_v33": {"one_hot_product": 1, "gelu": 2, "layer_norm": 2, "whole_slice": 2},
    "ppocr_v11_det": {"hard_sigmoid": 20, "unfused_batchnorm": 48},
    "ultraface_rfb320": {"listed_initializers": 1},
    "squeezenet_fp16": {"half_precision": 1},
    "ppocr_det_en": {"wrong_shapes": 1, "unfused_batchnorm": 48},
    "lenet5-mnist": {},
}


def test_what_is_found_in_real_models(shared: Path) -> None:
    for name, expected in KNOWN.items():
        report = onnx_admm.lint(shared / "models" / f"{name}.onnx", target="x86-vnni")
        assert dict(Counter(one.rule for one in report.findings)) == expected, name


@pytest.mark.every_model
def test_every_real_model_is_linted(shared: Path) -> None:
    files = sorted((shared / "models").glob("*.onnx"))
    assert len(files) > 20
    for file in files:
        report = onnx_admm.lint(file, target="x86-vnni")
        assert report.unchecked == {}, file.name


@pytest.mark.slow
def test_magika_is_mended(shared: Path, tmp_path: Path) -> None:
    file = shared / "models" / "magika_v33.onnx"
    report = onnx_admm.lint(file, fix=tmp_path / "mended.onnx", target="x86-vnni")
    assert report.fix is not None
    found = {"one_hot_product": 1, "whole_slice": 2}
    assert report.fix.rules == {**found, "gelu": 2, "layer_norm": 2, "function_of_rows": 2}
    assert report.fix.findings == ()
    assert report.fix.compared.startswith("equal")
