"""Range of an input, from the first operators of a graph: a normalisation, or stored statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_admm.data.synthetic.draws import STANDARD, Affine, Floats, Smooth
from onnx_admm.model import NodeRef, ValueRef

_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
"""Usual ranges of pixels."""

_PIXEL_MEAN, _PIXEL_DEVIATION = 0.45, 0.25
"""Mean and deviation of natural images, as shares of the range."""

_MOST_ELEMENTS = 1 << 16
_SIDE = 48  # of the image that a first convolution is tried on
_RIDGE = 1e-3


@dataclass(frozen=True)
class _Chain:
    """``y = slope * x + offset`` before the first node that is anything else.

    Attributes:
        slope, offset: arrays of the input's rank, broadcasting over ``y``.
        order: axes of the input in the order ``y`` has them.
        end: the node that reads ``y``; None where several do.
    """

    slope: Floats
    offset: Floats
    order: tuple[int, ...]
    end: NodeRef | None

    def input_scale(self, mean: Floats, deviation: Floats) -> Affine:
        """Return the scale of ``x`` that gives ``y`` this mean and deviation; broadcasts over a sample."""
        slope = np.where(self.slope == 0, 1.0, self.slope)
        back = np.argsort(self.order)
        means = ((mean - self.offset) / slope).transpose(back)
        deviations = (deviation / np.abs(slope)).transpose(back)
        return Affine(_without_batch(means), _without_batch(deviations))


def implied_scale(value: ValueRef | None, *, image: bool) -> Affine:
    """Return the mean and deviation of a float input.

    - Where a BatchNormalization reads it, plain, normalised or through one Conv: those for which its input
      has the mean and variance that it stores.
    - Where a normalisation (Sub, Div, Mul, Add, ImageScaler) comes first: for images, those of pixels in the
      usual range with which its result is nearest to mean 0 and deviation 1; for others, those with which it
      has mean 0 and deviation 1.
    - Else mean 0 and deviation 1.
    """
    rank = len(value.shape or ()) if value is not None else 0
    if value is None or rank < 2:
        return STANDARD
    chain = _follow(value, rank)
    statistics = _statistics(chain, rank)
    if statistics is not None:
        return chain.input_scale(*statistics)
    if not (np.any(chain.offset) or np.any(chain.slope != 1)):
        return STANDARD
    return _usual_range(chain) if image else chain.input_scale(np.zeros(()), np.ones(()))


def _follow(value: ValueRef, rank: int) -> _Chain:
    slope, offset = np.ones((1,) * rank), np.zeros((1,) * rank)
    order = tuple(range(rank))
    while True:
        nodes = [node for node in value.uses() if node.op_type not in ("Shape", "Size")]
        if len(nodes) != 1:
            return _Chain(slope, offset, order, None)
        node = nodes[0]
        constant = _operand(node, value, rank)
        first = node.inputs[0] == value
        match node.op_type:
            case "Cast" | "Identity" | "Dropout":
                pass
            case "Transpose":
                turn = node.attribute("perm", tuple(reversed(range(rank))))
                slope, offset, order = (
                    slope.transpose(turn),
                    offset.transpose(turn),
                    tuple(order[i] for i in turn),
                )
            case "Add" if constant is not None:
                offset = offset + constant
            case "Sub" if constant is not None:
                slope, offset = (slope, offset - constant) if first else (-slope, constant - offset)
            case "Mul" if constant is not None:
                slope, offset = slope * constant, offset * constant
            case "Div" if constant is not None and first and np.all(constant != 0):
                slope, offset = slope / constant, offset / constant
            case "ImageScaler" if rank == 4:
                factor, bias = node.attribute("scale", 1.0), node.attribute("bias", 0.0)
                slope, offset = slope * factor, offset * factor + np.reshape(bias, (1, -1, 1, 1))
            case _:
                return _Chain(slope, offset, order, node)
        value = node.outputs[0]


def _operand(node: NodeRef, value: ValueRef, rank: int) -> Floats | None:
    """Return the constant that a two-input node combines ``value`` with, as an array of that rank."""
    others = [other for other in node.inputs if other is not None and other != value]
    return _constant(others[0], rank) if len(others) == 1 else None


def _constant(value: ValueRef | None, rank: int | None = None) -> Floats | None:
    shape = () if value is None else value.shape or ()
    sizes = [extent for extent in shape if isinstance(extent, int)]
    if value is None or np.prod(sizes, dtype=float) > _MOST_ELEMENTS:
        return None
    array = value.constant()
    if array is None or array.dtype.kind not in "fiu" or (rank is not None and array.ndim > rank):
        return None
    numbers = array.astype(np.float64)
    return numbers if rank is None else numbers.reshape((1,) * (rank - array.ndim) + array.shape)


# -- statistics of a BatchNormalization ------------------------------------------------------


def _statistics(chain: _Chain, rank: int) -> tuple[Floats, Floats] | None:
    """Return mean and deviation of ``y`` as a BatchNormalization behind it stores them; None without one."""
    node = chain.end
    if node is None:
        return None
    along = (1, -1, *(1,) * (rank - 2))
    if node.op_type == "BatchNormalization":
        known = _stored_statistics(node)
        return None if known is None else (known[0].reshape(along), known[1].reshape(along))
    weight = _constant(node.input(1)) if node.op_type == "Conv" else None
    if weight is None or node.attribute("group", 1) != 1 or weight.ndim != rank:
        return None
    bias = _constant(node.input(2))
    shift = np.zeros(len(weight)) if bias is None else bias.reshape(-1)
    readers = node.outputs[0].uses()
    if len(readers) == 1 and readers[0].op_type == "Add":
        added = _operand(readers[0], node.outputs[0], rank)
        if added is None or added.size not in (1, len(weight)):
            return None
        shift = shift + added.reshape(-1)
        readers = readers[0].outputs[0].uses()
    norm = readers[0] if len(readers) == 1 else None
    known = _stored_statistics(norm) if norm is not None and norm.op_type == "BatchNormalization" else None
    if known is None or len(known[0]) != len(weight):
        return None
    means, deviation = _fit_convolution(weight, known[0] - shift, known[1])
    return means.reshape(along), np.full((1,) * rank, deviation)


def _stored_statistics(node: NodeRef) -> tuple[Floats, Floats] | None:
    mean, variance = _constant(node.input(3)), _constant(node.input(4))
    if mean is None or variance is None or mean.shape != variance.shape or np.any(variance <= 0):
        return None
    return mean.reshape(-1), np.sqrt(variance).reshape(-1)


def _fit_convolution(weight: Floats, mean: Floats, deviation: Floats) -> tuple[Floats, float]:
    """Return channel means m and one deviation s of an input whose convolution has these statistics.

    The convolution of ``m + s z`` has mean ``S m``, S the sums of each kernel, and deviation ``s d``, d that
    of the convolution of the texture z: m by least squares in units of the deviations, s the median of
    ``deviation / d``.

    Args:
        weight: (c_out, c_in, *kernel).
        mean: (c_out,), of the output without its bias.
        deviation: (c_out,), of the output.
    """
    kernel = weight.shape[2:]
    axes = tuple(range(-len(kernel), 0))
    shape = (weight.shape[1], *(max(_SIDE, 2 * extent) for extent in kernel))
    texture = Smooth(axes, -len(kernel) - 1).sample(np.random.default_rng(0), shape)
    texture = (texture - texture.mean()) / texture.std()
    windows = np.lib.stride_tricks.sliding_window_view(texture, kernel, axis=axes)
    rank = len(kernel)
    filtered = np.tensordot(weight, windows, axes=(range(1, rank + 2), (0, *range(rank + 1, 2 * rank + 1))))
    spread = np.maximum(filtered.reshape(len(weight), -1).std(axis=1), 1e-12)
    sums = weight.sum(axis=tuple(range(2, weight.ndim))) / deviation[:, None]
    gram = sums.T @ sums
    ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    means = (
        np.linalg.solve(gram + ridge, sums.T @ (mean / deviation)) if np.any(gram) else np.zeros(len(gram))
    )
    return means, float(np.median(deviation / spread))


# -- ranges of pixels ------------------------------------------------------------------------


def _usual_range(chain: _Chain) -> Affine:
    """Return the range of pixels whose normalised values are nearest to mean 0 and deviation 1."""

    def misfit(limits: tuple[float, float]) -> float:
        mean, deviation = _pixels(*limits)
        spread = float(np.abs(chain.slope).mean()) * deviation
        shift = float(np.abs(chain.slope * mean + chain.offset).mean())
        return shift / spread + abs(float(np.log(spread)))

    low, high = min(_RANGES, key=misfit)
    mean, deviation = _pixels(low, high)
    return Affine(np.array(mean), np.array(deviation), low, high)


def _pixels(low: float, high: float) -> tuple[float, float]:
    return low + _PIXEL_MEAN * (high - low), _PIXEL_DEVIATION * (high - low)


def _without_batch(array: Floats) -> Floats:
    """Return an array that broadcasts over a sample, from one that broadcasts over a batch."""
    return array[0] if array.ndim and array.shape[0] == 1 else array
