"""Which layers a recipe's ``[layers]`` is about, and the sentences where it cannot be had."""

from __future__ import annotations

from typing import Any

import pytest

from onnx_admm.config.layer_table import layers_of_flags, layers_table, parse_layers
from onnx_admm.contracts import LayerSetting
from onnx_admm.errors import RecipeError
from onnx_admm.model.sites import WeightSite
from onnx_admm.selection.layer_settings import find_layers, fixed_by_recipe
from onnx_admm.selection.layers import choose_sites


def site(name: str, op_type: str = "Conv", *, scope: str = "", fixed: str | None = None) -> WeightSite:
    return WeightSite(
        name, op_type, (2, 2), "float32", 0, 1, 1, (f"node_{name}",), scope, fixed is None, fixed
    )


SITES = (site("conv1"), site("conv2"), site("fc", "Gemm"), site("inner", scope="If"), site("out", fixed="is"))
EIGHT, FLOAT, TENTH = LayerSetting(bits=8), LayerSetting(is_float=True), LayerSetting(keep=0.1)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"conv*": EIGHT}, {"conv1": EIGHT, "conv2": EIGHT}),
        ({"Gemm": TENTH}, {"fc": TENTH}),
        ({"conv*": EIGHT, "conv1": FLOAT}, {"conv1": FLOAT, "conv2": EIGHT}),
        (
            {"fc": EIGHT, "*": FLOAT},
            {"fc": EIGHT, **dict.fromkeys(("conv1", "conv2", "inner", "out"), FLOAT)},
        ),
        ({"f*": EIGHT, "Gemm": TENTH}, {"fc": LayerSetting(bits=8, keep=0.1)}),
    ],
)
def test_patterns_name_layers_or_operators(
    asked: dict[str, LayerSetting], found: dict[str, LayerSetting]
) -> None:
    assert {name: each.setting for name, each in find_layers(asked, SITES).items()} == found


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"head*": EIGHT}, "no layer matches the pattern; got head"),
        ({"conv*": EIGHT, "*2": FLOAT}, "layer conv2: two patterns ask for different things"),
        ({"conv*": EIGHT, "Conv": LayerSetting(bits=4)}, "8 bits by 'conv.' and 4 bits by 'Conv'"),
        ({"f*": TENTH, "Gemm": LayerSetting(keep=0.2)}, "0.1 of the weights by 'f.' and 0.2"),
        ({"inner": EIGHT}, "8 bits, and the weight is in the subgraph If"),
        ({"out": TENTH}, "0.1 of the weights, and the weight is"),
    ],
)
def test_what_cannot_hold_is_a_sentence(asked: dict[str, LayerSetting], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence) as error:
        find_layers(asked, SITES)
    assert error.value.exit_code == 2


def test_a_renamed_weight_is_found_by_its_readers() -> None:
    layers = find_layers({"fc": FLOAT}, SITES)
    renamed = WeightSite("fc_turned", "MatMul", (2, 2), "float32", 0, 1, 1, ("node_fc",))
    assert set(fixed_by_recipe(layers, (site("conv1"), renamed))) == {"fc_turned"}
    assert set(fixed_by_recipe(layers, SITES)) == {"fc"}


def test_the_other_weight_of_a_node_is_no_renamed_one() -> None:
    both = [WeightSite(name, "LSTM", (1, 8, 2), "float32", 1, 2, 1, ("cell",)) for name in ("w", "r")]
    layers = find_layers({"w": FLOAT}, both)
    renamed = WeightSite("w2", "LSTM", (1, 8, 2), "float32", 1, 2, 1, ("cell",))
    assert set(fixed_by_recipe(layers, (renamed, both[1]))) == {"w2"}


def test_a_layer_of_bits_is_open_to_integers_and_a_float_one_is_not() -> None:
    fixed = fixed_by_recipe(find_layers({"conv1": EIGHT, "conv2": FLOAT, "fc": TENTH}, SITES), SITES)
    set_sites = [
        WeightSite(s.name, s.op_type, s.shape, s.dtype, 0, 1, 1, s.users, "", False, h.why, h)
        for s in SITES[:3]
        for h in [fixed[s.name]]
    ]
    free = [site("free")]
    assert [s.name for s in choose_sites([*set_sites, *free], (), ())[0]] == ["free"]
    assert [s.name for s in choose_sites([*set_sites, *free], (), (), keeps_values=True)[0]] == [
        "conv1",
        "free",
    ]
    assert {name: each.may_be_encoded for name, each in fixed.items()} == {
        "conv1": True,
        "conv2": False,
        "fc": True,
    }


def test_a_table_and_flags_say_the_same() -> None:
    table: dict[str, Any] = {"head*": {"bits": 8}, "stem": "float", "fc*": {"bits": 4, "keep": 0.1}}
    assert layers_of_flags(["head*=8", "stem=float", "fc*=keep=0.1, bits=4"]) == table
    assert layers_table(parse_layers(table, "recipe")) == table


@pytest.mark.parametrize(
    "text", ["fc", "=8", "fc=", "fc=eight", "fc=bits=8,bits=4", "fc=size=3", "fc=8,keep"]
)
def test_a_flag_that_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--layer: not a layer's setting"):
        layers_of_flags([text])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (8, "not a layer's setting"),
        ("int8", "not a layer's setting"),
        ({}, "not a layer's setting"),
        ({"bits": 9}, "impossible number of bits"),
        ({"bits": True}, "impossible number of bits"),
        ({"keep": 0}, "impossible share to keep"),
        ({"keep": float("nan")}, "impossible share to keep"),
        ({"bit": 8}, "'bit'"),
    ],
)
def test_an_impossible_value_of_a_recipe_is_refused(value: object, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        parse_layers({"fc": value}, "recipe")
