"""First runs in another process: what crashes, hangs or fails there is told here."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from onnx_admm.contracts import Dataset
from onnx_admm.data import from_arrays
from onnx_admm.errors import DataError, WorkError
from onnx_admm.model import ModelView
from onnx_admm.runtime.children.child_outputs import outputs_in_child
from onnx_admm.runtime.children.probe import first_that_runs
from onnx_admm.worker.process import cause_of_death

DIES_AT_1 = """g (float[N,length] x) => (int64[1] y) <int64[1] one = {1}, int64[1] many = {20}>
    { n = Shape <start = 1> (x)  d = Sub (n, one)  y = Div (many, d) }"""
"""An integer division by zero: SIGFPE in ONNX Runtime 1.19.2, an error in 1.32.0."""

HANGS = """g (float[N,length] x) => (float[N,length] y)
    <int64 for_ever = {9223372036854775807}, bool yes = {1}>
    {
        y = Loop (for_ever, yes, x)
            <body = b (int64 i, bool go, float[N,length] s) => (bool more, float[N,length] t)
                { more = Identity (go)  t = Neg (s) }>
    }"""

FAILS_BUT_AT_3 = "g (float[N,length] x) => (float[a,b] y) <int64[2] s = {3, 1}> { y = Reshape (x, s) }"


def parse(text: str) -> ModelView:
    full = f'<ir_version: 10, opset_import: ["" : 17]> {text}'
    return ModelView.from_bytes(onnx.parser.parse_model(full).SerializeToString())


def of_lengths(*lengths: int) -> list[Dataset]:
    return [from_arrays({"x": np.ones((1, length), np.float32)}) for length in lengths]


def test_the_first_that_runs_behind_some_that_fail() -> None:
    assert first_that_runs(parse(FAILS_BUT_AT_3), of_lengths(2, 4, 3, 5)).index == 2
    with pytest.raises(DataError, match=r"with none of the inputs tried; the last failed so: .*Reshape"):
        first_that_runs(parse(FAILS_BUT_AT_3), of_lengths(2, 4))


def test_inputs_may_be_named_like_parameters_of_numpy() -> None:
    model = parse("""g (float[N,2] file, float[N,2] allow_pickle, float[N,2] arr_0) => (float[N,2] y)
        { y = Sum (file, allow_pickle, arr_0) }""")
    names = ("file", "allow_pickle", "arr_0")
    assert (
        first_that_runs(model, [from_arrays({name: np.ones((1, 2), np.float32) for name in names})]).index
        == 0
    )


def test_a_crash_costs_an_attempt_and_nothing_else() -> None:
    assert first_that_runs(parse(DIES_AT_1), of_lengths(1, 1, 5, 6)).index == 2


def test_a_crash_and_nothing_else_is_named_with_shape_and_signal() -> None:
    with pytest.raises((WorkError, DataError), match="none of the inputs tried") as caught:
        first_that_runs(parse(DIES_AT_1), of_lengths(1))
    if isinstance(caught.value, WorkError):  # this runtime dies of it
        assert "a run on x [1, 1] killed its process by SIGFPE" in str(caught.value)


def test_a_hang_is_ended() -> None:
    with pytest.raises(WorkError, match=r"a run on x \[1, 2\] did not end within 2 s"):
        first_that_runs(parse(HANGS), of_lengths(2), limit_s=2)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(-9, "by SIGKILL"), (-11, "by SIGSEGV"), (-99, "by signal 99"), (3, "with exit code 3")],
)
def test_deaths_in_words(status: int, sentence: str) -> None:
    assert sentence in cause_of_death(status)


def test_a_model_that_cannot_be_opened_is_no_crash() -> None:
    text = "g (float[N,2] x) => (float[N,2] y) { y = onnx_admm.test.Nothing (x) }"
    full = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17, "onnx_admm.test" : 1]> {text}')
    with pytest.raises(DataError, match="Nothing"):
        first_that_runs(ModelView.from_bytes(full.SerializeToString()), of_lengths(2, 2))


def test_the_real_model_that_kills_the_runtime(shared: Any) -> None:
    model = ModelView.load(shared / "models" / "aecmos_run.onnx")

    def frames(count: int) -> Dataset:
        state = np.zeros((1, 4, 1, 64), np.float32)
        return from_arrays({"input": np.ones((1, 1, 3, count, 160), np.float32), "h0": state})

    try:
        outputs_in_child(model, next(frames(1).batches(1)).feeds)
    except WorkError:
        pass
    else:
        pytest.skip("this release of ONNX Runtime runs the model with one frame")
    assert first_that_runs(model, [frames(1), frames(200)]).index == 1
