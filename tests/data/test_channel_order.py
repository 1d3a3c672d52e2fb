"""Samples whose channels stand at the other end than the input's are told as such."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.data.anything import as_dataset
from onnx_admm.errors import DataError
from onnx_admm.model.analysis.text import parse_text


@pytest.mark.parametrize(
    ("shape", "sample", "hint"),
    [
        ("N,3,8,6", (8, 6, 3), "channels last: transpose it with (0, 3, 1, 2)."),
        ("N,8,6,3", (3, 8, 6), "channels first: transpose it with (0, 2, 3, 1)."),
        ("N,3,h,w", (8, 6, 3), "channels last: transpose it with (0, 3, 1, 2)."),
        ("N,5,9", (9, 5), "channels last: transpose it with (0, 2, 1)."),
        ("N,3,8,6", (8, 6, 4), None),
        ("N,3,8,6", (3, 8, 5), None),
    ],
)
def test_the_transposition_is_told(shape: str, sample: tuple[int, ...], hint: str | None) -> None:
    model = parse_text(f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}""")
    with pytest.raises(DataError, match="x: data of another shape than the input") as refused:
        as_dataset(np.zeros((2, *sample), np.float32), model)
    assert ("channels" in str(refused.value)) == (hint is not None)
    assert hint is None or hint in str(refused.value)
    if hint is not None:
        order = tuple(int(digit) for digit in hint if digit.isdigit())
        as_dataset(np.zeros((2, *sample), np.float32).transpose(order), model)
