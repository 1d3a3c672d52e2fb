"""Numbers that users state: infinite, NaN, negative and impossible ones get a sentence and exit code 2."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import RunCommand
from fake_plugins import Scale

from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import COST_MODELS, PASSES, cost_model, shipped_profiles
from onnx_admm.contracts import ModelView, TrainingSettings
from onnx_admm.data import Preprocessing
from onnx_admm.errors import PassRefused, RecipeError, UsageError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.passes.fine_tune import FineTune
from onnx_admm.passes.reconstruct_layers import ReconstructLayers
from onnx_admm.pipeline import Pipeline
from onnx_admm.settings.ranges import check_ranges, parse_pattern
from onnx_admm.settings.tables import build, read_toml
from onnx_admm.targeting.quantities import parse_budgets


@pytest.mark.parametrize(
    "arguments",
    [
        f"compress net.onnx out.onnx {flags}"
        for flags in (
            "--prune 1e400x",
            "--prune 1e999999999x",
            "--prune nan",
            "--prune nanx",
            "--prune infx",
            "--prune -3x",
            "--prune -0.5",
            "--prune 1:99999999999999999999",
            "--prune ²:4",
            "--bits 0",
            "--bits -1",
            "--bits 99999999999999999999",
            "--epochs 99999999999999999999",
            "--seed -1",
            "--seed 99999999999999999999999",
            "--threads -1",
            "--threads 1000000000",
            "--memory -5",
            "--memory 99999999999999999999",
            "--jobs 0",
            "--jobs 1000000000",
            "--data train.npz --max-drop nan",
            "--data train.npz --max-drop inf",
            "--data train.npz --max-drop -1",
            "--data train.npz --max-drop 101",
            "--budget size=nanx --cost-model storage",
            "--budget size=infx --cost-model storage",
            "--budget size=1e400x --cost-model storage",
            "--budget size=1e-400x --cost-model storage",
            "--budget size=-2x --cost-model storage",
            "--cost-model macs --bind N=99999999999999999999",
            "--cost-model macs --bind N=-1",
            "--cost-model macs --bind N=nan",
            f"--cost-model macs --bind N={'9' * 5000}",
            "--cost-model admm-nn,dense_gmac_s=inf",
            "--cost-model admm-nn,dense_gmac_s=nan",
            "--cost-model admm-nn,k=-1",
            "--cost-model onnxruntime,threads=0",
            "--cost-model onnxruntime,threads=99999999",
        )
    ]
    + [
        "inspect net.onnx --cost-model macs --bind N=2147483648",
        "inspect net.onnx --cost-model roofline:raspberry-pi-4,bandwidth_gb_s=-inf --bind N=1",
        "compare net.onnx net.onnx --max-drop inf",
        "compare net.onnx net.onnx --min-ratio nan",
        "compare net.onnx net.onnx --min-ratio inf",
        "compare net.onnx net.onnx --threads -1",
        "compare net.onnx net.onnx --threads 1000000000",
        "sweep net.onnx --out sweep --cost-model storage --shares nan",
        "sweep net.onnx --out sweep --cost-model storage --shares 0.5,inf",
        "sweep net.onnx --out sweep --cost-model storage --shares 1e-400",
        "sweep net.onnx --out sweep --cost-model storage --epochs -1",
        "sweep net.onnx --out sweep --cost-model storage --seed -1",
    ],
    ids=lambda arguments: arguments[:70],
)
def test_each_flag(run: RunCommand, net: Path, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    monkeypatch.chdir(net.parent)
    np.savez("train.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    before = sorted(os.listdir())
    code, out, err = run(*arguments.split())
    assert (code, out) == (2, ""), err
    assert "unexpected" not in err
    assert "Traceback" not in err
    assert [name for name in sorted(os.listdir()) if name != "sweep"] == before


KINDS = "int|float|Positive|NonNegative|Share|PositiveShare|Ratio|Epochs|Rounds|Samples|Bits|Finite|Threads"
NUMBER = re.compile(rf"({KINDS})( \| None)?")


def numeric_fields(cls: type) -> list[str]:
    """Fields whose annotation names one number, from the source of the class."""
    return [key for key, annotation in cls.__annotations__.items() if NUMBER.fullmatch(annotation)]


@pytest.mark.parametrize("name", PASSES.names())
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -7, 10**30])
def test_each_number_of_each_pass(name: str, value: float) -> None:
    cls = PASSES.get(name)
    for key in numeric_fields(cls):
        if value == 10**30 and key in UNBOUNDED:
            continue
        if (key, value) in ALLOWED:
            continue
        with pytest.raises((RecipeError, PassRefused)) as refused:
            Recipe.parse({"pass": [{"name": name, key: value}]})
        assert key in str(refused.value)


UNBOUNDED = {"learning_rate", "end_rate", "rho_start", "rho_end", "ridge", "slowdown", "ratio"}
UNBOUNDED |= {"least_sqnr_db", "blind_sqnr_db", "least_alone_db"}
ALLOWED = {("least_sqnr_db", -7)}
"""Any finite number will do: decibels below 0, for one."""


def test_the_passes_have_numbers_to_check() -> None:
    assert sum(len(numeric_fields(PASSES.get(name))) for name in PASSES.names()) > 20


@pytest.mark.parametrize("value", [math.inf, math.nan, -1])
@pytest.mark.parametrize("key", sorted(numeric_fields(TrainingSettings)))
def test_each_number_of_training(key: str, value: float) -> None:
    with pytest.raises(RecipeError, match=key):
        Recipe.parse({"training": {key: value}})


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -7])
def test_each_number_of_each_profile(value: float) -> None:
    """Whole tables too: every number of every shipped profile in turn."""
    seen = 0
    for name in COST_MODELS.names():
        cls = COST_MODELS.get(name)
        for file in shipped_profiles(cls).values():
            table = read_toml(file)
            for key, content in table.items():
                changed = with_number(content, value)
                if changed is not None:
                    seen += 1
                    with pytest.raises(RecipeError):
                        build(cls, {**table, key: changed}, file.name)
    assert seen > 20


def with_number(content: object, value: float) -> object:
    """Return the content with its first number replaced; None where it has none."""
    if isinstance(content, dict):
        for key, entry in content.items():
            if (changed := with_number(entry, value)) is not None:
                return {**content, key: changed}
    if isinstance(content, list):
        for place, entry in enumerate(content):
            if (changed := with_number(entry, value)) is not None:
                return [*content[:place], changed, *content[place + 1 :]]
    if isinstance(content, int | float) and not isinstance(content, bool):
        return value
    return None


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"scale": math.nan}, "scale"),
        ({"scale": 1e300}, "scale"),
        ({"mean": [math.inf]}, "mean"),
        ({"std": [1e-60]}, "std"),
        ({"std": []}, "std"),
        ({"size": [0, 3]}, "size"),
        ({"size": [100000, 100000]}, "size"),
        ({"size": [-5, -5]}, "size"),
    ],
)
def test_preprocessing(table: dict[str, object], key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        build(Preprocessing, table, "p.toml")


@pytest.mark.parametrize("extent", [0, -1, 2**31, 10**30])
def test_extents_in_a_recipe(extent: int) -> None:
    with pytest.raises(RecipeError, match=r"\[bind\], key 'N': not an extent"):
        Recipe.parse({"bind": {"N": extent}})


@pytest.mark.parametrize("text", ["size=1e-10x", "size=1e10x", "size=nanx", "size=0x", "size=1x"])
def test_budgets(text: str) -> None:
    with pytest.raises(UsageError, match="impossible budget"):
        parse_budgets([text])
    assert parse_budgets(["size=1e-9x"]) == {"size": 1e-9}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:4", (2, 4)),
        ("4:4", None),
        ("0:4", None),
        ("²:4", None),
        ("1:99999", None),
        ("-1:4", None),
        (":", None),
    ],
)
def test_patterns(text: str, expected: tuple[int, int] | None) -> None:
    assert parse_pattern(text) == expected


@pytest.mark.parametrize(
    "step",
    [
        FineTune(epochs=-1),
        AdmmPrune(ratio=math.inf),
        AdmmPrune(keep=math.nan),
        ReconstructLayers(bits=4, ridge=-1.0),
    ],
)
def test_a_pass_made_in_python_is_checked_before_any_runs(tiny_mlp: ModelView, step: object) -> None:
    with pytest.raises(RecipeError, match=r"pass 2 of 2, .*, key "):
        Pipeline([Scale(), step]).run(tiny_mlp)  # type: ignore[list-item]


def test_numpy_numbers_are_numbers() -> None:
    check_ranges(AdmmPrune(ratio=np.float32(3), epochs=np.int64(2)), "p")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"p, key 'epochs'"):
        check_ranges(AdmmPrune(ratio=3.0, epochs=-2), "p")


def test_a_ratio_that_keeps_no_weight_is_refused() -> None:
    view = parse_text(
        '<ir_version: 10, opset_import: ["" : 17]> m (float[1,4] x) => (float[1,4] y) <float[4,4] w>'
        " { y = MatMul (x, w) }"
    )
    with pytest.raises(PassRefused, match=r"not a single weight would be kept; .* at most 16"):
        Pipeline([ReconstructLayers(ratio=17.0)]).run(view)


def test_a_cost_model_of_impossible_figures() -> None:
    with pytest.raises(RecipeError, match="uncertainty"):
        cost_model("roofline:raspberry-pi-4,uncertainty=-0.5")
