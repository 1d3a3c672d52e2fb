"""The solver's own messages stay out of standard output."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnx_admm.allocation import branch_and_cut


def test_what_the_solver_prints_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy(*arguments: Any, **settings: Any) -> SimpleNamespace:
        os.write(1, b"a message of C++ code\n")
        return SimpleNamespace(x=np.array([1.0, 0.0]))

    monkeypatch.setattr(branch_and_cut, "milp", noisy)
    sys.stdout.write("before\n")
    taken = branch_and_cut.best_choice(np.ones(2), np.zeros(2, np.int64), 1, np.ones((1, 2)), 1.0)
    sys.stdout.write("after\n")
    assert taken is not None
    assert taken.tolist() == [True, False]
    assert capfd.readouterr().out == "before\nafter\n"


def test_the_least_of_each_row_is_taken() -> None:
    value, rows = np.array([1.0, 2.0, 5.0, 1.0]), np.array([0, 0, 1, 1])
    taken = branch_and_cut.best_choice(value, rows, 2, np.array([[1.0, 0.1, 0.1, 2.0]]), 1.2)
    assert taken is not None
    assert taken.tolist() == [True, False, True, False]
    assert branch_and_cut.best_choice(value, rows, 2, np.ones((1, 4)), 1.0) is None
