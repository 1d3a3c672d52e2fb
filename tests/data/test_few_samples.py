"""Three validation samples decide nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_admm.api.compress import compress
from onnx_admm.api.notes import few_note
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,32] x) => (float[N,32] y) <float[32,64] w, float[64,32] v>
    { a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, v) }"""


@pytest.mark.parametrize(("count", "judged"), [(3, ["synthetic", "validation"]), (4, ["validation"])])
def test_a_result_is_judged_on_made_up_inputs_where_few_are_given(
    tmp_path: Path, count: int, judged: list[str]
) -> None:
    parse_text(TEXT).save(tmp_path / "in.onnx")
    x = np.random.default_rng(0).standard_normal((20, 32)).astype(np.float32)
    data, validation = (from_arrays({"x": x[:n]}) for n in (16, count))
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", data=data, validation=validation)
    assert [quality.data for quality in report.comparison.quality] == judged
    told = any(f"{count} validation samples are too few to decide" in note for note in report.notes)
    assert told == (count < 4)


def test_one_sample_is_a_singular() -> None:
    one = from_arrays({"x": np.zeros((1, 4), np.float32)})
    assert few_note(one, few_decide=True) == [
        "1 validation sample gives only a rough estimate of the result."
    ]
    (note,) = few_note(one, few_decide=False)
    assert note.startswith("1 validation sample is too few to decide")
