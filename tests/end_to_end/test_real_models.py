"""Every real model loads, saves, reloads and computes the same through an untouched view, or is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_admm.contracts import PassContext
from onnx_admm.errors import UnsupportedModel
from onnx_admm.model import ModelView, PortSpec, convert_opset, layer_profiles, lower_ir_version
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.passes.exact.fold_batchnorm import FoldBatchNorm
from onnx_admm.passes.exact.fold_bias import FoldBias
from onnx_admm.runtime.sessions import open_session

Array = np.ndarray[Any, Any]

MODELS = [
    "aecmos_run",
    "basic_pitch",
    "cifar_winml",
    "dnsmos_v8",
    "dtln_1",
    "face_landmark",
    "fastestdet",
    "go1_policy",
    "gtcrn_simple",
    "hand_keypoint",
    "iris_winml",
    "lenet5-mnist",
    "magika_v33",
    "mnist_cntk",
    "ppocr_det_en",
    "ppocr_v11_det",
    "resnet8-cifar10",
    "silero_vad",
    "silero_vad_ifless",
    "squeezenet_fp16",
    "style_candy_winml",
    "superres",
    "tract_sb_lstm",
    "ultraface_rfb320",
    "vgg-cifar10",
    "vit_tracker",
    "yolox_nano",
]

EXTENTS: Mapping[str, Mapping[str, int]] = tomllib.loads(Path(__file__).with_name("extents.toml").read_text())


def feed(port: PortSpec, extents: Mapping[str, int], rng: np.random.Generator) -> Array:
    assert port.shape is not None
    shape = [
        extent if isinstance(extent, int) and extent > 0 else extents.get(f"{port.name}[{axis}]", 1)
        for axis, extent in enumerate(port.shape)
    ]
    if port.name == "sr":
        return np.array(16000, np.int64)
    if np.issubdtype(np.dtype(port.dtype), np.integer):
        return rng.integers(0, 200, shape).astype(port.dtype)
    return rng.uniform(0, 1, shape).astype(port.dtype)


def feeds_for(name: str, view: ModelView) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {port.name: feed(port, EXTENTS.get(name, {}), rng) for port in view.signature().inputs}


def load(shared: Path, name: str) -> ModelView:
    return ModelView.load(shared / "models" / f"{name}.onnx")


def test_the_list_is_complete(shared: Path) -> None:
    assert {file.stem for file in (shared / "models").glob("*.onnx")} == {*MODELS, "mlperf_ic"}


def test_an_unknown_operator_is_refused_in_a_sentence(shared: Path) -> None:
    with pytest.raises(UnsupportedModel, match="node RequantShift_16: operator RequantShift is in no ONNX"):
        load(shared, "mlperf_ic")


@pytest.mark.parametrize("name", MODELS)
def test_an_untouched_model_computes_the_same(
    name: str, shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    view = load(shared, name)
    view.save(tmp_path / "saved.onnx")
    again = ModelView.load(tmp_path / "saved.onnx")
    assert again.signature() == view.signature()
    assert again.sites() == view.sites()
    assert fingerprint(again) == fingerprint(view)
    assert capfd.readouterr() == ("", "")
    feeds = feeds_for(name, view)
    before = open_session(shared / "models" / f"{name}.onnx", threads=1).run(feeds)
    after = open_session(tmp_path / "saved.onnx", threads=1).run(feeds)
    assert before.keys() == after.keys()
    assert before
    for output, expected in before.items():
        np.testing.assert_array_equal(after[output], expected)


@pytest.mark.parametrize("name", MODELS)
def test_figures_are_known_or_said_to_be_unknown(name: str, shared: Path) -> None:
    view = load(shared, name)
    rows = layer_profiles(view, EXTENTS.get(name))
    assert sum(row.parameters for row in rows) == sum(site.size for site in view.sites())
    unknown = [row.node for row in rows if row.macs is None]
    assert rows
    assert all(row.macs is None or row.macs > 0 or row.op_type in ("Gather", "Add") for row in rows)
    if name not in ("silero_vad", "silero_vad_ifless", "style_candy_winml"):
        assert unknown == []  # the rest: shapes that depend on data, and operators outside the standard


@pytest.mark.parametrize(
    "name", ["mnist_cntk", "squeezenet_fp16", "ultraface_rfb320", "tract_sb_lstm", "dtln_1"]
)
def test_an_old_model_raised_to_opset_13_computes_the_same(name: str, shared: Path) -> None:
    view = load(shared, name)
    raised = convert_opset(view, at_least=13, at_most=21)
    assert raised.opset == 13
    feeds = feeds_for(name, view)
    before, after = (
        open_session(lower_ir_version(model.to_bytes(), 10), threads=1).run(feeds) for model in (view, raised)
    )
    assert before
    for output, expected in before.items():
        scale = np.abs(expected.astype(np.float64)).max()
        np.testing.assert_allclose(after[output], expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("name", "left"),
    [("ultraface_rfb320", 0), ("gtcrn_simple", 0), ("ppocr_det_en", 0), ("ppocr_v11_det", 1)],
)
def test_batch_normalisations_fold_away(name: str, left: int, shared: Path) -> None:
    view = load(shared, name)
    view.freeze_defaults()  # ultraface_rfb320 lists all of its initializers as inputs
    folded = view.fork()
    report = FoldBatchNorm().run(folded, PassContext(reference=view))
    assert report.figures["left"] == len(folded.nodes("BatchNormalization")) == left
    feeds = feeds_for(name, view)
    before, after = (open_session(model, threads=1).run(feeds) for model in (view, folded))
    assert before
    for output, expected in before.items():
        bound = 1e-4 * np.abs(expected).max() + 1e-6  # some outputs are probabilities that are all but zero
        np.testing.assert_allclose(after[output], expected, rtol=0, atol=bound)


@pytest.mark.parametrize(("name", "folded"), [("mnist_cntk", 2), ("ppocr_det_en", 2)])
def test_biases_in_nodes_of_their_own_fold_away(name: str, folded: int, shared: Path) -> None:
    view = load(shared, name)
    plain = view.fork()
    FoldBatchNorm().run(plain, PassContext(reference=view))
    after = plain.fork()
    report = FoldBias().run(after, PassContext(reference=view))
    assert (report.figures["folded"], len(after.nodes("Add"))) == (folded, len(plain.nodes("Add")) - folded)
    feeds = feeds_for(name, view)
    outputs, expected = (open_session(model, threads=1).run(feeds) for model in (after, plain))
    assert expected
    for output, array in expected.items():
        np.testing.assert_allclose(outputs[output], array, rtol=0, atol=1e-4 * np.abs(array).max() + 1e-6)
