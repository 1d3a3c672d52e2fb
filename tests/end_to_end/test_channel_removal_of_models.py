"""On real models too, removing channels equals masking them where they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from channel_masks import masked, random_masks, removed
from test_real_models import MODELS, feeds_for, load

from onnx_admm.model.channels.groups import channel_map
from onnx_admm.model.rewrite.expose_logits import score_name, with_scores
from onnx_admm.runtime.sessions import open_session

QUICK = ["cifar_winml", "dnsmos_v8", "iris_winml", "lenet5-mnist", "mnist_cntk", "resnet8-cifar10"]
LEAST_UNITS = {
    "aecmos_run": 400, "cifar_winml": 72, "dnsmos_v8": 300, "face_landmark": 80, "fastestdet": 1300,
    "go1_policy": 800, "lenet5-mnist": 570, "mnist_cntk": 24, "ppocr_det_en": 2500, "ppocr_v11_det": 2500,
    "resnet8-cifar10": 220, "squeezenet_fp16": 2900, "superres": 150, "ultraface_rfb320": 1200,
    "vgg-cifar10": 700, "vit_tracker": 800, "yolox_nano": 4500,
}  # fmt: skip
"""Units that can be removed, so that the test is not passed by removing none."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.every_model) for name in MODELS]
)
def test_removed_equals_masked(name: str, shared: Path) -> None:
    view = load(shared, name)
    view.freeze_defaults()
    feeds = feeds_for(name, view)
    channels = channel_map(view)
    free = sum(int((~group.stays).sum()) for group in channels.groups if group.blocked is None)
    assert free >= LEAST_UNITS.get(name, 0)
    keep = random_masks(channels, 0, share=0.7)
    small, plain = removed(view, keep), masked(view, keep)
    assert small.signature() == view.signature()
    expected = open_session(with_scores(plain), threads=1).run(feeds)
    for output, values in open_session(with_scores(small), threads=1).run(feeds).items():
        if not np.issubdtype(values.dtype, np.floating):
            np.testing.assert_array_equal(values, expected[output])
            continue
        scale = float(np.abs(expected[output].astype(np.float64)).max()) + 1e-9
        if score_name(output) in expected:  # a probability is as exact as 1 is: its score counts
            scale = max(scale, 1e-2)
        bound = 1e-2 if values.dtype == np.float16 else 1e-4
        difference = float(np.abs(values.astype(np.float64) - expected[output]).max())
        assert difference <= bound * scale, output


def test_the_reasons_are_sentences(shared: Path) -> None:
    for name in ("face_landmark", "magika_v33"):
        for group in channel_map(load(shared, name)).groups:
            if group.blocked is not None:
                assert len(group.blocked.split()) >= 4, (group.name, group.blocked)
