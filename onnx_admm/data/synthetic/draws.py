"""Kinds of random input, each drawing one sample at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnx_admm.contracts import Array
from onnx_admm.data.sources import Index

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

_CHANNEL_CORRELATION = 0.9
"""Correlation of the colours of a natural image."""

_ONE, _ZERO = np.ones(()), np.zeros(())


class Draw(Protocol):
    """One kind of random input."""

    def sample(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        """Return one sample, of any type that can hold its values."""


@dataclass(frozen=True)
class Affine:
    """``x = mean + deviation * z``, cut to ``low .. high``: from standard values to those of an input.

    Attributes:
        mean, deviation: scalars, or of a shape that broadcasts over a sample.
        low, high: least and largest value.
    """

    mean: Floats = field(default_factory=lambda: _ZERO)
    deviation: Floats = field(default_factory=lambda: _ONE)
    low: float = -math.inf
    high: float = math.inf

    def __call__(self, standard: Floats) -> Floats:
        """Return the values of an input from standard ones."""
        cut: Floats = np.clip(self.mean + self.deviation * standard, self.low, self.high)
        return cut


STANDARD = Affine()


@dataclass(frozen=True)
class Noise:
    """Independent numbers from N(0, 1): features, small states."""

    scale: Affine = STANDARD

    def sample(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        """See ``Draw``."""
        return self.scale(rng.standard_normal(shape))


@dataclass(frozen=True)
class Smooth:
    """Numbers with the spectrum of natural signals: amplitude ``1 / f`` along some axes, mean 0, deviation 1.

    Neighbours are similar, as in images, recordings and spectrograms, unlike in white noise; operators that
    average over neighbours (a convolution, a pool) hardly respond to white noise. Brightness and contrast
    vary from sample to sample.

    Attributes:
        axes: axes that a sample is smooth along, negative: counted from its last.
        channel_axis: the axis of correlated channels, negative; None where there is none.

    Source: Field, J. Opt. Soc. Am. A 4 (1987), for the spectrum of images.
    """

    axes: tuple[int, ...]
    channel_axis: int | None = None
    scale: Affine = STANDARD

    def sample(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        """See ``Draw``."""
        texture = self._texture(rng, shape)
        if self.channel_axis is not None:
            one = [
                1 if axis == self.channel_axis else n
                for axis, n in zip(range(-len(shape), 0), shape, strict=True)
            ]
            common = self._texture(rng, tuple(one))
            share = _CHANNEL_CORRELATION
            texture = math.sqrt(share) * common + math.sqrt(1 - share) * texture
        contrast, brightness = rng.uniform(0.6, 1.2), 0.4 * rng.standard_normal()
        return self.scale(contrast * texture + brightness)

    def _texture(self, rng: Rng, shape: tuple[int, ...]) -> Floats:
        axes = tuple(axis for axis in self.axes if shape[axis] > 1)
        white = rng.standard_normal(shape)
        if not axes:
            return white
        spectrum = np.fft.rfftn(white, axes=axes)
        spectrum *= self._amplitudes(shape, axes)
        smooth: Floats = np.fft.irfftn(spectrum, [shape[axis] for axis in axes], axes=axes)
        deviation = smooth.std(axis=axes, keepdims=True)
        return smooth / np.where(deviation > 0, deviation, 1.0)

    @staticmethod
    def _amplitudes(shape: tuple[int, ...], axes: tuple[int, ...]) -> Floats:
        """Return ``1 / f`` on the half spectrum, 0 at f = 0: a texture has mean 0."""
        squares = np.zeros([1] * len(shape))
        for axis in axes:
            steps = np.fft.rfftfreq(shape[axis]) if axis == axes[-1] else np.fft.fftfreq(shape[axis])
            along = [-1 if other == axis else 1 for other in range(-len(shape), 0)]
            squares = squares + np.square(steps).reshape(along)
        frequencies = np.sqrt(squares)
        return np.divide(1.0, frequencies, out=np.zeros_like(frequencies), where=frequencies > 0)


@dataclass(frozen=True)
class Integers:
    """Whole numbers from ``low`` up to, but not including, ``high``; all equally likely."""

    low: int
    high: int

    def sample(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        """See ``Draw``."""
        return rng.integers(self.low, self.high, shape)


@dataclass(frozen=True)
class Choice:
    """One of a few values, equally likely: those that the graph compares the input with, or a mask's ones."""

    values: Array

    def sample(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        """See ``Draw``."""
        return rng.choice(self.values, shape)


@dataclass(frozen=True)
class Counting:
    """``start``, ``start + 1``, ... along the last axis: positions; ``below`` bounds them where known."""

    start: int = 0
    below: int | None = None

    def sample(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        """See ``Draw``."""
        numbers = self.start + np.arange(shape[-1] if shape else 1)
        if self.below is not None:
            numbers = np.minimum(numbers, self.below - 1)
        return np.broadcast_to(numbers, shape) if shape else numbers.reshape(())


@dataclass(frozen=True)
class Length:
    """Length of another input: from half of an extent to all of it.

    Attributes:
        largest: whether it counts along the longest of the candidate axes, or the shortest.
        extent: extent of that axis, once it is known.
    """

    largest: bool = True
    extent: int = 1

    def sample(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        """See ``Draw``."""
        return rng.integers(max(1, self.extent // 2), self.extent + 1, shape)


def other_ranges(draw: Draw) -> tuple[Draw, ...]:
    """Return the same kind of float input in other ranges, for outputs that are otherwise not finite.

    These are the ranges of pixels and shares (0 to 1), small values, and logarithms of energies (-8 to 0).
    """
    if not isinstance(draw, Noise | Smooth):
        return ()
    return tuple(replace(draw, scale=scale) for scale in _OTHER_SCALES)


_OTHER_SCALES = (
    Affine(np.array(0.45), np.array(0.25), 1e-3, 1.0),
    Affine(deviation=np.array(0.05), low=-0.2, high=0.2),
    Affine(np.array(-4.0), np.array(2.0), -8.0, 0.0),
    Affine(np.array(0.02), np.array(0.01), 1e-4, 0.05),
)


class DrawnSource:
    """Random samples of one input; sample ``i`` depends on the seed and on ``i`` alone."""

    def __init__(
        self, draw: Draw, shape: tuple[int, ...], dtype: np.dtype[np.generic], n: int, seed: tuple[int, int]
    ) -> None:
        self._draw = draw
        self._shape = shape
        self._dtype = dtype
        self._n = n
        self._seed = seed

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """See `Source.dtype`."""
        return self._dtype

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See `Source.sample_shape`."""
        return self._shape

    def __len__(self) -> int:
        return self._n

    def take(self, index: Index) -> Array:
        """See `Source.take`."""
        samples = np.empty((len(index), *self._shape), self._dtype)
        for row, i in enumerate(index):
            rng = np.random.default_rng((*self._seed, int(i)))
            drawn = self._draw.sample(rng, self._shape)
            samples[row] = np.rint(drawn) if self._dtype.kind in "iu" else drawn
        return samples
