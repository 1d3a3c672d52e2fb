"""Models that take one sample in a run although their inputs state any number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_admm.api import compare, compress
from onnx_admm.contracts import ModelView
from onnx_admm.data import from_arrays
from onnx_admm.data.samples import one_at_a_time
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.children.probe import runs_together

RNG = np.random.default_rng(0)


def fixed_inside(shape: str = "1, 12, 4") -> ModelView:
    """A tagger whose attention-like part is reshaped for a batch of one."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[batch,12,8] x) => (float[batch,12,4] y)
    <int64[3] shape = {{{shape}}}>
    {{ a = MatMul (x, v) r = Relu (a) b = MatMul (r, w) y = Reshape (b, shape) }}"""
    weights = {"v": RNG.normal(size=(8, 32)), "w": RNG.normal(size=(32, 4))}
    return parse_text(text, constants={name: array.astype(np.float32) for name, array in weights.items()})


@pytest.mark.parametrize(("shape", "together"), [("1, 12, 4", False), ("-1, 12, 4", True)])
def test_a_batch_that_only_the_graph_fixes_is_found(shape: str, together: bool) -> None:
    data = from_arrays({"x": RNG.normal(size=(6, 12, 8)).astype(np.float32)})
    assert runs_together(fixed_inside(shape), data) is together


def test_samples_become_whole_feeds() -> None:
    x = RNG.normal(size=(6, 12, 8)).astype(np.float32)
    data = one_at_a_time(from_arrays({"x": x}, labels=np.arange(6)))
    (batch,) = data.select(np.array([2, 4])).batches(2)
    np.testing.assert_array_equal(batch.feeds["x"], x[[2, 4], None])
    np.testing.assert_array_equal(batch.labels, [2, 4])


@pytest.mark.parametrize("count", [9, 40])
def test_such_a_model_is_compressed_and_compared(tmp_path: Path, count: int) -> None:
    model, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    fixed_inside().save(model)
    data = {"x": RNG.normal(size=(count, 12, 8)).astype(np.float32)}
    report = compress(model, out, data=data, threads=1, keep=True)
    assert any("one at a time" in note for note in report.notes)
    assert report.comparison.quality[0].sqnr_db is not None
    assert compare(model, out, data=data, threads=1).quality[0].samples == count
