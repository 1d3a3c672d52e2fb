"""The pieces of the layer-wise solver, each against the plain formula it is a fast form of."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.admm import AtMostK, LayerProblem, Levels, Nested, NofM, Reshaped, ShiftedLevels, SparseLevels
from onnx_admm.admm.reconstruction import descent, successive
from onnx_admm.admm.reconstruction.descent import descend
from onnx_admm.admm.reconstruction.exchange import RowSearch, exchange_entries
from onnx_admm.admm.reconstruction.grids import better_rows, grids_of, refit, rounded
from onnx_admm.admm.reconstruction.successive import round_successively
from onnx_admm.admm.reconstruction.support_fit import conjugate_fit, exact_fit, fit_support
from onnx_admm.admm.sets.set_decomposition import exchange_groups_of

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def problem_of(seed: int = 0, groups: int = 1, rows: int = 6, width: int = 12) -> LayerProblem:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 100, width)) @ (np.eye(width) + rng.normal(size=(groups, width, width)) / 3)
    gram = np.einsum("gni,gnj->gij", x, x) / 100
    original = rng.normal(size=(groups * rows, width))
    cross = np.einsum("gri,gij->grj", original.reshape(groups, rows, width), gram).reshape(original.shape)
    return LayerProblem(gram, cross, original, np.einsum("ij,ij->i", cross, original))


def random_mask(problem: LayerProblem, seed: int = 0, density: float = 0.4) -> Mask:
    return np.random.default_rng(seed).random(problem.original.shape) < density


# -- the best weights on a support -------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 3])
def test_conjugate_gradients_agree_with_the_direct_solution(groups: int) -> None:
    problem = problem_of(groups=groups)
    mask = random_mask(problem)
    mask[1] = False
    exact = exact_fit(problem, mask)
    iterated = conjugate_fit(problem, mask, problem.optimum(), steps=12)
    np.testing.assert_allclose(iterated, exact, atol=1e-6)
    gradient = problem.times(exact, problem.normal) - problem.linear
    assert np.abs(gradient[mask]).max() < 1e-12
    assert not exact[~mask].any()
    np.testing.assert_allclose(fit_support(problem, mask, problem.original, steps=12), exact, atol=1e-6)


def test_every_step_of_conjugate_gradients_lowers_the_loss() -> None:
    problem = problem_of()
    mask = random_mask(problem)
    losses = [problem.loss(conjugate_fit(problem, mask, problem.original, steps=steps)) for steps in range(8)]
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0]


# -- exchanging entries ------------------------------------------------------------------------


def loss_on(problem: LayerProblem, mask: Mask) -> float:
    return problem.loss(exact_fit(problem, mask))


def test_the_gains_are_those_of_solving_anew() -> None:
    problem = problem_of(rows=1)
    mask = np.zeros((1, 12), np.bool_)
    mask[0, [1, 4, 7, 9]] = True
    search = RowSearch(problem.normal[0], problem.linear[0], np.flatnonzero(mask[0]))
    before = loss_on(problem, mask)
    assert list(search.kept) == [1, 4, 7, 9]
    for position, entry in enumerate(search.kept):
        without = mask.copy()
        without[0, entry] = False
        assert search.drop_costs()[position] == pytest.approx(loss_on(problem, without) - before)
    for entry in np.flatnonzero(~mask[0]):
        more = mask.copy()
        more[0, entry] = True
        assert search.add_gains()[entry] == pytest.approx(before - loss_on(problem, more))
    assert not search.add_gains()[mask[0]].any()


def test_a_row_stays_exact_through_exchanges() -> None:
    problem = problem_of(rows=1)
    search = RowSearch(problem.normal[0], problem.linear[0], np.array([0, 2, 3, 5, 11]))
    for position, entry in [(0, 1), (4, 7), (2, 0), (0, 8), (1, 3)]:
        search.exchange(position, entry)
        anew = RowSearch(problem.normal[0], problem.linear[0], search.kept)
        np.testing.assert_allclose(search.table, anew.table, atol=1e-12)
        np.testing.assert_allclose(search.values, anew.values, atol=1e-12)
        np.testing.assert_allclose(search.schur[search.outside], anew.schur[anew.outside], atol=1e-12)


def test_the_best_exchange_is_the_best_of_all() -> None:
    problem = problem_of(rows=1)
    kept = np.array([0, 2, 3, 5, 11])
    mask = np.zeros((1, 12), np.bool_)
    mask[0, kept] = True
    gains = {}
    for out, into in itertools.product(kept, np.flatnonzero(~mask[0])):
        other = mask.copy()
        other[0, [out, into]] = False, True
        gains[int(out), int(into)] = loss_on(problem, mask) - loss_on(problem, other)
    search = RowSearch(problem.normal[0], problem.linear[0], kept)
    gain, position, entry = search.best_exchange(np.zeros(12, np.int64))
    assert gain == pytest.approx(max(gains.values()))
    assert gains[int(kept[position]), entry] == pytest.approx(gain)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("constraint", [AtMostK(30), NofM(2, 4), Nested(NofM(2, 4), AtMostK(30))], ids=str)
def test_exchanges_lower_the_loss_and_keep_to_the_set(
    constraint: AtMostK | NofM | Nested, groups: int
) -> None:
    gained = 0.0
    for seed in range(4):
        problem = problem_of(seed, groups=groups)
        mask = constraint.project(problem.original) != 0
        exchange_groups = exchange_groups_of(constraint, mask.shape)
        assert exchange_groups is not None
        better = exchange_entries(problem, mask, exchange_groups, rounds=8)
        assert constraint.contains(better.astype(np.float64))
        assert better.sum() == mask.sum()
        gained += loss_on(problem, mask) - loss_on(problem, better)
        assert loss_on(problem, better) <= loss_on(problem, mask) + 1e-12
        again = exchange_entries(problem, better, exchange_groups, rounds=8)
        np.testing.assert_array_equal(again, better)
    assert gained > 0


def test_rows_trade_entries_only_where_they_share_a_budget() -> None:
    problem = problem_of()
    mask = np.zeros(problem.original.shape, np.bool_)
    mask[0] = True
    traded = exchange_entries(problem, mask, np.zeros(mask.shape, np.int64), rounds=20)
    assert (traded.sum(axis=1) > 0).all()
    rows = np.broadcast_to(np.arange(len(mask))[:, None], mask.shape)
    np.testing.assert_array_equal(exchange_entries(problem, mask, rows, rounds=20), mask)


def test_groups_of_n_of_m_are_cells() -> None:
    exchange_groups = exchange_groups_of(NofM(2, 4, axis=0), (6, 2))
    assert exchange_groups is not None
    np.testing.assert_array_equal(exchange_groups[:, 0] == exchange_groups[0, 0], [True] * 4 + [False] * 2)
    assert not (exchange_groups[:, 0] == exchange_groups[0, 1]).any()


# -- levels ------------------------------------------------------------------------------------

LEVELS = [
    Levels(3, axis=0),
    ShiftedLevels(2, axis=0),
    Levels(2, zero=False, axis=0),
    Levels(3),
    Levels(3, axis=1),
]


@pytest.fixture
def _narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of columns, in matrices this narrow too."""
    monkeypatch.setattr(descent, "_COLUMNS", 5)
    monkeypatch.setattr(successive, "_COLUMNS", 5)


@pytest.mark.usefixtures("_narrow_blocks")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_descent_lowers_the_loss_to_a_point_no_single_code_improves(
    levels: Levels | ShiftedLevels, groups: int
) -> None:
    problem = problem_of(groups=groups, rows=4)
    grid = grids_of(levels, problem.original, None, None)[0]
    codes = grid.codes(problem.original)
    losses = [problem.loss(codes * grid.units)]
    for sweeps in (1, 2, 20):
        found, moved = descend(problem, grid, codes, sweeps=sweeps, fit_scales=False)
        losses.append(problem.loss(moved * found.units))
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0]
    assert grid.contains(moved * grid.units)
    for row, column in np.ndindex(moved.shape):
        for code in np.arange(grid.low[row, column], grid.high[row, column] + 1, grid.stride):
            other = moved.copy()
            other[row, column] = code
            if not (grid.gap and code == 0):
                assert problem.loss(other * grid.units) >= losses[-1] - 1e-9


@pytest.mark.parametrize("levels", [*LEVELS, Reshaped(Levels(3, axis=0), (18, 4))], ids=str)
def test_refitted_scales_are_the_least_squares_ones(levels: Levels | ShiftedLevels | Reshaped) -> None:
    problem = problem_of()
    shape = levels.shape if isinstance(levels, Reshaped) else None
    inner = levels.inner if isinstance(levels, Reshaped) else levels
    grid = grids_of(inner, problem.original, shape, None)[0]  # type: ignore[arg-type]
    codes = grid.codes(problem.original)
    basis = np.stack([np.where(grid.labels == n, codes, 0.0) for n in range(len(grid.scales))])
    matrix = np.einsum("aij,jk,bik->ab", basis, problem.normal[0], basis)
    expected = np.linalg.solve(matrix, np.einsum("aij,ij->a", basis, problem.linear))
    np.testing.assert_allclose(refit(problem, grid, codes).scales, expected, rtol=1e-3)


@pytest.mark.usefixtures("_narrow_blocks")
@pytest.mark.parametrize("groups", [1, 2])
def test_successive_rounding_knows_its_loss(groups: int) -> None:
    problem = problem_of(groups=groups)
    grid = grids_of(ShiftedLevels(2, axis=0), problem.original, None, None)[0]
    order = successive._order(problem.normal)
    factor = successive._factor(problem.normal, order)
    wider = replace(grid, scales=grid.scales * 1.5)
    rounded_to = successive._round(problem, [grid, wider], problem.optimum(), order, factor)
    for each, (codes, losses) in zip((grid, wider), rounded_to, strict=True):
        above = problem.row_losses(codes * each.units) - problem.row_losses(problem.optimum())
        np.testing.assert_allclose(losses, above)
    assert (np.sort(order, axis=1) == np.arange(12)).all()


def test_the_last_columns_vary_least_given_those_after_them() -> None:
    normal = problem_of().normal
    order = successive._order(normal)[0][::-1]
    for step in range(12):
        known, free = order[:step], order[step:]
        inverse = np.linalg.inv(normal[0][np.ix_(known, known)])
        left = normal[0][free, free] - np.einsum(
            "ij,jk,ik->i", normal[0][np.ix_(free, known)], inverse, normal[0][np.ix_(free, known)]
        )
        assert left[0] == pytest.approx(left.min())


@pytest.mark.parametrize("levels", [ShiftedLevels(2, axis=0), Levels(3)], ids=str)
def test_successive_rounding_beats_plain_rounding(levels: Levels | ShiftedLevels) -> None:
    ratios = []
    for seed in range(5):
        problem = problem_of(seed, rows=20)
        grid = grids_of(levels, problem.original, None, None)[0]
        stretched, codes = round_successively(problem, [grid], problem.optimum())
        best = problem.loss(problem.optimum())
        plain = problem.loss(grid.project(problem.original)) - best
        ratios.append((problem.loss(codes * stretched.units) - best) / plain)
    assert max(ratios) < 1
    assert np.mean(ratios) < 0.75


def test_each_row_keeps_the_better_answer() -> None:
    problem = problem_of()
    grid = grids_of(Levels(3, axis=0), problem.original, None, None)[0]
    one = grid.codes(problem.original)
    other = one.copy()
    one[1::2], other[::2] = -one[1::2], -other[::2]
    wide = replace(grid, scales=grid.scales * 1.5)
    kept, codes = better_rows(problem, (grid, one), (wide, other))
    losses = [problem.row_losses(c * g.units) for g, c in ((grid, one), (wide, other))]
    np.testing.assert_allclose(problem.row_losses(codes * kept.units), np.minimum(*losses))
    shared = grids_of(Levels(3), problem.original, None, None)[0]
    _, codes = better_rows(problem, (shared, one), (replace(shared, scales=shared.scales * 1.5), other))
    assert np.array_equal(codes, one) or np.array_equal(codes, other)


def test_rounded_scales_are_the_nearest() -> None:
    grid = grids_of(Levels(3, axis=0), problem_of().original, None, None)[0]
    coarse = rounded(grid, 4, np.dtype(np.float32)).scales
    unit = 2.0 ** (np.floor(np.log2(grid.scales)) - 3)
    np.testing.assert_allclose(coarse, np.rint(grid.scales / unit) * unit)


def test_a_slice_of_zeros_and_what_is_pruned_stay_zero() -> None:
    problem = problem_of()
    start = problem.original.copy()
    start[2] = 0
    mask = random_mask(problem)
    grid = grids_of(SparseLevels(30, 3, axis=0), np.where(mask, start, 0), None, mask)[0]
    assert (grid.scales > 0).all()
    assert not grid.project(problem.original)[~mask].any()
    assert not grid.project(problem.original)[2].any()
