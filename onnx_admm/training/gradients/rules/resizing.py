"""The gradient of resizing, which is linear and separable: along each axis a product with a matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_admm.training.gradients.node import GradientNode, UnsupportedVariant
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.tape import Tape


@rule("Resize")
def resize(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Along each axis that is resized, the transposed interpolation."""
    x_shape, y_shape = node.input_shapes[0], node.output_shapes[0]
    factors = [y // x if x and y % x == 0 else 0 for x, y in zip(x_shape, y_shape, strict=True)]
    axes = [_axis_of(node, axis) for axis in range(len(x_shape))]
    matrices = {one.axis: one.matrix() for one in axes if one.old != one.new or not one.is_identity()}
    if _repeats_images(factors, matrices):
        pooled = tape.write(
            "AveragePool", node.dy, kernel_shape=tuple(factors[2:]), strides=tuple(factors[2:])
        )
        return {0: tape.scaled(pooled, factors[2] * factors[3], node.dtype)}
    gradient = node.dy
    for axis, matrix in matrices.items():
        gradient = _along_axis(tape, gradient, len(x_shape), axis, tape.constant(matrix, node.dtype))
    return {0: gradient}


def _repeats_images(factors: list[int], matrices: dict[int, np.ndarray]) -> bool:
    """Whether every element of images is repeated a whole number of times along both spatial axes."""
    if len(factors) != 4 or factors[:2] != [1, 1] or not all(factors) or not set(matrices) <= {2, 3}:
        return False
    wholes = {axis: np.repeat(np.eye(len(m.T)), factors[axis], axis=0) for axis, m in matrices.items()}
    return all(
        matrix.shape == wholes[axis].shape and (matrix == wholes[axis]).all()
        for axis, matrix in matrices.items()
    )


Rounding = Callable[[np.ndarray], np.ndarray]

_ROUNDINGS: dict[str, Rounding] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
}


def _along_axis(tape: Tape, value: str, rank: int, axis: int, matrix: str) -> str:
    """Multiply a value along one axis by a matrix (old extent, new extent)."""
    order = [other for other in range(rank) if other != axis] + [axis]
    product = tape.write("MatMul", tape.transpose(value, order), matrix)
    return tape.transpose(product, [int(place) for place in np.argsort(order)])


@dataclass(frozen=True, slots=True)
class _Axis:
    """How one axis is resized: extents, scale, and the attributes that say where an output lies."""

    axis: int
    old: int
    new: int
    scale: float
    mode: str
    coordinates: str
    rounding: str
    cubic: float
    excludes_outside: bool

    def matrix(self) -> np.ndarray:
        """Interpolation weights, float64, shape (new, old)."""
        places = self._places()
        weights = {"nearest": self._nearest, "linear": self._linear, "cubic": self._cubic}
        if self.mode not in weights:
            raise UnsupportedVariant(f"mode {self.mode}")
        make: Callable[[np.ndarray], np.ndarray] = weights[self.mode]
        return make(places)

    def is_identity(self) -> bool:
        """Whether the axis stays as it is."""
        matrix = self.matrix()
        return matrix.shape[0] == matrix.shape[1] and bool((matrix == np.eye(len(matrix))).all())

    def _places(self) -> np.ndarray:
        """Where each output lies among the inputs; source: Resize, coordinate_transformation_mode."""
        out = np.arange(self.new, dtype=np.float64)
        match self.coordinates:
            case "half_pixel":
                return np.asarray((out + 0.5) / self.scale - 0.5)
            case "pytorch_half_pixel":
                return (out + 0.5) / self.scale - 0.5 if self.new > 1 else out * 0
            case "half_pixel_symmetric":
                length = self.scale * self.old
                adjustment = self.new / length
                return self.old / 2 * (1 - adjustment) + (out + 0.5) / self.scale - 0.5
            case "align_corners":
                return out * (self.old - 1) / (self.new - 1) if self.new > 1 else out * 0
            case "asymmetric":
                return out / self.scale
            case other:
                raise UnsupportedVariant(f"coordinate_transformation_mode {other}")

    def _nearest(self, places: np.ndarray) -> np.ndarray:
        rounded = _ROUNDINGS[self.rounding](places)
        return self._weighted(rounded.astype(np.int64)[:, None], np.ones((self.new, 1)))

    def _linear(self, places: np.ndarray) -> np.ndarray:
        low = np.floor(places).astype(np.int64)
        share = places - low
        return self._weighted(np.stack([low, low + 1], axis=1), np.stack([1 - share, share], axis=1))

    def _cubic(self, places: np.ndarray) -> np.ndarray:
        a, low = self.cubic, np.floor(places).astype(np.int64)
        near, far = places - low, 1 - (places - low)

        def inner(s: np.ndarray) -> np.ndarray:
            return np.asarray(((a + 2) * s - (a + 3)) * s * s + 1)

        def outer(s: np.ndarray) -> np.ndarray:
            return np.asarray(((a * s - 5 * a) * s + 8 * a) * s - 4 * a)

        weights = np.stack([outer(near + 1), inner(near), inner(far), outer(far + 1)], axis=1)
        return self._weighted(np.stack([low - 1, low, low + 1, low + 2], axis=1), weights)

    def _weighted(self, reads: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sum weights at the elements that are read; those beyond the ends are the ends, or left out."""
        inside = (reads >= 0) & (reads < self.old)
        if self.excludes_outside:
            weights = weights * inside
            weights = weights / weights.sum(axis=1, keepdims=True)
        matrix = np.zeros((self.new, self.old))
        rows = np.arange(self.new)[:, None]
        np.add.at(matrix, (np.broadcast_to(rows, reads.shape), np.clip(reads, 0, self.old - 1)), weights)
        return matrix


def _axis_of(node: GradientNode, axis: int) -> _Axis:
    """Return what the attributes say of one axis.

    Raises:
        UnsupportedVariant: antialiasing, or scales that are computed from the data.
    """
    if node.get("antialias", 0):
        raise UnsupportedVariant("antialias")
    old, new = node.input_shapes[0][axis], node.output_shapes[0][axis]
    return _Axis(
        axis=axis,
        old=old,
        new=new,
        scale=_scale(node, axis),
        mode=node.get("mode", "nearest"),
        coordinates=node.get("coordinate_transformation_mode", "half_pixel"),
        rounding=node.get("nearest_mode", "round_prefer_floor"),
        cubic=float(node.get("cubic_coeff_a", -0.75)),
        excludes_outside=bool(node.get("exclude_outside", 0)),
    )


def _scale(node: GradientNode, axis: int) -> float:
    """Return the scale of an axis: as stated, or the ratio of extents."""
    old, new = node.input_shapes[0][axis], node.output_shapes[0][axis]
    stated = node.constant(2) if node.has(2) and node.input_shapes[2] != (0,) else None
    if stated is None:
        return new / old
    axes = node.get("axes")
    if axes is None:
        return float(stated[axis])
    chosen = [int(one) % len(node.input_shapes[0]) for one in axes]
    return float(stated[chosen.index(axis)]) if axis in chosen else 1.0
