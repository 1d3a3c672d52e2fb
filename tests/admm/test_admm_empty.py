"""Tensors without elements have an answer in every set: themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from onnx_admm.admm.sets.approximate_scale import approximate_levels
from onnx_admm.admm.sets.blocks import GlobalAtMostK, JointChannels, Separable, TiedChannels
from onnx_admm.admm.sets.int8_per_channel import ByteLevels
from onnx_admm.admm.sets.levels import Levels, SparseLevels, SupportLevels
from onnx_admm.admm.sets.nested import Nested
from onnx_admm.admm.sets.reshaped import Reshaped
from onnx_admm.admm.sets.scale import CodeRange
from onnx_admm.admm.sets.set_decomposition import decompose, exchange_groups_of
from onnx_admm.admm.sets.shifted import ShiftedLevels
from onnx_admm.admm.sets.supports import AtMostK, BlockK, ChannelK, ConstraintSet, NofM, Support

Shape = tuple[int, ...]
SETS: dict[str, Callable[[Shape, int], ConstraintSet]] = {
    "at_most_k": lambda shape, axis: AtMostK(3),
    "n_of_m": lambda shape, axis: NofM(2, 4, axis=axis),
    "block": lambda shape, axis: BlockK((2,), 1),
    "whole_block": lambda shape, axis: BlockK((0,) * len(shape), 1),
    "channel": lambda shape, axis: ChannelK((axis,), 2),
    "channels": lambda shape, axis: ChannelK(tuple(range(len(shape))), 0),
    "support": lambda shape, axis: Support(np.ones(shape, np.bool_)),
    "levels": lambda shape, axis: Levels(3),
    "levels_by_slice": lambda shape, axis: Levels(3, axis=axis),
    "levels_without_zero": lambda shape, axis: Levels(2, zero=False, axis=axis),
    "support_levels": lambda shape, axis: SupportLevels(np.zeros(shape, np.bool_), 1),
    "support_levels_by_slice": lambda shape, axis: SupportLevels(np.ones(shape, np.bool_), 4, axis=axis),
    "sparse_levels": lambda shape, axis: SparseLevels(2, 2),
    "sparse_levels_by_slice": lambda shape, axis: SparseLevels(2, 2, axis=axis),
    "shifted": lambda shape, axis: ShiftedLevels(2),
    "shifted_by_slice": lambda shape, axis: ShiftedLevels(2, axis=axis),
    "pattern_and_few": lambda shape, axis: Nested(NofM(2, 4, axis=axis), AtMostK(5)),
    "pattern_and_levels": lambda shape, axis: Nested(NofM(2, 4, axis=axis), Levels(2)),
    "few_and_levels": lambda shape, axis: Nested(AtMostK(5), Levels(2)),
    "reshaped": lambda shape, axis: Reshaped(Levels(2, axis=0), (0, 7)),
}


@st.composite
def empty_shapes(draw: st.DrawFn) -> Shape:
    shape = list(draw(array_shapes(max_dims=4, max_side=5)))
    for place in draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)):
        shape[place] = 0
    return tuple(shape)


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=20)
@given(shape=empty_shapes(), data=st.data())
def test_nothing_goes_to_nothing(name: str, shape: Shape, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    constraint = SETS[name](shape, axis)
    empty = np.empty(shape, data.draw(st.sampled_from([np.float16, np.float32, np.float64])))
    nearest = constraint.project(empty)
    assert (nearest.shape, nearest.dtype) == (empty.shape, empty.dtype)
    assert constraint.contains(nearest)
    decomposition = decompose(constraint)
    assert decomposition is not None
    if decomposition.support is not None and decomposition.shape is None:
        exchange_groups = exchange_groups_of(decomposition.support, shape)
        assert exchange_groups is None or exchange_groups.shape == shape


@settings(max_examples=20)
@given(shape=empty_shapes(), data=st.data())
def test_levels_by_a_few_sweeps_too(shape: Shape, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    empty = np.empty(shape, np.float32)
    coded = ByteLevels(axis).quantize(empty)
    assert coded.codes.shape == shape
    assert coded.scales.shape == (shape[axis],)
    assert coded.values(np.dtype(np.float32)).shape == shape
    everywhere = np.ones(shape, np.bool_)
    for scales in (None, axis):
        assert approximate_levels(empty, everywhere, CodeRange(0, 7), scales, 11).shape == shape


def test_empty_tensors_beside_others_keep_their_place() -> None:
    blocks = {"a": np.array([1.0, -3.0, 2.0]), "none": np.empty((0, 4)), "b": np.array([[4.0, 0.5]])}
    few = GlobalAtMostK(2)
    found = few.project(blocks)
    assert few.contains(found)
    np.testing.assert_array_equal(found["a"], [0.0, -3.0, 0.0])
    np.testing.assert_array_equal(found["b"], [[4.0, 0.0]])
    assert found["none"].shape == (0, 4)
    assert few.project({"none": np.empty((0, 4))})["none"].shape == (0, 4)
    each = Separable({"a": AtMostK(1), "none": NofM(2, 4), "b": Levels(2)})
    assert each.contains(each.project(blocks))
    assert GlobalAtMostK(3).project({}) == {}
    tied = JointChannels([TiedChannels(4, {"none": 1, "rows": 0})], [2])
    rows = {"none": np.empty((0, 4)), "rows": np.arange(8.0).reshape(4, 2)}
    np.testing.assert_array_equal(tied.project(rows)["rows"], [[0, 0], [0, 0], [4, 5], [6, 7]])
    assert tied.contains(tied.project(rows))
    assert not tied.contains(rows)
