"""Forms of linear layers by measured gain and error; both are made up here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from onnx_admm.contracts import ModelView
from onnx_admm.measurement.sensitivity import Effect
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.quantization.linear.forms import LinearForm, find_linear_layers
from onnx_admm.quantization.linear.search import Chosen, Confirmation, LinearSearch

D, W = LinearForm.DYNAMIC, LinearForm.WEIGHT_ONLY
NAMES = ("a", "b", "c", "d", "e", "f")
CHAIN = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    chain (float[1,16] x) => (float[1,24] y)
    <{", ".join(f"float[16,16] {name}" for name in "abcd")}, float[16,24] e, float[24,24] f>
    {{ h1 = MatMul (x, a) h2 = MatMul (h1, b) h3 = MatMul (h2, c) h4 = MatMul (h3, d) h5 = MatMul (h4, e)
       y = MatMul (h5, f) }}"""

Amounts = Mapping[tuple[str, LinearForm], float]


def forms_in(view: ModelView) -> dict[str, LinearForm]:
    """The form of each layer of a model."""
    inputs = {"MatMulInteger": (1, D), "DequantizeLinear": (0, W)}
    found = {}
    for node in view.nodes():
        if node.op_type in inputs:
            index, form = inputs[node.op_type]
            value = node.input(index)
            assert value is not None
            found[value.name.removesuffix("_codes")] = form
    return found


def total(view: ModelView, amounts: Amounts) -> float:
    return sum(amounts.get(item, 0.0) for item in forms_in(view).items())


class Searched:
    """A search with made-up savings and errors, the layers of all forms on offer."""

    def __init__(
        self,
        saves: Amounts,
        errors: Amounts,
        most_error: float = 1.0,
        holds: Callable[[dict[str, LinearForm]], bool] = lambda forms: True,
        unseen: float = 0.0,
    ) -> None:
        self.tried: list[dict[str, LinearForm]] = []
        view = parse_text(CHAIN)
        layers, _ = find_linear_layers(view, set(NAMES), list(LinearForm), 127)

        def error(model: ModelView) -> float:
            self.tried.append(forms_in(model))
            return total(model, errors)

        def latencies(models: Sequence[ModelView]) -> list[float]:
            return [1.0 - total(model, saves) for model in models]

        def confirm(model: ModelView) -> Confirmation:
            return Confirmation(
                Effect({"y": 0.0}, None), holds(forms_in(model)), unseen * total(model, errors)
            )

        self.search = LinearSearch(view, layers, latencies, error, confirm, most_error)
        self.chosen: Chosen | None = self.search.best()
        self.layers = {layer.name: layer for layer in layers}

    @property
    def forms(self) -> dict[str, LinearForm]:
        return {} if self.chosen is None else dict(self.chosen.choice)

    def why_not(self, name: str, form: LinearForm) -> str:
        return self.search.why_not(self.layers[name], form, self.chosen)


def of_all(dynamic: float, weight_only: float) -> dict[tuple[str, LinearForm], float]:
    return {(name, form): dynamic if form is D else weight_only for name in NAMES for form in LinearForm}


def test_each_shape_takes_the_form_that_saves_most() -> None:
    saves = of_all(0.1, 0.05) | {("e", D): 0.01, ("f", D): -0.2, ("f", W): -0.1}
    found = Searched(saves, {})
    assert found.forms == {**dict.fromkeys("abcd", D), "e": W}
    assert found.chosen is not None
    assert forms_in(found.chosen.model) == found.forms
    assert len(found.tried) == 1
    assert found.why_not("a", W) == "it would save 20.0% of the latency"
    assert found.why_not("f", D) == "it would take 20.0% of the latency more"
    assert found.search.saving(found.layers["a"], D) == pytest.approx(0.4)


def test_nothing_is_chosen_and_no_error_measured_where_nothing_saves_time() -> None:
    found = Searched(of_all(-0.1, 0.001), {})
    assert found.chosen is None
    assert not found.tried
    assert found.why_not("e", W) == "it is no faster"


def test_the_other_form_is_taken_where_the_faster_one_loses_too_much() -> None:
    found = Searched(of_all(0.1, 0.05), of_all(1.0, 0.01), most_error=0.1)
    assert set(found.forms.values()) == {W}
    assert set(found.forms) == set(NAMES)


def test_one_layer_that_loses_too_much_is_found_by_halves() -> None:
    errors = of_all(0.01, 0.01) | {("c", D): 5.0, ("c", W): 4.0}
    found = Searched(of_all(0.1, 0.05), errors, most_error=0.1)
    assert set(found.forms) == set(NAMES) - {"c"}
    assert set(found.forms.values()) == {D}
    assert found.why_not("c", D) == "it alone leaves the outputs -7.0 dB"


def test_no_more_choices_are_measured_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_admm.quantization.linear.search._MOST_TRIALS", 3)
    found = Searched(of_all(0.1, 0.05), of_all(1.0, 1.0), most_error=0.1)
    assert found.chosen is None
    assert len(found.tried) == 3
    assert "3 choices are measured at most" in found.why_not("a", D)


def test_a_choice_that_fails_on_unseen_samples_makes_the_tolerance_stricter() -> None:
    found = Searched(
        of_all(0.1, -0.1), of_all(0.02, 0.02), most_error=0.2, holds=lambda forms: len(forms) <= 3
    )
    assert len(found.forms) == 3
    assert found.why_not("f", D) == "with it the outputs are not kept on unseen samples"


def test_the_tolerance_follows_the_error_on_unseen_samples() -> None:
    """The error is a tenth more than allowed there: five of six layers are within it, not three."""
    found = Searched(
        of_all(0.1, -0.1),
        of_all(0.1, 0.1),
        most_error=0.605,
        holds=lambda forms: len(forms) < 6,
        unseen=1.1 / 0.605,
    )
    assert len(found.forms) == 5


def test_a_choice_that_never_holds_is_not_taken() -> None:
    found = Searched(of_all(0.1, -0.1), {}, holds=lambda forms: False)
    assert found.chosen is None
    assert found.why_not("a", D) == "with it the outputs are not kept on unseen samples"


def test_forms_that_save_time_apart_but_not_together_are_not_taken() -> None:
    found = Searched(of_all(0.1, 0.05), {})
    search = replace(
        found.search, latencies=lambda models: [0.9 if len(forms_in(each)) < 6 else 1.1 for each in models]
    )
    assert search.best() is None
