"""Random samples that a model runs with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from onnx_admm.contracts import Batch, Dataset
from onnx_admm.data import synthetic_dataset
from onnx_admm.errors import DataError, UnsupportedModel
from onnx_admm.model import ModelView
from onnx_admm.runtime.evaluation import evaluate


def parse(text: str) -> ModelView:
    full = f'<ir_version: 10, opset_import: ["" : 17]> {text}'
    return ModelView.from_bytes(onnx.parser.parse_model(full).SerializeToString())


def everything(data: Dataset) -> Batch:
    [batch] = data.batches(len(data))
    return batch


def test_samples_depend_on_the_seed_and_their_number_alone() -> None:
    model = parse("g (float[N,40] x) => (float[N,40] y) { y = Relu(x) }")
    batch, again = (everything(synthetic_dataset(model, 50, 1)).feeds["x"] for _ in range(2))
    assert (batch.shape, batch.dtype) == ((50, 40), np.float32)
    np.testing.assert_array_equal(batch, again)
    np.testing.assert_array_equal(everything(synthetic_dataset(model, 9, 1)).feeds["x"], batch[:9])
    chosen = synthetic_dataset(model, 50, 1).select(np.array([7, 3]))
    np.testing.assert_array_equal(everything(chosen).feeds["x"], batch[[7, 3]])
    assert not np.array_equal(batch, everything(synthetic_dataset(model, 50, 2)).feeds["x"])
    assert abs(batch.mean()) < 0.1
    assert abs(batch.std() - 1) < 0.1


def test_every_type_of_number() -> None:
    model = parse(
        "g (float16[N,30] h, int64[N,30] i, uint8[N,30] u, bool[N,30] b) => (float16[N,30] y) { y = Relu(h) }"
    )
    feeds = everything(synthetic_dataset(model, 20, 0)).feeds
    assert {name: str(array.dtype) for name, array in feeds.items()} == {
        "h": "float16", "i": "int64", "u": "uint8", "b": "bool",
    }  # fmt: skip
    for name in ("i", "u"):
        assert feeds[name].min() == 0
        assert 90 < feeds[name].max() < 100
    assert set(np.unique(feeds["b"])) == {False, True}


def test_integers_stay_below_the_rows_of_an_embedding() -> None:
    model = parse(
        "g (int64[N,6] i) => (float[N,6,2] y) <float[3,2] table = {1,2,3,4,5,6}> { y = Gather(table, i) }"
    )
    data = synthetic_dataset(model, 8, 0)
    assert everything(data).feeds["i"].max() == 1
    assert evaluate(model, data).samples == 8


def test_a_size_with_which_the_model_runs() -> None:
    model = parse(
        "g (float[N,length] x) => (float[N,a,b] y) <int64[3] shape = {0, 224, -1}> { y = Reshape(x, shape) }"
    )
    assert everything(synthetic_dataset(model, 2, 0)).feeds["x"].shape == (2, 224)
    stated = synthetic_dataset(model, 2, 0, sizes={"length": 448})
    assert everything(stated).feeds["x"].shape == (2, 448)


def test_recurrent_state_and_scalars_are_whole_feeds() -> None:
    model = parse(
        "g (float[batch,length] x, float[2,batch,4] state, int64 rate) "
        "=> (float[batch,length] y, float[2,batch,4] s) "
        "{ y = Relu(x) s = Relu(state) }"
    )
    feeds = everything(synthetic_dataset(model, 3, 0)).feeds
    assert {name: array.shape for name, array in feeds.items()} == {
        "x": (3, 1, 64), "state": (3, 2, 1, 4), "rate": (3,),
    }  # fmt: skip


def test_first_axes_that_disagree_make_whole_feeds_of_batch_one() -> None:
    model = parse(
        "g (float[batch,5] x, float[4,1] h, float[3,batch] m) => (float[batch,5] y) { y = Identity(x) }"
    )
    feeds = everything(synthetic_dataset(model, 3, 0)).feeds
    assert {name: array.shape for name, array in feeds.items()} == {
        "x": (3, 1, 5), "h": (3, 4, 1), "m": (3, 3, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("g (string[N] s) => (string[N] y) { y = Identity(s) }", UnsupportedModel, "s: no random values"),
        (
            "g (float[N,length] x) => (float[a,b] y) <int64[2] shape = {7, 11}> { y = Reshape(x, shape) }",
            DataError,
            "runs with none of the random inputs tried; the last failed so: .*Reshape",
        ),
    ],
)
def test_models_without_random_inputs(text: str, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        synthetic_dataset(parse(text), 1, 0)


def test_every_real_model_runs_with_them(shared: Any) -> None:
    for name in ("silero_vad_ifless", "tract_sb_lstm", "magika_v33", "gtcrn_simple", "hand_keypoint"):
        model = ModelView.load(shared / "models" / f"{name}.onnx")
        assert evaluate(model, synthetic_dataset(model, 2, 0)).samples == 2
