"""Real samples of models whose inputs are known: some to calibrate on, unlabelled, and others to test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Samples = dict[str, Array]

_CALIBRATION = 512


@dataclass(frozen=True)
class Known:
    """Pixels of a data set as a model takes them: ``(pixel * scale - mean) / std``."""

    data: str
    input: str
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def inputs(self, pixels: Array) -> Array:
        """Of (n, c, height, width) bytes."""
        mean, std = (np.array(each, np.float32).reshape(-1, 1, 1) for each in (self.mean, self.std))
        scaled: Array = (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std
        return scaled


_NORMALISED = Known("cifar10", "input", mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))

PIXELS = {
    "lenet5-mnist": Known("mnist", "x", scale=1 / 255),
    "mnist_cntk": Known("mnist", "Input3"),
    "cifar_winml": Known("cifar10", "modelInput", scale=1 / 127.5, mean=(1.0,)),
    "resnet8-cifar10": _NORMALISED,
    "vgg-cifar10": _NORMALISED,
}

FEATURES = ("hand_keypoint", "iris_winml")
"""One set each, and no other: a third calibrates, the rest tests."""


@dataclass(frozen=True)
class Real:
    """Samples by input name; those to test with have ``labels`` too."""

    calibration: Samples
    test: Samples


def real_samples(model: str, sets: Path, prepared: Path) -> Real | None:
    """What there is for a model; None where nothing is."""
    rng = np.random.default_rng(0)
    if model in PIXELS:
        known = PIXELS[model]
        train, test = (_load(prepared / f"{known.data}-{part}.npz") for part in ("train", "test"))
        pixels = next(array for name, array in train.items() if name != "labels")
        chosen = np.sort(rng.permutation(len(pixels))[:_CALIBRATION])
        tested = next(array for name, array in test.items() if name != "labels")
        return Real(
            {known.input: known.inputs(pixels[chosen])},
            {known.input: known.inputs(tested), "labels": test["labels"]},
        )
    if model in FEATURES:
        everything = _load(sets / f"{model}.npz")
        order = rng.permutation(len(everything["labels"]))
        some, rest = order[: len(order) // 3][:_CALIBRATION], order[len(order) // 3 :]
        return Real(
            {name: array[some] for name, array in everything.items() if name != "labels"},
            {name: array[rest] for name, array in everything.items()},
        )
    if model == "magika_v33":
        return Real(_load(prepared / "magika-calib.npz"), _load(sets / "magika.npz"))
    return None


def _load(path: Path) -> Samples:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}
