"""Random samples that a model runs with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from onnx_admm.contracts import Batch, Dataset
from onnx_admm.data import synthetic_dataset
from onnx_admm.data.synthetic import dataset
from onnx_admm.errors import DataError, UnsupportedModel
from onnx_admm.model import ModelView
from onnx_admm.runtime.children.probe import FirstRun
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.sessions import open_session

pytestmark = pytest.mark.slow


def parse(text: str) -> ModelView:
    full = f'<ir_version: 10, opset_import: ["" : 17]> {text}'
    return ModelView.from_bytes(onnx.parser.parse_model(full).SerializeToString())


def everything(data: Dataset) -> Batch:
    [batch] = data.batches(len(data))
    return batch


def drawn(text: str, name: str, n: int = 64) -> Any:
    return everything(synthetic_dataset(parse(text), n, 0)).feeds[name]


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
    assert feeds["i"].min() == 0
    assert 90 < feeds["i"].max() < 100
    assert feeds["u"].min() < 10
    assert feeds["u"].max() > 245
    assert set(np.unique(feeds["b"])) == {False, True}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Gather (table, i)", {0, 1, 2}),
        ("y = Gather <axis = 1> (table, i)", {0, 1}),
        ("c = Cast <to = 7> (i)  r = Reshape (c, row)  y = Gather (table, r)", {0, 1, 2}),
        ("y = OneHot (i, depth, both)", {0, 1, 2, 3}),
        ("u = Unsqueeze (i, last)  e = Equal (u, codes)  y = Cast <to = 1> (e)", {5, 7, 9}),
    ],
)
def test_integers_are_those_that_the_graph_knows(body: str, expected: set[int]) -> None:
    text = f"""g (int32[N,6] i) => (float[a,b,c] y)
        <float[3,2] table = {{1,2,3,4,5,6}}, int64[2] row = {{1, -1}}, int64[1] last = {{2}},
         int32 depth = {{4}}, float[2] both = {{0,1}}, int32[3] codes = {{5,7,9}}> {{ {body} }}"""
    assert set(np.unique(drawn(text, "i"))) == expected


def test_indices_stay_within_their_own_type() -> None:
    text = "g (uint8[N,6] i) => (float[a,b,c] y) { c = Cast <to = 6> (i)  y = Gather (t, c) }"
    full = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> {text}')
    full.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((300, 2), np.float32), "t"))
    del full.graph.value_info[:]
    feeds = everything(synthetic_dataset(ModelView.from_bytes(full.SerializeToString()), 200, 0)).feeds
    assert feeds["i"].max() > 250


def test_masks_are_ones_positions_count_states_are_small() -> None:
    text = """g (float[N,4,6] x, int64[N,6] attention_mask, int64[N,6] position_ids, float[N,2,3] cell)
        => (float[N,4,6] y, float[N,2,3] cell_out, int64[N,6] m, int64[N,6] p)
        {
            y = Relu (x)  cell_out = Tanh (cell)
            m = Identity (attention_mask)  p = Identity (position_ids)
        }"""
    feeds = everything(synthetic_dataset(parse(text), 50, 0)).feeds
    assert (feeds["attention_mask"] == 1).all()
    assert (feeds["position_ids"] == np.arange(6)).all()
    assert 0.08 < feeds["cell"].std() < 0.12
    assert 0.6 < feeds["x"].std() < 1.4


def test_the_initial_state_of_a_recurrence_is_one_whatever_its_name() -> None:
    text = """g (float[5,1,4] x, float[1,1,3] a) => (float[s,d,b,h] y)
        <float[1,9,4] w, float[1,9,3] r> { i = Identity (a)  y = GRU <hidden_size = 3> (x, w, r, , , i) }"""
    full = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> {text}')
    for name, width in (("w", 4), ("r", 3)):
        array = np.ones((1, 9, width), np.float32)
        full.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    del full.graph.value_info[:]
    data = synthetic_dataset(ModelView.from_bytes(full.SerializeToString()), 200, 0)
    assert everything(data).feeds["a"].std() < 0.12


# -- images and signals ----------------------------------------------------------------------


def neighbours(images: Any, axis: int) -> float:
    """Correlation of neighbouring values along an axis."""
    first, second = np.delete(images, -1, axis).ravel(), np.delete(images, 0, axis).ravel()
    return float(np.corrcoef(first, second)[0, 1])


@pytest.mark.parametrize(("shape", "channels"), [("N,3,32,40", 1), ("N,32,40,3", 3)])
def test_images_are_smooth_and_their_channels_alike(shape: str, channels: int) -> None:
    images = drawn(f"g (float[{shape}] x) => (float[a,b,c,d] y) {{ y = Relu (x) }}", "x")
    sides = [axis for axis in (1, 2, 3) if axis != channels]
    assert all(neighbours(images, axis) > 0.6 for axis in sides)
    red, green, _ = np.moveaxis(images, channels, 0)
    assert 0.7 < np.corrcoef(red.ravel(), green.ravel())[0, 1] < 0.98
    assert abs(images.mean()) < 0.2
    assert 0.8 < images.std() < 1.2


def test_a_recording_is_smooth_and_quiet() -> None:
    signal = drawn("g (float[N,1,2000] x) => (float[a,b,c] y) { y = Relu (x) }", "x")
    assert neighbours(signal, 2) > 0.8
    assert np.abs(signal).max() <= 1
    assert 0.05 < signal.std() < 0.2


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        ("a = Sub (x, c)  y = Div (a, c)", 0, 255),
        ("y = Div (x, c255)", 0, 255),
        ("a = Mul (x, two)  y = Sub (a, one)", 0, 1),
        ("a = Sub (x, imagenet)  b = Div (a, spread)  y = Transpose <perm = [0, 2, 3, 1]> (b)", 0, 1),
        (
            "a = Cast <to = 11> (x)  d = Transpose <perm = [0, 2, 3, 1]> (a)  y = Sub (d, bgr)",
            0,
            255,
        ),
    ],
)
def test_images_have_the_range_that_the_graph_normalises(body: str, low: float, high: float) -> None:
    text = f"""g (float[N,3,16,16] x) => (float[p,q,r,s] y)
        <float c = {{127.5}}, float c255 = {{255}}, float two = {{2}}, float one = {{1}},
         float[3,1,1] imagenet = {{0.485,0.456,0.406}}, float[3,1,1] spread = {{0.229,0.224,0.225}},
         double[3] bgr = {{103.9,116.8,123.7}}> {{ {body} }}"""
    images = drawn(text, "x")
    assert images.min() >= low
    assert images.max() <= high
    assert 0.15 < images.std() / (high - low) < 0.35
    assert abs(images.mean() / (high - low) - 0.45) < 0.1


def test_features_are_what_their_normalisation_makes_standard() -> None:
    text = """g (float[N,2] x) => (float[a,b] y) <float[2] m = {10,-3}, float[2] s = {4,0.5}>
        { c = Sub (x, m)  y = Div (c, s) }"""
    features = drawn(text, "x", 4000)
    np.testing.assert_allclose(features.mean(axis=0), [10, -3], atol=0.2)
    np.testing.assert_allclose(features.std(axis=0), [4, 0.5], rtol=0.05)


@pytest.mark.parametrize("scale", [0.5, 58.0])
def test_a_batch_normalization_behind_a_convolution_gets_the_statistics_it_stores(scale: float) -> None:
    """Statistics made from known images give back their range."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 3, 3, 3)).astype(np.float32)
    text = """g (float[N,3,32,32] x) => (float[a,b,c,d] y)
        { z = Conv (x, w)  y = BatchNormalization (z, g, g, m, v) }"""
    full = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> {text}')
    plain = drawn("g (float[N,3,32,32] x) => (float[a,b,c,d] y) { y = Relu (x) }", "x", 200)
    means = np.array([0.2, -0.5, 1.0]).reshape(3, 1, 1) * scale
    convolved = np.einsum("nchwij,ocij->onhw", windows(plain * scale + means), weight).reshape(8, -1)
    arrays = {"w": weight, "g": np.ones(8), "m": convolved.mean(axis=1), "v": convolved.var(axis=1)}
    for name, array in arrays.items():
        full.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    del full.graph.value_info[:]
    images = everything(synthetic_dataset(ModelView.from_bytes(full.SerializeToString()), 200, 1)).feeds["x"]
    assert images.std() == pytest.approx(float((plain * scale + means).std()), rel=0.25)
    np.testing.assert_allclose(images.mean(axis=(0, 2, 3)), means.ravel(), atol=0.35 * scale)


def windows(images: Any) -> Any:
    return np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))


# -- open sizes ------------------------------------------------------------------------------


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


def test_an_output_of_fixed_size_tells_the_size_of_the_image() -> None:
    text = "g (float[N,3,h,w] x) => (float[N,3,48,48] y) { y = Relu (x) }"
    assert everything(synthetic_dataset(parse(text), 1, 0)).feeds["x"].shape == (1, 3, 48, 48)


def test_an_axis_that_is_a_sum_of_others() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,past,2] x, float[N,later,2] z) => (float[N,b,2] y) { y = Concat <axis = 1> (x, z) }"""
    full = onnx.parser.parse_model(text)
    full.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "past + 1"
    feeds = everything(synthetic_dataset(ModelView.from_bytes(full.SerializeToString()), 1, 0)).feeds
    assert feeds["z"].shape[1] == feeds["x"].shape[1] + 1


def test_sizes_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(dataset, "first_that_runs", lambda model, _: asked.append(model) or FirstRun(1))
    model = parse("g (float[N,length] x) => (float[N,length] y) { y = Relu (x) }")
    for _ in range(3):
        assert everything(synthetic_dataset(model, 1, 0)).feeds["x"].shape == (1, 16)
    assert asked == [model]


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("g (string[N] s) => (string[N] y) { y = Identity(s) }", UnsupportedModel, "s: no random values"),
        (
            "g (float[N,length] x) => (float[a,b] y) <int64[2] shape = {7, 11}> { y = Reshape(x, shape) }",
            DataError,
            "runs with none of the inputs tried; the last failed so: .*Reshape",
        ),
    ],
)
def test_models_without_random_inputs(text: str, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        synthetic_dataset(parse(text), 1, 0)


# -- real models -----------------------------------------------------------------------------

REFUSED = {"mlperf_ic": "operator RequantShift is in no ONNX operator set"}


def test_every_real_model_runs_with_them_or_says_why_not(shared: Any) -> None:
    paths = sorted((shared / "models").glob("*.onnx"))
    assert len(paths) > len(REFUSED)
    for path in paths:
        if path.stem in REFUSED:
            with pytest.raises(UnsupportedModel, match=REFUSED[path.stem]):
                ModelView.load(path)
            continue
        model = ModelView.load(path)
        assert evaluate(path, synthetic_dataset(model, 1, 0)).samples == 1


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("silero_vad", 16000, 16000), ("magika_v33", 0, 256), ("style_candy_winml", 0, 255)],
)
def test_ranges_of_real_models(shared: Any, name: str, low: float, high: float) -> None:
    feeds = everything(synthetic_dataset(ModelView.load(shared / "models" / f"{name}.onnx"), 4, 0)).feeds
    [array] = [feeds[port] for port in ("sr", "bytes", "inputImage") if port in feeds]
    assert (array.min(), array.max()) == (low, high)


# -- values ----------------------------------------------------------------------------------

LOGARITHM = "g (float[N,6] x) => (float[N,6] y) { y = Log (x) }"
OVERFLOWS = """g (float[N,3,8,8] x) => (float[N,3,8,8] y)
    <float[1] fifty = {50.0}> { a = Mul (x, fifty)  b = Exp (a)  y = Mul (b, b) }"""
NEVER = "g (float[N,6] x) => (float[N,6] y) { a = Sub (x, x)  b = Log (a)  y = Mul (a, b) }"


@pytest.mark.parametrize("text", [LOGARITHM, OVERFLOWS])
def test_another_range_where_outputs_are_not_finite(text: str) -> None:
    model = parse(text)
    data = synthetic_dataset(model, 8, 0)
    [run] = run_samples(open_session(model), everything(data).feeds)
    assert np.isfinite(run.outputs["y"]).all()
    assert everything(data).feeds["x"].std() > 0


def test_a_model_that_gives_nothing_finite_is_refused_with_the_input() -> None:
    with pytest.raises(DataError, match=r"x: the outputs of the model are not finite.* --data") as caught:
        synthetic_dataset(parse(NEVER), 4, 0)
    assert caught.value.exit_code == 2


def test_values_of_minus_infinity_among_others_are_no_overflow() -> None:
    text = """g (float[N,4] x) => (float[N,4] y) <float[4] hidden = {0, -1e30, 0, 0}, float huge = {1e30}>
        { a = Mul (hidden, huge)  y = Add (x, a) }"""
    feeds = everything(synthetic_dataset(parse(text), 64, 0)).feeds
    assert abs(float(feeds["x"].mean())) < 0.3
    assert float(feeds["x"].std()) == pytest.approx(1, abs=0.2)


def test_what_runs_with_one_sample_only_gets_one_at_a_time() -> None:
    text = "g (float[N,5] x) => (float[1,5] y) <int64[2] one = {1, 5}> { y = Reshape (x, one) }"
    assert everything(synthetic_dataset(parse(text), 3, 0)).feeds["x"].shape == (3, 1, 5)


def test_a_length_is_that_of_another_input() -> None:
    text = """g (float[N,30,4] x, int64[N] lengths) => (float[N,4] y)
        <int64[1] axis = {1}> {
            last = Unsqueeze (lengths, axis)  one = Sub (last, axis)  i = Unsqueeze (one, axis)
            wide = Expand (i, four)  z = GatherElements <axis = 1> (x, wide)  y = Squeeze (z, axis)
        }"""
    text = text.replace("<int64[1] axis = {1}>", "<int64[1] axis = {1}, int64[3] four = {1, 1, 4}>")
    lengths = drawn(text, "lengths")
    assert 15 <= lengths.min() < lengths.max() <= 30
