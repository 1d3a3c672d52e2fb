"""Preprocessing: the formula, the keys, and the mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_admm.data import Preprocessing
from onnx_admm.errors import RecipeError
from onnx_admm.settings.tables import build

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 2), np.uint8)


def test_the_formula_is_pixel_times_scale_minus_mean_over_std() -> None:
    formula = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    mean, std = np.array(formula.mean)[:, None, None], np.array(formula.std)[:, None, None]
    expected = (PIXELS / 255 - mean) / std
    np.testing.assert_allclose(formula.apply(PIXELS, 1), expected, rtol=1e-5, atol=1e-6)
    last = np.moveaxis(formula.apply(np.moveaxis(PIXELS, 1, 3), 3), 3, 1)
    np.testing.assert_array_equal(last, formula.apply(PIXELS, 1))


def test_without_keys_pixels_stay_and_one_number_stands_for_all_channels() -> None:
    np.testing.assert_array_equal(Preprocessing().apply(PIXELS, 1), PIXELS)
    one = Preprocessing(scale=2, mean=(1,), std=(4,))
    for axis in (1, None):
        np.testing.assert_array_equal(one.apply(PIXELS, axis), (PIXELS * 2.0 - 1) / 4)


def test_a_table_of_keys() -> None:
    table = {"scale": 0.5, "mean": [1, 2, 3], "layout": "NHWC", "size": [8, 9], "channels": "BGR"}
    assert build(Preprocessing, table, "p") == Preprocessing(
        scale=0.5, mean=(1.0, 2.0, 3.0), layout="NHWC", size=(8, 9), channels="BGR"
    )


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"scael": 1}, "p: unknown key 'scael'; expected one of scale, mean, std, .* Did you mean 'scale'?"),
        ({"std": [1, 0]}, "p: std: zero as a divisor of pixels; got"),
        ({"mean": [float("nan")]}, "p, key 'mean': a number that is not finite"),
        ({"mean": []}, "p: mean: a number is missing or not finite"),
        ({"scale": "big"}, "p, key 'scale': .*valid number; got 'big'"),
        ({"scale": float("inf")}, "p, key 'scale': a number that is not finite"),
        ({"layout": "NWHC"}, "p, key 'layout': .*'NCHW'.*; got 'NWHC'"),
        ({"size": [0, 3]}, r"p: size: an empty image, or one too large; got \[0, 3\]"),
        ({"size": 32}, "p, key 'size': "),
    ],
)
def test_mistakes(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        build(Preprocessing, table, "p")
