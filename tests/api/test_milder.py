"""The final comparison acts: what misses a promise is made again, milder; unseen errors are bounded."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_admm.api import compress
from onnx_admm.api.milder import MILDER, milder_recipe
from onnx_admm.calibration.roundings import RoundingSearch
from onnx_admm.config.flags import Flags, recipe_from_flags
from onnx_admm.contracts import Edit, PassContext, PassReport, SilentProgress
from onnx_admm.data import from_arrays
from onnx_admm.encoding.compression_options import Rounding, Treated
from onnx_admm.errors import OutputError
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.auto_quantize import AutoQuantize
from onnx_admm.passes.quantize_activations import QuantizeActivations
from onnx_admm.report.promises import Promise

RNG = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
NET = HEAD + "(float[N,32] x) => (float[N,8] y) { h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"
COUNTING = (
    HEAD
    + """(float[N,32] x) => (float[N] y) {
    h = MatMul (x, w) s = Sigmoid (h) g = Greater (s, half) f = Cast <to = 1> (g)
    y = ReduceSum <keepdims = 0> (f, axes) }"""
)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def missed(name: str, required: float, got: float) -> Promise:
    return Promise(name=name, what="too much", required=required, got=got, met=False, stated=False)


def bounds(recipe: object) -> list[tuple[float, float]]:
    return [
        (step.least_sqnr_db, step.blind_sqnr_db)
        for step in recipe.passes  # type: ignore[attr-defined]
        if isinstance(step, AutoQuantize)
    ]


@pytest.mark.parametrize(
    ("promise", "expected"),
    [
        (missed("sqnr_db", 20, 12), (33.0, 41.0)),
        (missed("sqnr_db", 20, 19.9), (28.0, 36.0)),
        (missed("sqnr_db", 20, -100), (42.0, 50.0)),
        (missed("agreement", 99, 60), (28.0, 36.0)),
    ],
)
def test_a_miss_asks_for_as_much_more_as_is_missing(promise: Promise, expected: tuple[float, float]) -> None:
    milder = milder_recipe(recipe_from_flags(Flags()), promise)
    assert milder is not None
    assert bounds(milder) == [expected]


def test_other_misses_and_other_recipes_ask_for_nothing() -> None:
    assert milder_recipe(recipe_from_flags(Flags()), None) is None
    assert milder_recipe(recipe_from_flags(Flags()), missed("size", 10, 20)) is None
    assert milder_recipe(recipe_from_flags(Flags(bits=2)), missed("sqnr_db", 10, 2)) is None


def test_a_result_that_misses_its_promise_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is made to believe anything at first: the comparison of the written file is what counts."""
    parse_text(NET, constants={"w": weights(32, 48), "v": weights(48, 8)}).save(tmp_path / "in.onnx")
    honest = AutoQuantize.run
    seen = []

    def careless(self, model, context):  # type: ignore[no-untyped-def]
        seen.append(self.least_sqnr_db)
        low = AutoQuantize(least_sqnr_db=3.0, blind_sqnr_db=3.0)
        return honest(low if len(seen) == 1 else self, model, context)

    monkeypatch.setattr(AutoQuantize, "run", careless)
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    assert len(seen) == 2
    assert seen[1] >= seen[0] + 6
    assert report.comparison.missed is None
    assert report.comparison.quality[0].judged_db["y"] >= 20
    assert any(line.startswith(MILDER) for line in report.notes)


def test_counts_are_judged_by_what_is_counted(tmp_path: Path) -> None:
    constants = {"w": weights(32, 64), "half": np.float32(0.5), "axes": np.array([1])}
    parse_text(COUNTING, constants=constants).save(tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1)
    (quality,) = report.comparison.quality
    assert set(quality.sqnr_by_output) == {"y"}
    (name,) = quality.judged_db
    assert name.startswith("y::score")
    assert quality.judged_db[name] >= 20
    assert report.comparison.file_ratio > 2


def test_what_no_sample_shows_counts_in_full() -> None:
    """A dead layer: every rounding of it leaves the outputs as they are, and none is free."""
    constants = {"w": weights(32, 48), "v": weights(48, 8)}
    model = parse_text(
        NET.replace("Relu (h)", "Mul (h, none)"), constants={**constants, "none": np.float32(0)}
    )
    data = from_arrays({"x": RNG.normal(size=(8, 32)).astype(np.float32)})
    layers = {"w": Treated(constants["w"], 1)}
    probe = OutputProbe(model, ["w"], data, threads=1)
    with SilentProgress().task("measure", 10) as task:
        search = RoundingSearch(layers, [probe], 10, task)
        found = search.confirmed([probe], 0.01, lambda _: True)
    chosen = found.choice["w"]
    assert chosen is not None
    assert layers["w"].expected_error(chosen) <= 0.01
    assert layers["w"].expected_error(Rounding(4)) > 0.01


@pytest.mark.parametrize(("tolerance", "most"), [(50.0, 0.0), (0.1, 1e-3), (1e-9, 0.0)])
def test_no_choice_of_roundings_is_tried_twice(tolerance: float, most: float) -> None:
    """Predictions stay where the error is small enough, or never."""
    constants = {"w": weights(32, 48), "v": weights(48, 8)}
    model = parse_text(NET, constants=constants)
    data = from_arrays({"x": RNG.normal(size=(8, 32)).astype(np.float32)})
    layers = {name: Treated(array, 1) for name, array in constants.items()}
    probe = OutputProbe(model, ["w", "v"], data, threads=1)
    tried = []
    with SilentProgress().task("measure", 10) as task:
        search = RoundingSearch(layers, [probe], 10, task)
        judged = search.judged

        def watched(choice, *rest):  # type: ignore[no-untyped-def]
            tried.append(tuple(choice.items()))
            return judged(choice, *rest)

        search.judged = watched  # type: ignore[method-assign]
        found = search.confirmed([probe], tolerance, lambda effect: effect.relative_error < most)
    assert (set(found.choice.values()) == {None}) == (most == 0.0)
    assert len(set(tried[1:])) == len(tried[1:])


def test_a_regressor_has_no_predictions(tmp_path: Path) -> None:
    constants = {"w": weights(32, 48), "v": weights(48, 8)}
    for output, shown in (("landmarks", False), ("logits", True)):
        text = NET.replace(" y)", f" {output})").replace("y = MatMul", f"{output} = MatMul")
        parse_text(text, constants=constants).save(tmp_path / "in.onnx")
        report = compress(tmp_path / "in.onnx", tmp_path / f"{output}.onnx", threads=1)
        assert (report.comparison.quality[0].agreement is not None) == shown
    assert ModelView.load(tmp_path / "landmarks.onnx").sites()


def test_integers_are_given_up_where_the_result_fails_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "net.onnx", tmp_path / "small.onnx"
    parse_text(NET, constants={"w": weights(32, 32), "v": weights(32, 8)}).save(source)
    asked: list[bool] = []

    def check(before: object, after: Path, data: object) -> None:
        integers = any(node.op_type == "QuantizeLinear" for node in ModelView.load(after).nodes())
        asked.append(integers)
        if len(asked) == 1:
            raise OutputError("the result computes something else", got="a lot")

    monkeypatch.setattr(sys.modules["onnx_admm.api.compress"], "check_runs", check)
    data = from_arrays({"x": RNG.normal(size=(64, 32)).astype(np.float32)})
    report = compress(source, target, data=data, threads=1)
    assert len(asked) == 2
    assert not asked[1]
    assert any(line.startswith("Activations stay in float: with integers, ") for line in report.notes)
    assert "quantize_activations" not in [step.name for step in report.steps]
    assert target.exists()


def test_integers_are_chosen_milder_before_they_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two misses: the second run still places integers, with a higher ratio; the third does not."""
    source, target = tmp_path / "net.onnx", tmp_path / "small.onnx"
    parse_text(NET, constants={"w": weights(32, 32), "v": weights(32, 8)}).save(source)
    asked: list[float] = []

    def careless(self: QuantizeActivations, model: ModelView, context: PassContext) -> PassReport:
        """Round a weight away: whatever is promised is missed."""
        asked.append(self.least_sqnr_db)
        model.replace("v", 0.5 * model.read(next(site for site in model.sites() if site.name == "v")))
        return PassReport(True, (Edit("v", "halved"),))

    monkeypatch.setattr(QuantizeActivations, "run", careless)
    data = from_arrays({"x": RNG.normal(size=(64, 32)).astype(np.float32)})
    report = compress(source, target, data=data, threads=1)
    assert len(asked) == 2
    assert asked[1] >= asked[0] + 6
    assert report.comparison.missed is None
    assert [line for line in report.notes if line.startswith("Activations stay in float: with integers, ")]
    assert not [line for line in report.notes if line.startswith(MILDER)]
    assert "least_sqnr_db = 25.0" in report.recipe
