"""Plan of a model with integer activations, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TensorGrid:
    """Grid of a value: ``x = scale * (code - zero_point)`` with uint8 codes.

    Attributes:
        scale: step, over 0.
        zero_point: code of 0.0, 0 to 255.
    """

    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        """Value of code 0."""
        return -self.scale * self.zero_point

    @property
    def high(self) -> float:
        """Value of code 255."""
        return self.scale * (255 - self.zero_point)


@dataclass(frozen=True, eq=False)
class IntegerWeight:
    """Weight of an integer kernel: ``codes * scales``, zero point 0.

    Attributes:
        codes: int8, shape of the weight.
        scales: fp32, () for one scale, (channels,) for one per output channel.
        axis: axis of the output channels.
        is_exact: whether ``codes * scales`` are the dense weight's own values, not rounded ones.
    """

    codes: npt.NDArray[np.int8] = field(repr=False)
    scales: npt.NDArray[np.float32] = field(repr=False)
    axis: int
    is_exact: bool = False

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """Values that the kernel computes with, fp32."""
        shape = [1] * self.codes.ndim
        if self.scales.ndim:
            shape[self.axis] = -1
        return self.codes * self.scales.reshape(shape)


@dataclass(frozen=True, eq=False)
class IntegerProduct:
    """A Conv, Gemm or MatMul that becomes an integer kernel.

    Attributes:
        node: index of the node in the main graph.
        weight: its weight.
        bias: int32, (channels,); the scale is that of the input times the weight's. None: without bias.
        rank: number of axes of its data; 0 where unknown.
    """

    node: int
    weight: IntegerWeight
    bias: npt.NDArray[np.int32] | None = None
    rank: int = 0


@dataclass(frozen=True, eq=False)
class LinearProduct:
    """A Gemm or MatMul with an integer weight between float values, without a grid of its data.

    Attributes:
        output: first output of the node.
        name: name of its weight.
        weight: its weight, a matrix.
        bias: fp32, (columns,), of a Gemm with one.
    """

    output: str
    name: str
    weight: IntegerWeight
    bias: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class IntegerPlan:
    """Nodes that become integer kernels, and the grids of the values between them.

    Attributes:
        products: nodes with a weight.
        others: indices of further integer nodes, those that pass integers through included.
        grids: grid by value that is read or given as integers.
        given: values that an integer node gives: all their readers read them dequantised.
    """

    products: tuple[IntegerProduct, ...]
    others: tuple[int, ...]
    grids: Mapping[str, TensorGrid]
    given: frozenset[str]
