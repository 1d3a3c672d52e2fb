"""Plain and optimised runs of one file: which differences count, and against what."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.api.measure import largest_difference
from onnx_admm.contracts import Feeds


def outputs(*values: float) -> Feeds:
    return {"y": np.array(values, np.float32)}


def test_an_outputs_scale_is_that_of_all_runs() -> None:
    pairs = [(outputs(1e-6, 0.0), outputs(2e-6, 0.0)), (outputs(4.0, -8.0), outputs(4.0, -7.6))]
    assert largest_difference(pairs, {}, ()) == pytest.approx(0.05, rel=1e-4)
    assert largest_difference(pairs[:1], {}, ()) == pytest.approx(1.0, rel=1e-4)


def test_a_probability_near_zero_may_move_by_a_multiple_of_itself() -> None:
    pairs = [(outputs(1e-6), outputs(2e-6))]
    assert largest_difference(pairs, {"y": 1e-3}, ()) == pytest.approx(1e-3, rel=1e-3)


def test_counts_are_left_out_and_what_is_not_finite_is_not() -> None:
    assert largest_difference([(outputs(1.0), outputs(2.0))], {}, {"y"}) == 0.0
    assert largest_difference([(outputs(np.nan), outputs(2.0))], {}, ()) == np.inf
    assert largest_difference([(outputs(1.0, 2.0), outputs(2.0))], {}, ()) == np.inf
