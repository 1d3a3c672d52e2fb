"""From pixels to model input: the order of axes, then the preprocessing's formula."""

from __future__ import annotations

from typing import Literal

import numpy as np

from onnx_admm.contracts import Array, PortSpec
from onnx_admm.data.readers.preprocessing import Preprocessing
from onnx_admm.data.sources import Index, Source
from onnx_admm.errors import DataError

AxisOrder = Literal["NCHW", "NHWC", "NHW", "NF"]

_CHANNEL_COUNTS = (1, 3)
_CHANNEL_AXIS: dict[AxisOrder, int | None] = {"NCHW": 1, "NHWC": 3, "NHW": None, "NF": None}
_RANK_4, _RANK_3 = 4, 3


class PixelSource:
    """Integer pixels as a model's input: axes reordered, the formula applied, batch by batch.

    Args:
        source: pixels, first axis the sample.
        stored: order of the axes in ``source``.
        port: the input to feed.
        preprocessing: the formula and the input's order; None leaves the integers as they are.

    Raises:
        DataError: colours for an input without channels, a formula for another number of channels.
    """

    def __init__(
        self, source: Source, stored: AxisOrder, port: PortSpec, preprocessing: Preprocessing | None
    ) -> None:
        self._source = source
        self._stored = stored
        self._order = axis_order(port, preprocessing)
        self._preprocessing = preprocessing
        height, width, channels = _channels_last(np.empty((1, *source.sample_shape), np.bool_), stored).shape[
            1:
        ]
        if self._order in ("NHW", "NF") and channels != 1:
            raise DataError(
                "colours for an input that has no axis for them", where=port.name, got=f"{channels} channels"
            )
        if preprocessing is not None:
            _check_fit(preprocessing, (height, width), channels)
        self._shape: tuple[int, ...] = {
            "NCHW": (channels, height, width),
            "NHWC": (height, width, channels),
            "NHW": (height, width),
            "NF": (height * width,),
        }[self._order]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """See `Source.dtype`."""
        return self._source.dtype if self._preprocessing is None else np.dtype(np.float32)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See `Source.sample_shape`."""
        return self._shape

    def __len__(self) -> int:
        return len(self._source)

    def take(self, index: Index) -> Array:
        """See `Source.take`."""
        pixels = _channels_last(self._source.take(index), self._stored)
        if self._order == "NCHW":
            pixels = pixels.transpose(0, 3, 1, 2)
        pixels = np.ascontiguousarray(pixels).reshape(len(pixels), *self._shape)
        if self._preprocessing is None:
            return pixels
        return self._preprocessing.apply(pixels, _CHANNEL_AXIS[self._order])


def axis_order(port: PortSpec, preprocessing: Preprocessing | None) -> AxisOrder:
    """Return the order of an image's axes in the model's input: as stated, or read from its shape.

    Raises:
        DataError: the input does not have the rank of an image.
    """
    if preprocessing is not None and preprocessing.layout != "auto":
        return preprocessing.layout
    shape = port.shape
    if shape is None:
        return "NCHW"
    if len(shape) == _RANK_4:
        last_only = shape[3] in _CHANNEL_COUNTS and shape[1] not in _CHANNEL_COUNTS
        return "NHWC" if last_only else "NCHW"
    if len(shape) not in (2, _RANK_3):
        raise DataError("images do not fit the input", where=port.name, got=f"an input of rank {len(shape)}")
    return "NHW" if len(shape) == _RANK_3 else "NF"


def stored_order(sample: tuple[int, ...], port: PortSpec, preprocessing: Preprocessing | None) -> AxisOrder:
    """Return the layout of an array of pixels: the input's where that fits, else height, width, channels.

    Raises:
        DataError: the array does not have the rank of an image.
    """
    order = axis_order(port, preprocessing)
    shape = (port.shape or ())[1:]
    if len(sample) == len(shape) and all(
        want == got for got, want in zip(sample, shape, strict=True) if isinstance(want, int)
    ):
        return order
    if len(sample) not in (1, 2, 3):
        raise DataError("no images", where=port.name, got=f"uint8 samples of shape {sample}")
    orders: tuple[AxisOrder, ...] = ("NF", "NHW", "NHWC")
    return orders[len(sample) - 1]


def colour_mode(port: PortSpec, preprocessing: Preprocessing | None) -> Literal["RGB", "BGR", "L"]:
    """Return the channels that the model reads: as stated, or by their number."""
    if preprocessing is not None and preprocessing.channels != "auto":
        return preprocessing.channels
    axis = _CHANNEL_AXIS[axis_order(port, preprocessing)]
    is_grey = axis is None or (port.shape is not None and port.shape[axis] == 1)
    return "L" if is_grey else "RGB"


def _channels_last(pixels: Array, stored: AxisOrder) -> Array:
    """Return a view ``(n, h, w, c)``; pixels in a row are an image of height 1."""
    if stored == "NCHW":
        return pixels.transpose(0, 2, 3, 1)
    if stored == "NHW":
        return pixels[..., None]
    if stored == "NF":
        return pixels[:, None, :, None]
    return pixels


def _check_fit(preprocessing: Preprocessing, size: tuple[int, int], channels: int) -> None:
    if preprocessing.size is not None and preprocessing.size != size:
        raise DataError(
            "only image files are resized", where="preprocessing.size", got=size, expected=preprocessing.size
        )
    for key, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if len(values) not in (1, channels):
            raise DataError(
                "the number of values is not the number of channels",
                where=f"preprocessing.{key}",
                got=len(values),
                expected=channels,
            )
