"""What decoding holds on the way: bytes as long as it can, and no kept weights to place where digits do."""

from __future__ import annotations

import numpy as np
import pytest
from test_encoding_coders import evaluate

from onnx_admm.encoding.choice import choose_plan
from onnx_admm.encoding.coders.accounting import packed_bytes
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.dense_coder import DenseCoder
from onnx_admm.encoding.large import packed_alone
from onnx_admm.model.rewrite.fragment import Fragment


def weight_of(shape: tuple[int, int], density: float, levels: int, *, channels: bool = True) -> Weight:
    rng = np.random.default_rng(1)
    codes = (
        rng.integers(1, levels // 2 + 1, shape) * rng.choice([-1, 1], shape) * (rng.random(shape) < density)
    )
    scale = 2.0 ** -rng.integers(1, 9, (shape[0], 1)) if channels else 0.25
    return Weight("w", (codes * scale).astype(np.float32))


@pytest.mark.parametrize("channels", [True, False])
def test_kept_weights_of_a_large_layer_are_placed_as_bytes(channels: bool) -> None:
    weight = weight_of((512, 512), 0.15, 14, channels=channels)
    form = packed_alone(weight)
    assert form is not None
    assert form.has_gaps
    fragment = Fragment(11)
    output = form.emit(fragment)
    values = evaluate(fragment)
    np.testing.assert_array_equal(values[output], weight.values)
    made = sum(value.nbytes for name, value in values.items() if name not in fragment.constants)
    kept = int(np.count_nonzero(weight.values))
    # As floats twice (half floats and once where one scale is enough), before that three times as bytes.
    dense = (2 * 4 + 3 * 1) if channels else (4 + 3 * 2)
    per_kept = 90  # bits three times, positions as integers, values
    assert made <= dense * weight.size + per_kept * kept


def test_together_they_are_placed_as_bytes_too() -> None:
    weights = [Weight(f"w{i}", weight_of((300, 150), 0.1, 14).values * (i + 1)) for i in range(2)]
    plan = choose_plan(weights, [], 17)
    (group,) = plan.groups
    assert "gaps" in group.coder.label
    fragment, outputs = plan.emit(17)
    values = evaluate(fragment)
    for weight in weights:
        np.testing.assert_array_equal(values[outputs[weight.name]], weight.values)
    types = {value.dtype.name for name, value in values.items() if name not in fragment.constants}
    assert types == {"float32", "int32", "int64", "int8", "uint8"}
    wide = sum(value.nbytes for value in values.values() if value.dtype == np.int64)
    kept = sum(int(np.count_nonzero(weight.values)) for weight in weights)
    assert wide <= 25 * kept  # places as TopK gives them, and sums, which numpy makes as wide


@pytest.mark.parametrize("shape", [(160, 160), (1024, 1024)])  # one of many weights, and by itself
def test_digits_are_taken_where_gaps_would_save_less_than_a_tenth(shape: tuple[int, int]) -> None:
    for density, has_gaps in ((0.55, False), (0.2, True)):  # 1.55 and 0.93 bits of gaps, 1.6 of digits
        weight = weight_of(shape, density, 2)
        alone = packed_alone(weight)
        (row,) = (alone.row,) if alone is not None else choose_plan([weight], [], 17).rows()
        assert ("gaps" in row.coding) == has_gaps
        expected = packed_bytes(weight.size, weight.nonzeros, 2)
        assert row.data_bits + row.index_bits == pytest.approx(8 * expected, rel=0.02)


def test_of_as_many_bits_the_words_are_taken_that_need_fewer_lookups() -> None:
    levels = tuple(float(level) for level in range(-7, 8))
    bytes_, words = DenseCoder(levels, 8), DenseCoder(levels, 16)
    assert (bytes_.bits, words.bits) == (4, 4)
    assert (bytes_.lookups(1 << 20), words.lookups(1 << 20)) == (1 << 19, 1 << 18)
    assert (bytes_.lookups(1 << 19), words.lookups(1 << 19)) == (
        1 << 18,
        1 << 19,
    )  # too few for a table of words
    form = packed_alone(weight_of((512, 256), 0.95, 14))
    assert form is not None
    fragment = Fragment(11)
    form.emit(fragment)
    assert max(fragment.constants.values(), key=lambda constant: constant.nbytes).dtype == np.uint8
