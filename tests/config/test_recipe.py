"""Recipes: from TOML, from flags and back, and the sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_plugins import Scale
from hypothesis import given
from hypothesis import strategies as st

from onnx_admm.config.flags import Flags, default_epochs, parse_prune, recipe_from_flags
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import TrainingSettings
from onnx_admm.errors import RecipeError
from onnx_admm.passes.remove_channels import RemoveChannels

pytestmark = pytest.mark.usefixtures("scale_is_registered")

TEXT = """
provenance = false

[training]
batch_size = 32
augment = ["shift:2", "flip"]

[[pass]]
name = "scale"
factor = 2
layers = ["fc1", "fc2"]

[[pass]]
name = "scale"
mode = "some"
"""

RECIPE = Recipe(
    passes=(Scale(factor=2.0, layers=("fc1", "fc2")), Scale(mode="some")),
    training=TrainingSettings(batch_size=32, augment=("shift:2", "flip")),
    provenance=False,
)


def test_toml_becomes_the_passes(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TEXT)
    assert Recipe.load(tmp_path / "r.toml") == RECIPE


def test_dump_repeats_the_recipe_and_writes_defaults_out() -> None:
    text = RECIPE.dump()
    assert Recipe.parse(text) == RECIPE
    assert "temperature = 2.0" in text
    assert "rounds" not in text


@given(
    factor=st.floats(allow_nan=False, allow_infinity=False).filter(bool),
    layers=st.lists(st.text(max_size=5), max_size=3),
    rounds=st.none() | st.integers(-(2**40), 2**40),
)
def test_round_trip_of_any_settings(factor: float, layers: list[str], rounds: int | None) -> None:
    recipe = Recipe((Scale(factor=factor, layers=tuple(layers), rounds=rounds),))
    assert Recipe.parse(recipe.dump()) == recipe


def test_preprocessing_is_part_of_the_recipe() -> None:
    recipe = Recipe.parse("[preprocessing]\nscale = 0.5\nmean = [0.1, 0.2, 0.3]\n")
    assert recipe.preprocessing is not None
    assert recipe.preprocessing.scale == 0.5
    assert Recipe.parse(recipe.dump()) == recipe


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[pass]]\nname = "scal"', "r, pass 1: unknown pass 'scal'.*Did you mean 'scale'"),
        ("[[pass]]\nfactor = 2.0", "r, pass 1: a pass needs a name"),
        ("[[pass]]\nname = 3", "r, pass 1: a pass needs a name"),
        ('[[pass]]\nname = "scale"\nfaktor = 1.5', r"r, pass 1 \(scale\): unknown key 'faktor'.*'factor'"),
        ('[[pass]]\nname = "scale"\nfactor = "2"', r"pass 1 \(scale\), key 'factor': .*number; got '2'"),
        ('[[pass]]\nname = "scale"\nrounds = 1.5', "key 'rounds': .*got 1.5"),
        ('[[pass]]\nname = "scale"\nlayers = "fc1"', "key 'layers'.*got 'fc1'"),
        ('[[pass]]\nname = "scale"\nmode = "none"', "key 'mode': input should be 'all' or 'some'"),
        ('[[pass]]\nname = "scale"\nfactor = 0.0', r"pass 1 \(scale\): a factor of 0 erases the model"),
        ('[pass]\nname = "scale"', r"array of tables; expected \[\[pass\]\]"),
        ("[[passes]]\n", "r: unknown key 'passes'.*Did you mean 'pass'"),
        (
            "[training]\nbatch_size = 0",
            r"r, \[training\], key 'batch_size': input should be greater than or equal to 1; got 0",
        ),
        ("[training]\naverage_epochs = 0", "key 'average_epochs': input should be greater"),
        ("[training]\ndistillation_weight = 1.5", "key 'distillation_weight': input should be less"),
        ("[training]\ntemperature = 0.0", "key 'temperature': input should be greater"),
        ("[training]\nbatchsize = 3", r"r, \[training\]: unknown key 'batchsize'.*'batch_size'"),
        ("training = 3", r"r, \[training\]: not a table of settings; got 3"),
        ("provenance = 3", "key 'provenance': not true or false; got 3"),
        ("[preprocessing]\nscael = 0.5", r"r, \[preprocessing\]: unknown key 'scael'.*'scale'"),
        ("[[pass]", r"r: not TOML: .*line 1"),
    ],
)
def test_each_mistake_has_its_sentence(text: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        Recipe.parse(text, source="r")


def test_unreadable_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml: cannot read the file \(No such file"):
        Recipe.load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.toml: not a text file"):
        Recipe.load(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("samples", "epochs"),
    [(1, 60), (972, 60), (4267, 60), (6400, 40), (6401, 40), (7999, 32), (54_000, 8), (10**7, 8)],
)
def test_few_samples_are_seen_more_often(samples: int, epochs: int) -> None:
    assert default_epochs(samples, least=8) == epochs


def epochs_of(flags: Flags) -> dict[str, tuple[int, int]]:
    """Epochs and retraining epochs of each pass that trains."""
    return {
        step.name: (step.epochs, step.retrain_epochs)
        for step in recipe_from_flags(flags).passes
        if hasattr(step, "epochs") and hasattr(step, "retrain_epochs")
    }


def test_flags_without_epochs_go_by_the_samples() -> None:
    own = epochs_of(Flags(prune="2x", bits=4))
    assert epochs_of(Flags(prune="2x", bits=4, samples=6400)) == {
        "admm_prune": (40, 20),
        "admm_quantize": (40, own["admm_quantize"][1]),
    }
    assert epochs_of(Flags(prune="2x", bits=4, samples=10**7)) == own
    assert epochs_of(Flags(prune="2x", bits=4, samples=64, fine_tune=False)) == {}
    assert epochs_of(Flags(prune="2x", bits=4, samples=64, epochs=3))["admm_prune"] == (3, 2)
    assert epochs_of(Flags(samples=64)) == epochs_of(Flags())


def test_with_samples_activations_are_quantised_too_unless_weights_alone_are_asked() -> None:
    with_samples = recipe_from_flags(Flags(samples=64))
    names = [step.name for step in with_samples.passes]
    start = names.index("auto_quantize")
    behind = ["rewrite_for_runtime", "quantize_activations", "rewrite_for_runtime", "encode"]
    assert names[start + 1 : start + 5] == behind
    weights = next(step for step in with_samples.passes if step.name == "auto_quantize")
    assert weights.least_sqnr_db > type(weights)().least_sqnr_db
    alone = recipe_from_flags(Flags(samples=64, weights_only=True))
    assert alone == recipe_from_flags(Flags())
    assert "quantize_activations" not in [step.name for step in alone.passes]


def test_patterns_reach_both_passes() -> None:
    recipe = recipe_from_flags(Flags(samples=64, exclude=("stem",)))
    excluded = [step.name for step in recipe.passes if getattr(step, "exclude", ()) == ("stem",)]
    assert excluded == ["auto_quantize", "quantize_activations"]


def test_flags_become_passes_in_order() -> None:
    assert [step.name for step in recipe_from_flags(Flags()).passes] == [
        "share_constants", "fold_batchnorm", "fold_bias", "auto_quantize", "rewrite_for_runtime", "encode",
        "rewrite_for_runtime", "minify",
    ]  # fmt: skip
    assert [step.name for step in recipe_from_flags(Flags(prune="2x", bits=4)).passes] == [
        "share_constants", "fold_batchnorm", "fold_bias",
        "admm_prune", "admm_quantize", "drop_dead_channels", "rewrite_for_runtime", "encode",
        "rewrite_for_runtime", "minify",
    ]  # fmt: skip
    pattern = recipe_from_flags(Flags(prune="2:4", bits=4)).passes
    assert "drop_dead_channels" not in [step.name for step in pattern]  # fewer channels shift the groups
    *_, rewritten, _ = recipe_from_flags(Flags(bits=8, format="qdq")).passes
    assert rewritten.name == "rewrite_for_runtime"
    assert "relu_after_weight" in rewritten.rules


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("85x", {"ratio": 85.0}),
        ("1.5x", {"ratio": 1.5}),
        ("0.9", {"keep": 0.1}),
        (".25", {"keep": 0.75}),
        ("2:4", {"pattern": "2:4"}),
        ("1:16", {"pattern": "1:16"}),
    ],
)
def test_prune_targets(text: str, keys: dict[str, object]) -> None:
    assert parse_prune(text) == keys


@pytest.mark.parametrize(
    "text",
    ["0x", "1x", "-3x", "nanx", "infx", "x", "1.5", "1", "0", "0.0", "-0.5", "nan", "5:4", "4:4", "0:4", "2:",
     ":4", "2:4:8", "a:b", "lots", ""],
)  # fmt: skip
def test_impossible_prune_targets(text: str) -> None:
    with pytest.raises(RecipeError, match="--prune: impossible pruning target; got"):
        parse_prune(text)


# -- the target ------------------------------------------------------------------------------


def test_a_recipe_names_the_target() -> None:
    text = 'cost_model = "storage,format=dense"\n[bind]\nN = 1\n"x[1]" = 160\n'
    recipe = Recipe.parse(text)
    assert (recipe.cost_model, recipe.bind) == ("storage,format=dense", {"N": 1, "x[1]": 160})
    assert Recipe.parse(recipe.dump()) == recipe
    assert "cost_model" not in Recipe(()).dump()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('cost_model = "stroage"', "recipe, key 'cost_model': unknown cost model 'stroage'; .*'storage'"),
        ("cost_model = 3", "not the name of a cost model; got 3"),
        ("bind = 3", r"recipe, \[bind\]: not a table of extents; got 3"),
        ("[bind]\nN = 1.5", r"recipe, \[bind\], key 'N': not an extent; got 1.5"),
    ],
)
def test_a_target_that_is_none_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        Recipe.parse(text)


@pytest.mark.parametrize(
    ("former", "now"), [("choose_" + "treatments", "auto_quantize"), ("shorten_" + "names", "minify")]
)
def test_a_former_name_of_a_pass_names_the_present_one(former: str, now: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown pass '{former}'.*It is called '{now}' now"):
        Recipe.parse({"pass": [{"name": former}]}, source="r.toml")


@pytest.mark.parametrize(
    ("text", "quantity", "share"),
    [
        ("0.5x", "macs", 0.5),
        ("50%", "macs", 0.5),
        ("latency=0.4x", "latency", 0.4),
        (" size = 0.25", "size", 0.25),
    ],
)
def test_the_share_that_removal_leaves_is_read(text: str, quantity: str, share: float) -> None:
    step = next(s for s in recipe_from_flags(Flags(remove=text)).passes if s.name == "remove_channels")
    assert isinstance(step, RemoveChannels)
    assert (step.quantity, step.keep) == (quantity, pytest.approx(share))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2x", "impossible share"),
        ("0", "impossible share"),
        ("half", "impossible share"),
        ("speed=0.5x", "unknown quantity"),
    ],
)
def test_an_impossible_removal_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=f"--remove: {sentence}"):
        recipe_from_flags(Flags(remove=text))


def test_removal_stands_before_what_prunes_and_quantises_and_trains_alone() -> None:
    names = [step.name for step in recipe_from_flags(Flags(remove="0.5x", epochs=3)).passes]
    assert names[3:5] == ["remove_channels", "fine_tune"]
    both = recipe_from_flags(Flags(remove="0.5x", bits=4))
    assert [step.name for step in both.passes][3:5] == ["remove_channels", "admm_quantize"]
    assert both.fine_tune
    plain = recipe_from_flags(Flags(remove="0.5x", fine_tune=False))
    assert [step.name for step in plain.passes][3:5] == ["remove_channels", "auto_quantize"]
    assert not plain.fine_tune


def test_a_latency_budget_counts_what_exact_rewrites_save() -> None:
    """The rewrites stand before the layers that are timed."""
    names = [step.name for step in recipe_from_flags(Flags(budget=("latency=0.4x",), samples=100)).passes]
    assert names.index("rewrite_for_runtime") < names.index("meet_latency")


def test_a_share_of_the_latency_is_of_this_machine_unless_a_target_is_named() -> None:
    assert recipe_from_flags(Flags(remove="latency=0.8x")).cost_model == "onnxruntime"
    named = recipe_from_flags(Flags(remove="latency=0.8x", cost_model="onnxruntime:arm64"))
    assert named.cost_model == "onnxruntime:arm64"
    assert recipe_from_flags(Flags(remove="0.8x")).cost_model is None
