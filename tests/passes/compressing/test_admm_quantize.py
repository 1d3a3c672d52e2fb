"""AdmmQuantize: few values, zeros kept, grids that can be read back from the values."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import TWO_GEMMS, context_of_gemms

from onnx_admm.admm.sets.levels import Levels, SupportLevels
from onnx_admm.contracts import ModelView
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.admm_quantize import SCALE_BITS, AdmmQuantize


def pruned_mlp() -> ModelView:
    model = parse_text(TWO_GEMMS)
    weights = model.read("w1")
    weights[np.abs(weights) < np.median(np.abs(weights))] = 0
    model.replace("w1", weights)
    return model


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("bits", "per_channel"), [(1, False), (2, False), (4, True), (8, True)])
def test_every_weight_lies_on_its_grid_and_zeros_stay(bits: int, per_channel: bool, trained: bool) -> None:
    model = pruned_mlp()
    quantize = AdmmQuantize(bits=(bits, max(bits, 2)), per_channel=per_channel, epochs=2)
    report = quantize.run(fork := model.fork(), context_of_gemms(model, trained=trained))
    mask = model.read("w1") != 0
    assert np.array_equal(fork.read("w1") != 0, mask)
    axes = (1, 0) if per_channel else (None, None)
    assert SupportLevels(mask, bits, axis=axes[0], scale_bits=SCALE_BITS).contains(fork.read("w1"))
    assert Levels(max(bits, 2), axis=axes[1], scale_bits=SCALE_BITS).contains(fork.read("w2"))
    assert report.changed


@pytest.mark.parametrize("per_channel", [False, True])
def test_eight_bits_fit_a_byte_beside_zeros_too(per_channel: bool) -> None:
    """With +-128 q beside zero there would be 257 levels."""
    model = pruned_mlp()
    AdmmQuantize(bits=8, per_channel=per_channel).run(fork := model.fork(), context_of_gemms(model))
    weight = Weight("w1", fork.read("w1"))
    assert (weight.channel_grid if per_channel else weight.grid) is not None
    assert not fork.read("w1")[model.read("w1") == 0].any()


def test_a_layer_without_zeros_at_one_bit_has_two_values() -> None:
    model = parse_text(TWO_GEMMS)
    AdmmQuantize(bits=1).run(fork := model.fork(), context_of_gemms(model))
    assert len(np.unique(fork.read("w1"))) == 2


def test_quantising_twice_without_training_changes_nothing() -> None:
    model = pruned_mlp()
    AdmmQuantize(bits=3).run(once := model.fork(), context_of_gemms(model))
    report = AdmmQuantize(bits=3).run(twice := once.fork(), context_of_gemms(model))
    assert not report.changed
    assert np.array_equal(once.read("w1"), twice.read("w1"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bits": 0}, "impossible number of bits"),
        ({"bits": 2.5}, "impossible number of bits"),
        ({"bits": (4, 9)}, "impossible number of bits"),
        ({"fractions": (0.5, 0.9)}, "impossible fractions"),
        ({"fractions": (0.9, 0.5, 1.0)}, "impossible fractions"),
        ({"exclude": ("*",)}, "no layer matches"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(settings: dict[str, object], sentence: str) -> None:
    model = parse_text(TWO_GEMMS)
    with pytest.raises(PassRefused, match=sentence):
        AdmmQuantize(**settings).requires(model, context_of_gemms(model))  # type: ignore[arg-type]


@pytest.mark.parametrize("zeros", [3, 25])
def test_a_few_exact_zeros_ask_for_no_index(zeros: int) -> None:
    model = parse_text(TWO_GEMMS)
    weight = model.read("w1")
    weight.flat[:zeros] = 0.0
    model.replace("w1", weight)
    AdmmQuantize(bits=4, per_channel=False).run(model, context_of_gemms(model))
    levels = len(np.unique(model.read("w1")))
    assert levels <= 16, "zero is one of the levels, and not a seventeenth value"
