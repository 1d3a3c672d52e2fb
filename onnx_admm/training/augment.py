"""Augmentations of image batches (n, channels, height, width), by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.errors import RecipeError

Augmentation = Callable[[Array, np.random.Generator], Array]


def shift(batch: Array, rng: np.random.Generator, pixels: int) -> Array:
    """Move each image by up to ``pixels`` along both axes; uncovered pixels repeat the edge."""
    return _window(batch, rng, pixels, "edge")


def crop(batch: Array, rng: np.random.Generator, pixels: int) -> Array:
    """Pad with zeros by ``pixels`` and crop a random window of the original size."""
    return _window(batch, rng, pixels, "constant")


def _window(batch: Array, rng: np.random.Generator, pixels: int, mode: Literal["edge", "constant"]) -> Array:
    n, _, height, width = batch.shape
    padded = np.pad(batch, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)), mode=mode)
    rows = rng.integers(0, 2 * pixels + 1, n)
    columns = rng.integers(0, 2 * pixels + 1, n)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return np.ascontiguousarray(windows[np.arange(n), :, rows, columns])


def flip(batch: Array, rng: np.random.Generator) -> Array:
    """Mirror each image left to right with probability one half."""
    flipped = rng.random(len(batch)) < 0.5
    return np.where(flipped[:, None, None, None], batch[..., ::-1], batch)


def parse_augmentations(names: tuple[str, ...]) -> tuple[Augmentation, ...]:
    """Return the augmentations by name: ``shift:2``, ``crop:4``, ``flip``.

    Raises:
        RecipeError: unknown name or no whole number behind the colon.
    """
    return tuple(_parse(name) for name in names)


def _parse(name: str) -> Augmentation:
    kind, _, amount = name.partition(":")
    if kind == "flip" and not amount:
        return flip
    if kind in ("shift", "crop") and re.fullmatch(r"[0-9]{1,4}", amount):
        move, pixels = (shift if kind == "shift" else crop), int(amount)
        return lambda batch, rng: move(batch, rng, pixels)
    raise RecipeError("unknown augmentation", got=name, expected="shift:PIXELS, crop:PIXELS or flip")
