"""Labels that the model has no class for are refused before anything runs, where its shape tells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.data import from_arrays, from_iterable
from onnx_admm.data.class_numbers import check_class_numbers
from onnx_admm.errors import DataError
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text


def model(output: str, operator: str = "Relu (x)") -> ModelView:
    return parse_text(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4,2,2] x) => ({output} y) {{ y = {operator} }}""")


X = np.zeros((3, 4, 2, 2), np.float32)
FLAT = model("float[N,16]", "Flatten (x)")
PIXELS = model("float[N,4,2,2]", "Softmax <axis = 1> (x)")
OPEN = model("float[N,C]", "Flatten (x)")


def refused(view: ModelView, labels: npt.NDArray[np.int64]) -> str:
    try:
        check_class_numbers(from_arrays({"x": X}, labels), view)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("view", "labels", "sentence"),
    [
        (FLAT, np.array([0, 15, 3]), ""),
        (FLAT, np.array([0, 16, 3]), "a label the model has no class for; got 16; expected 0 to 15"),
        (PIXELS, np.full((3, 2, 2), 3), ""),
        (PIXELS, np.full((3, 2, 2), 4), "got 4; expected 0 to 3"),
        (PIXELS, np.full((3, 2, 2), 255), ""),
        (PIXELS, np.full((3, 2, 2), -1), ""),
        (OPEN, np.array([0, 99, 3]), ""),
    ],
)
def test_the_largest_label_has_a_class(view: ModelView, labels: npt.NDArray[np.int64], sentence: str) -> None:
    assert sentence in refused(view, labels)
    assert bool(refused(view, labels)) == bool(sentence)


def test_every_set_of_ragged_samples_counts() -> None:
    view = parse_text("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,L] x) => (float[N,2] y) <float[1,2] w>
        { m = ReduceMean <axes = [1]> (x) y = MatMul (m, w) }""")
    feeds = [{"x": np.zeros((1, length)), "labels": [length - 2]} for length in (2, 3, 4)]
    with pytest.raises(DataError, match="got 2; expected 0 to 1"):
        check_class_numbers(from_iterable(feeds, view), view)
