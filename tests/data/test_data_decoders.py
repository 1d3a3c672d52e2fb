"""Random samples for decoders with a cache: empty and filled, with axes that are tied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
from decoders import HEADS, ROWS, SIZE, WORDS, decoder

from onnx_admm.api.compress import compress
from onnx_admm.contracts import Array, Batch
from onnx_admm.data import synthetic_dataset
from onnx_admm.model import ModelView
from onnx_admm.runtime.evaluation import evaluate


def both(model: ModelView) -> tuple[Batch, Batch]:
    """Two samples: one that begins with an empty cache, one with a filled cache."""
    data = synthetic_dataset(model, 6, 0)
    assert evaluate(model, data, reference=model).sqnr_db == 200.0
    assert len(data) == 6
    first, second = (next(data.select(np.array([i])).batches(1)) for i in (0, 1))
    return first, second


@pytest.mark.parametrize(
    ("total", "positions"),
    [("total_sequence_length", True), ("past_sequence_length + 1", True), ("mask_length", False)],
)
def test_a_cache_is_empty_in_one_sample_and_filled_in_the_next(total: str, positions: bool) -> None:
    for batch, is_filled in zip(both(decoder(total=total, positions=positions)), (False, True), strict=True):
        ids, cache = batch.feeds["input_ids"], batch.feeds["past_key_values.0.key"]
        past, length = cache.shape[2], ids.shape[1]
        assert cache.shape == (1, HEADS, past, SIZE)
        assert (past > 0) == is_filled
        assert 0 <= ids.min() <= ids.max() < WORDS
        np.testing.assert_array_equal(batch.feeds["attention_mask"], np.ones((1, past + length), np.int64))
        if positions:
            np.testing.assert_array_equal(batch.feeds["position_ids"][0], past + np.arange(length))
            assert past + length <= ROWS


def test_a_cache_of_a_fixed_length_has_that_length() -> None:
    full = onnx.load_from_string(decoder().to_bytes())
    for port in full.graph.input:
        if port.name.startswith("past"):
            port.type.tensor_type.shape.dim[2].dim_value = 5
    data = synthetic_dataset(ModelView.from_bytes(full.SerializeToString()), 2, 0)
    [batch] = data.batches(2)
    length = batch.feeds["input_ids"].shape[1]
    assert batch.feeds["past_key_values.0.key"].shape == (2, HEADS, 5, SIZE)
    assert batch.feeds["attention_mask"].shape == (2, 5 + length)


MERGED = """g (int64[batch_size,sequence_length] input_ids, int64[batch_size,mask_length] attention_mask,
    float[batch_size,encoder_sequence_length,4] encoder_hidden_states,
    float[batch_size,2,past_decoder_sequence_length,3] past_key_values.0.decoder.key,
    float[batch_size,2,encoder_sequence_length,3] past_key_values.0.encoder.key,
    bool[1] use_cache_branch) => (float[batch_size,a,b] y)
    <int64[1] axis = {0}, float[4,3] w = {1,2,3,4,5,6,7,8,9,1,2,3}>
    {
        cond = Squeeze (use_cache_branch, axis)
        y = If (cond) <
            then_branch = t () => (float[batch_size,p,q] a1) {
                s = ReduceSum <keepdims = 0> (past_key_values.0.decoder.key, axis)
                e = ReduceSum <keepdims = 0> (past_key_values.0.encoder.key, axis)
                h = MatMul (encoder_hidden_states, w)
                eh = Add (e, h)
                m = ReduceMean <keepdims = 1, axes = [1]> (eh)
                m1 = ReduceMax <keepdims = 1, axes = [1]> (s)
                a1 = Add (m, m1)
            },
            else_branch = f () => (float[batch_size,p,q] a2) { a2 = MatMul (encoder_hidden_states, w) }
        >
    }"""


def test_a_merged_decoder_runs_both_branches() -> None:
    text = f'<ir_version: 10, opset_import: ["" : 17]> {MERGED}'
    names = {f"past_key_values.0.{part}.key": f"past_{part}" for part in ("decoder", "encoder")}
    for name, plain in names.items():
        text = text.replace(name, plain)
    full = onnx.parser.parse_model(text)
    empty, filled = both(ModelView.from_bytes(full.SerializeToString()))
    assert (empty.feeds["use_cache_branch"].item(), filled.feeds["use_cache_branch"].item()) == (False, True)
    assert empty.feeds["past_decoder"].shape[3] == 0
    assert filled.feeds["past_decoder"].shape[3] > 0
    of_encoder: Array = filled.feeds["past_encoder"]
    assert of_encoder.shape[3] == filled.feeds["encoder_hidden_states"].shape[2] > 0


def test_a_position_for_each_new_token_is_no_batch() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (int64[batch,seq] ids, int64[seq] cache_position, float[batch,3,past,2] past_0)
            => (float[batch,seq,2] y)
        { w = Gather (rows, ids)  p = Gather (rows, cache_position)  y = Add (w, p) }"""
    full = onnx.parser.parse_model(text)
    full.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((40, 2), np.float32), "rows"))
    for batch in both(ModelView.from_bytes(full.SerializeToString())):
        past, length = batch.feeds["past_0"].shape[3], batch.feeds["ids"].shape[2]
        np.testing.assert_array_equal(batch.feeds["cache_position"][0], past + np.arange(length))


def test_the_bare_command_compresses_a_decoder(tmp_path: Path) -> None:
    decoder(layers=2).save(tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert report.comparison.file_ratio > 2
    quality = report.comparison.quality[0]
    assert min(quality.judged_db.values()) > 20
    assert {"logits", "present.0.key", "present.1.value"} <= set(quality.judged_db)
