"""Branch and cut takes one option of each row within the limit."""

from __future__ import annotations

import numpy as np

from onnx_admm.allocation import branch_and_cut


def test_the_least_of_each_row_is_taken() -> None:
    value, rows = np.array([1.0, 2.0, 5.0, 1.0]), np.array([0, 0, 1, 1])
    taken = branch_and_cut.best_choice(value, rows, 2, np.array([[1.0, 0.1, 0.1, 2.0]]), 1.2)
    assert taken is not None
    assert taken.tolist() == [True, False, True, False]
    assert branch_and_cut.best_choice(value, rows, 2, np.ones((1, 4)), 1.0) is None
