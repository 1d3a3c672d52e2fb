"""One training step on every real model, or the sentence that says what stops it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from onnx_admm.contracts import Dataset, ModelView, TrainingRun, TrainingSettings, WeightSite
from onnx_admm.data.synthetic.dataset import synthetic_dataset
from onnx_admm.errors import NoGradient, OnnxAdmmError
from onnx_admm.training.graph.trainer import GraphTrainer

pytestmark = pytest.mark.slow

QUICK = (
    "cifar_winml",
    "dtln_1",
    "gtcrn_simple",
    "lenet5-mnist",
    "mnist_cntk",
    "resnet8-cifar10",
    "tract_sb_lstm",
)
OTHERS = (
    "aecmos_run", "basic_pitch", "dnsmos_v8", "face_landmark", "fastestdet", "go1_policy", "hand_keypoint",
    "iris_winml", "magika_v33", "ppocr_det_en", "ppocr_v11_det", "style_candy_winml", "superres",
    "ultraface_rfb320", "vgg-cifar10", "vit_tracker", "yolox_nano",
)  # fmt: skip
STOPPED = {
    "mlperf_ic": "RequantShift is in no ONNX operator set",
    "silero_vad": "only weights of the main graph can be fine-tuned",
    "silero_vad_ifless": "only weights of the main graph can be fine-tuned",
    "squeezenet_fp16": "only float32 weights can be fine-tuned",
}
FLAT = {"ppocr_det_en", "ppocr_v11_det"}
"""Their outputs are probabilities of nothing for any made-up input: the loss has no slope there."""

UNREACHED = "the weight does not reach the model's first output"


def open_run(model: ModelView, sites: list[WeightSite], data: Dataset) -> TrainingRun:
    """A run over the sites that reach the model's first output."""
    settings = TrainingSettings(loss="mse", batch_size=2, threads=1)
    while True:
        try:
            return GraphTrainer().open(model, sites, data, settings, model)
        except NoGradient as error:
            if error.what.split(",")[0] != UNREACHED:
                raise
            sites = [site for site in sites if site.name != error.where]


def take_a_step(path: Path) -> None:
    model = ModelView.load(path)
    data = synthetic_dataset(model, 2, 0)
    rng = np.random.default_rng(0)
    with open_run(model, list(model.sites()), data) as run:
        moved = {
            name: weight * (1 + 0.02 * rng.normal(size=weight.shape))
            for name, weight in run.weights().items()
        }
        run.load(moved)
        before = run.weights()
        run.epoch(1e-4, 1e-4, seed=0)
        after = run.weights()
    assert after
    assert all(np.isfinite(weight).all() for weight in after.values())
    is_moved = any(not np.array_equal(after[name], before[name]) for name in after)
    assert is_moved or path.stem in FLAT


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.every_model) for name in OTHERS)]
)
def test_a_step_is_taken(shared: Path, name: str) -> None:
    """The check of gradients holds when the run is opened."""
    take_a_step(shared / "models" / f"{name}.onnx")


@pytest.mark.every_model
@pytest.mark.parametrize("name", list(STOPPED))
def test_what_stops_a_model_is_named(shared: Path, name: str) -> None:
    with pytest.raises(OnnxAdmmError) as caught:
        take_a_step(shared / "models" / f"{name}.onnx")
    assert re.search(STOPPED[name], str(caught.value))


@pytest.mark.every_model
def test_no_model_is_forgotten(shared: Path) -> None:
    found = {path.stem for path in (shared / "models").glob("*.onnx")}
    assert found == {*QUICK, *OTHERS, *STOPPED}
