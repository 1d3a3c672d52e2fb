"""Layers rebuilt in closed form: planted optima, brute force in small dimensions, every kind of set."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.admm import (
    Array,
    AtMostK,
    BlockK,
    ChannelK,
    ConstraintSet,
    LayerProblem,
    Levels,
    Nested,
    NofM,
    ReconstructionSettings,
    Reshaped,
    ShiftedLevels,
    SparseLevels,
    Status,
    Support,
    SupportLevels,
    reconstruct,
    ridge_for,
)
from onnx_admm.admm.reconstruction.descent import descend
from onnx_admm.admm.reconstruction.grids import grids_of
from onnx_admm.admm.reconstruction.successive import round_successively

F64 = npt.NDArray[np.float64]


def inputs_of(seed: int, count: int, width: int) -> F64:
    """Correlated inputs whose scales differ."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(width) + rng.normal(size=(width, width)) / np.sqrt(width)
    return rng.normal(size=(count, width)) @ mixing * np.exp(rng.normal(size=width) / 2)


def layer(x: F64, weights: Array, targets: F64 | None = None, ridge: float = 1e-2) -> LayerProblem:
    outputs = x @ weights.T.astype(np.float64) if targets is None else targets
    return LayerProblem(
        gram=(x.T @ x / len(x))[None],
        cross=outputs.T @ x / len(x),
        original=weights,
        energy=np.square(outputs).mean(axis=0),
        ridge=ridge,
    )


def random_layer(seed: int = 0, rows: int = 8, width: int = 16) -> LayerProblem:
    weights = np.random.default_rng(seed + 100).normal(size=(rows, width)).astype(np.float32)
    return layer(inputs_of(seed, 400, width), weights)


# -- optima that are known ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_sparse_matrix_is_recovered(seed: int) -> None:
    """The targets come from a sparse matrix; the original weights, dense, are seen by the ridge alone."""
    rng = np.random.default_rng(seed)
    truth = np.where(
        rng.random((6, 24)) < 0.25, rng.choice([-1.0, 1.0], (6, 24)) * rng.uniform(0.5, 2, (6, 24)), 0
    )
    x = inputs_of(seed, 500, 24)
    problem = layer(x, rng.normal(size=truth.shape), x @ truth.T, ridge=1e-6)
    found = reconstruct(problem, AtMostK(np.count_nonzero(truth)))
    np.testing.assert_array_equal(found.weights != 0, truth != 0)
    np.testing.assert_allclose(found.weights, truth, atol=1e-3)
    assert found.status is Status.SETTLED


@pytest.mark.parametrize("seed", range(4))
def test_planted_levels_are_recovered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.5, 2, (6, 1))
    truth = rng.integers(-3, 4, (6, 24)) * scales
    x = inputs_of(seed, 500, 24)
    targets = x @ truth.T + 0.3 * rng.normal(size=(500, 6))
    found = reconstruct(layer(x, truth + 0.1, targets, ridge=1e-6), Levels(3, axis=0))
    np.testing.assert_allclose(found.weights, truth, rtol=0.02)


def best_on_support(problem: LayerProblem, mask: npt.NDArray[np.bool_]) -> float:
    normal, linear = problem.normal[0], problem.linear
    explained = 0.0
    for row, kept in zip(linear, map(np.flatnonzero, mask), strict=True):
        explained -= float(row[kept] @ np.linalg.solve(normal[np.ix_(kept, kept)], row[kept]))
    return explained


@pytest.mark.parametrize("constraint", [AtMostK(4), NofM(2, 5)], ids=str)
def test_mostly_no_support_is_better(constraint: ConstraintSet) -> None:
    masks = [np.array(m).reshape(2, 5) for m in itertools.product([False, True], repeat=10)]
    masks = [mask for mask in masks if constraint.contains(mask.astype(np.float64))]
    gaps = []
    for seed in range(12):
        problem = random_layer(seed, rows=2, width=5)
        least = min(best_on_support(problem, mask) for mask in masks)
        gaps.append(1 - problem.loss(reconstruct(problem, constraint).weights) / least)
    assert np.median(gaps) < 1e-6
    assert 0 <= np.mean(gaps) < 0.02


@pytest.mark.parametrize("levels", [Levels(2), ShiftedLevels(2, centred=True)], ids=str)
def test_mostly_no_codes_are_better(levels: Levels | ShiftedLevels) -> None:
    steps = (-1, 0, 1) if isinstance(levels, Levels) else (-3, -1, 1, 3)
    everything = np.array(list(itertools.product(steps, repeat=5)), np.float64)
    gaps = []
    for seed in range(12):
        problem = random_layer(seed, rows=1, width=5)
        gains = np.maximum(everything @ problem.linear[0], 0)
        curvatures = np.einsum("ij,jk,ik->i", everything, problem.normal[0], everything)
        least = -float(np.divide(gains**2, curvatures, out=np.zeros_like(gains), where=curvatures > 0).max())
        gaps.append(1 - problem.loss(reconstruct(problem, levels).weights) / least)
    assert np.median(gaps) < 1e-3
    assert 0 <= np.mean(gaps) < 0.02


# -- every set ---------------------------------------------------------------------------------

MASK = np.random.default_rng(5).random((8, 16)) < 0.5
SETS: list[ConstraintSet] = [
    AtMostK(0),
    AtMostK(40),
    AtMostK(128),
    NofM(2, 4),
    NofM(1, 4, axis=0),
    BlockK((2, 4), 8),
    ChannelK((0,), 5),
    Support(MASK),
    Nested(NofM(2, 4), AtMostK(40)),
    Nested(NofM(2, 4), Levels(4, axis=0)),
    Levels(2),
    Levels(3, axis=0),
    Levels(8, axis=0, scale_bits=11),
    Levels(2, zero=False, axis=0),
    Levels(4, axis=1),
    ShiftedLevels(1, axis=0),
    ShiftedLevels(3, axis=0),
    ShiftedLevels(2, centred=True),
    SparseLevels(40, 3),
    SparseLevels(40, 3, axis=0),
    SupportLevels(MASK, 2, axis=0),
    Reshaped(NofM(2, 4, axis=1), (8, 4, 2, 2)),
    Reshaped(ChannelK((0, 1), 12), (8, 4, 2, 2)),
    Reshaped(Levels(3, axis=0), (16, 8)),
    Reshaped(Reshaped(SparseLevels(40, 3, axis=0), (4, 32)), (16, 8)),
]


@dataclass(frozen=True)
class Cube:
    """An unknown set: entries of magnitude 1/2 at most."""

    def project(self, v: Array) -> Array:
        return np.clip(v, -0.5, 0.5)

    def contains(self, z: Array) -> bool:
        return bool((np.abs(z) <= 0.5).all())


@pytest.mark.parametrize("constraint", [*SETS, Cube()], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_lie_in_the_set_and_beat_its_nearest_point(constraint: ConstraintSet, dtype: type) -> None:
    plain = random_layer()
    problem = LayerProblem(plain.gram, plain.cross, plain.original.astype(dtype), plain.energy)
    before = problem.original.copy()
    found = reconstruct(problem, constraint)
    assert found.weights.dtype == dtype
    assert constraint.contains(found.weights)
    assert found.error == problem.error(found.weights)
    assert problem.loss(found.weights) <= problem.loss(constraint.project(problem.original)) + 1e-9
    np.testing.assert_array_equal(problem.original, before)
    again = reconstruct(problem, constraint)
    np.testing.assert_array_equal(found.weights, again.weights)


def test_better_than_the_best_weights_on_the_nearest_support() -> None:
    losses = []
    for seed in range(6):
        problem = random_layer(seed, rows=16, width=32)
        nearest = AtMostK(128).project(problem.original) != 0
        repaired, found = (reconstruct(problem, each) for each in (Support(nearest), AtMostK(128)))
        losses.append((found.error, repaired.error))
    ours, repaired_only = np.array(losses).T
    assert (ours < repaired_only).all()
    assert ours.sum() < 0.8 * repaired_only.sum()


def test_the_loop_finds_codes_that_rounding_one_by_one_does_not() -> None:
    levels, losses = ShiftedLevels(2, axis=0, centred=True), []
    for seed in range(3):
        problem = random_layer(seed, rows=16, width=48)
        grids = grids_of(levels, problem.optimum(), None, None)
        rounded = round_successively(problem, grids, problem.optimum())
        grid, codes = descend(problem, *rounded, sweeps=20, fit_scales=True)
        dense = problem.loss(problem.optimum())
        found = reconstruct(problem, levels).weights
        losses.append((problem.loss(found) - dense, problem.loss(codes * grid.units) - dense))
    ours, one_by_one = np.array(losses).T
    assert (ours <= one_by_one + 1e-9).all()
    assert ours.sum() < 0.95 * one_by_one.sum()


def test_a_stranger_set_is_solved_to_its_optimum() -> None:
    """The set is convex here, so ADMM must reach what projected gradients reach."""
    problem = random_layer(rows=2)
    weights = np.zeros((2, 16))
    step = 1 / np.linalg.eigvalsh(problem.normal[0])[-1]
    for _ in range(20_000):
        weights = np.clip(weights - step * (weights @ problem.normal[0] - problem.linear), -0.5, 0.5)
    found = reconstruct(problem, Cube(), ReconstructionSettings(iterations=300)).weights
    assert problem.loss(found) <= problem.loss(weights) + 1e-3 * abs(problem.loss(weights))


# -- hard data ---------------------------------------------------------------------------------


def test_groups_are_solved_as_the_layers_they_are() -> None:
    one, other = random_layer(1), random_layer(2)
    both = LayerProblem(
        np.concatenate([one.gram, other.gram]),
        np.concatenate([one.cross, other.cross]),
        np.concatenate([one.original, other.original]),
        np.concatenate([one.energy, other.energy]),
    )
    for constraint in (NofM(2, 4), ShiftedLevels(3, axis=0)):
        apart = [reconstruct(problem, constraint).weights for problem in (one, other)]
        np.testing.assert_allclose(reconstruct(both, constraint).weights, np.concatenate(apart), rtol=1e-5)


@pytest.mark.parametrize("levels", [False, True])
def test_rows_of_one_input_are_solved_to_the_optimum(levels: bool) -> None:
    """A table of three entries of two numbers, looked up now and then: every support is tried."""
    table = np.random.default_rng(2).normal(size=(6, 1)).astype(np.float32)
    often = np.array([9.0, 1.0, 0.2])[:, None, None]
    energy = np.repeat(often, 2) * table[:, 0].astype(np.float64) ** 2
    problem = LayerProblem(often, np.repeat(often, 2)[:, None] * table, table, energy)
    inner = SparseLevels(3, 2, axis=0) if levels else AtMostK(3)
    found = reconstruct(problem, Reshaped(inner, (3, 2))).weights
    assert Reshaped(inner, (3, 2)).contains(found)
    supports = itertools.combinations(range(6), 3)
    best = min(problem.loss(np.where(np.isin(np.arange(6), s)[:, None], table, 0)) for s in supports)
    if levels:
        assert problem.loss(found) <= best * 0.9
    else:
        assert problem.loss(found) == pytest.approx(best)


def test_dead_inputs_cost_nothing_to_drop() -> None:
    x = inputs_of(0, 400, 16)
    x[:, :8] = 0
    problem = layer(x, np.full((4, 16), 5.0))
    found = reconstruct(problem, AtMostK(32))
    assert not found.weights[:, :8].any()
    assert found.weights[:, 8:].all()
    assert found.error < 1e-3


def test_a_layer_that_sees_nothing_becomes_zero() -> None:
    silent = LayerProblem(np.zeros((1, 8, 8)), np.zeros((4, 8)), np.ones((4, 8)), np.zeros(4))
    for constraint in (AtMostK(8), Levels(3, axis=0), SparseLevels(8, 3, axis=0), Cube()):
        found = reconstruct(silent, constraint)
        assert not found.weights.any()
        assert found.error == 0


def test_equal_inputs_share_a_weight() -> None:
    """Inputs that always go together leave H without an inverse; one of each pair suffices."""
    x = np.repeat(inputs_of(0, 400, 8), 2, axis=1)
    problem = layer(x, np.ones((4, 16)), ridge=1e-6)
    found = reconstruct(problem, AtMostK(32))
    assert found.error < 1e-5
    assert (np.count_nonzero(found.weights.reshape(4, 8, 2), axis=2) == 1).all()


def test_without_a_ridge_a_singular_layer_is_solved_too() -> None:
    problem = layer(inputs_of(0, 10, 24), np.random.default_rng(0).normal(size=(4, 24)), ridge=0.0)
    for constraint in (AtMostK(60), Levels(3, axis=0)):
        found = reconstruct(problem, constraint)
        assert np.isfinite(found.weights).all()
        assert constraint.contains(found.weights)


def test_where_samples_are_few_the_ridge_helps_on_others() -> None:
    weights = np.random.default_rng(0).normal(size=(16, 64))
    x = inputs_of(0, 2000, 64)
    unseen = layer(x[48:], weights)
    errors = [
        unseen.error(reconstruct(layer(x[:48], weights, ridge=ridge), AtMostK(512)).weights)
        for ridge in (1e-6, ridge_for(64, 48))
    ]
    assert errors[1] < 0.8 * errors[0]
