"""The ridge of a layer with few samples is what does best on those held out."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.admm.reconstruction.layer_problem import ridge_for
from onnx_admm.admm.reconstruction.reconstruct import reconstruct
from onnx_admm.admm.sets.supports import AtMostK
from onnx_admm.calibration.moments import MOST_HALVED, Moments, MomentSums
from onnx_admm.calibration.ridges import QUICK, ridged
from onnx_admm.contracts import Array

INPUTS, ROWS = 80, 12
KEPT = AtMostK(INPUTS * ROWS // 8)


def weights_of(rng: np.random.Generator) -> Array:
    return rng.normal(size=(ROWS, INPUTS)).astype(np.float32)


def moments_of(
    weights: Array, x: Array, noise: float, rng: np.random.Generator, *, ridge: float | None = None
) -> Moments:
    """The compressed prefix hands over x with noise."""
    sums = MomentSums(weights, 1, centred=True)
    for number, batch in enumerate(np.split(x, 8)):
        disturbed = batch + noise * rng.normal(size=batch.shape)
        sums.add(disturbed.astype(np.float32)[None], batch.astype(np.float32)[None], number % 2)
    return sums.finish(ridge)


def correlated(count: int, rng: np.random.Generator) -> Array:
    mixing = np.random.default_rng(99).normal(size=(INPUTS, INPUTS)) * np.geomspace(1, 0.03, INPUTS)[:, None]
    return rng.normal(size=(count, INPUTS)) @ mixing


def test_noise_asks_for_a_stronger_ridge_and_few_weights_for_a_weaker_one() -> None:
    rng = np.random.default_rng(0)
    weights = weights_of(rng)
    clean = ridged(moments_of(weights, correlated(96, rng), 0.0, rng), KEPT)
    noisy = ridged(moments_of(weights, correlated(96, rng), 3.0, rng), KEPT)
    usual = ridge_for(INPUTS, 96)
    assert clean.ridge < usual
    assert noisy.ridge > clean.ridge


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_samples_never_seen_are_reproduced_no_worse(noise: float) -> None:
    rng = np.random.default_rng(1)
    weights = weights_of(rng)
    known = moments_of(weights, correlated(96, rng), noise, rng)
    unseen = moments_of(weights, correlated(4096, rng), noise, rng).problem
    chosen, usual = (reconstruct(problem, KEPT) for problem in (ridged(known, KEPT), known.problem))
    assert unseen.error(chosen.weights) <= 1.05 * unseen.error(usual.weights)
    if noise == 0.0:
        assert unseen.error(chosen.weights) < 0.98 * unseen.error(usual.weights)


def test_halves_make_up_the_whole() -> None:
    rng = np.random.default_rng(2)
    weights = weights_of(rng)
    known = moments_of(weights, correlated(96, rng), 0.5, rng)
    assert known.halves is not None
    first, second = known.halves
    assert first.ridge == ridge_for(INPUTS, 48)
    answer = reconstruct(first, KEPT, QUICK).weights
    assert first.error(answer) < known.problem.error(answer) < second.error(answer)


def test_there_is_nothing_to_choose_with_many_rows_a_given_ridge_one_run_or_many_inputs() -> None:
    rng = np.random.default_rng(3)
    weights = weights_of(rng)
    many = moments_of(weights, correlated(4000, rng), 0.0, rng)
    given = moments_of(weights, correlated(96, rng), 0.0, rng, ridge=0.5)
    sums = MomentSums(weights, 1, centred=True)
    sums.add(*(correlated(96, rng).astype(np.float32)[None],) * 2)
    once = sums.finish(None)
    wide = MomentSums(np.ones((1, MOST_HALVED + 1), np.float32), 1, centred=True)
    for half in (0, 1):
        wide.add(*(rng.normal(size=(1, 4, MOST_HALVED + 1)).astype(np.float32),) * 2, half)
    for known in (many, given, once, wide.finish(None)):
        assert known.halves is None
        assert ridged(known, KEPT) is known.problem
