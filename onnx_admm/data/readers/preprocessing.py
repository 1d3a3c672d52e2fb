"""Preprocessing: from stored pixels to the numbers that a model was trained on."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.data.readers.images import MOST_PIXELS
from onnx_admm.errors import RecipeError
from onnx_admm.settings.tables import build, read_toml


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """``x = (pixel * scale - mean) / std``, per channel, in float32.

    Pixels are the integers 0 to 255 of an image as stored; ``mean`` and ``std`` are in units of ``pixel *
    scale``, in the order of ``channels``. MNIST as 0 to 1 is ``scale = 0.00392156862745098``.

    Attributes:
        scale: factor that is applied to the pixel first.
        mean: one number per channel, or one for all.
        std: as ``mean``; none may be 0.
        channels: channels of the model: ``RGB``, ``BGR`` or ``L`` (grey); ``auto`` takes grey for a model of
            one channel, else RGB.
        layout: axes of the model's input: ``NCHW``, ``NHWC``, ``NHW`` (one channel, no axis for it), ``NF``
            (pixels in one row); ``auto`` reads it from the input's shape.
        size: (height, width) to resize image files to, bilinear; without it they must have the model's size.
        ignore_label: a label that is ignored, no loss and no accuracy.

    Raises:
        RecipeError: a number that is not finite, a zero in ``std``, a size that is not positive.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Literal["auto", "RGB", "BGR", "L"] = "auto"
    layout: Literal["auto", "NCHW", "NHWC", "NHW", "NF"] = "auto"
    size: tuple[int, int] | None = None
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        for key, values in (("scale", (self.scale,)), ("mean", self.mean), ("std", self.std)):
            if not values or not np.all(np.isfinite(_single(values))):
                raise RecipeError("a number is missing or not finite", where=key, got=list(values))
        if 0.0 in _single(self.std):
            raise RecipeError("zero as a divisor of pixels", where="std", got=list(self.std))
        if self.size is not None and (min(self.size) < 1 or math.prod(self.size) > MOST_PIXELS):
            raise RecipeError(
                "an empty image, or one too large",
                where="size",
                got=list(self.size),
                expected=f"1 to {MOST_PIXELS} pixels",
            )

    def apply(self, pixels: Array, channel_axis: int | None) -> Array:
        """Apply the formula to a batch with channels along ``channel_axis`` (None: one channel)."""
        shape = [1] * pixels.ndim
        if channel_axis is not None:
            shape[channel_axis] = -1
        scaled = pixels.astype(np.float32)
        scaled *= np.float32(self.scale)
        if any(self.mean):
            scaled -= np.asarray(self.mean, np.float32).reshape(shape)
        if any(value != 1.0 for value in self.std):
            scaled /= np.asarray(self.std, np.float32).reshape(shape)
        return scaled


def as_preprocessing(source: Preprocessing | str | os.PathLike[str]) -> Preprocessing:
    """Return a preprocessing, or read it from a TOML file: its keys, or a recipe's ``[preprocessing]``.

    Raises:
        RecipeError: the file cannot be read, or a key is unknown or a value impossible.
    """
    if isinstance(source, Preprocessing):
        return source
    table = read_toml(source)
    return build(Preprocessing, table.get("preprocessing", table), os.fspath(source))


def _single(values: tuple[float, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the numbers in the type of the computation."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)
