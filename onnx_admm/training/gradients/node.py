"""What a gradient rule sees of a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_admm.model.differentiation.records import Array, Attribute, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNode:
    """A node of the forward pass whose gradient is asked for.

    Attributes:
        operator, domain, name: which it is.
        inputs, outputs: names of its values; empty where an optional one is left out.
        attributes: by name; strings are ``str``, lists are tuples, tensors are arrays.
        input_shapes, output_shapes: one for each input and output; () for those left out.
        constants: the value of each input that is the same in every step (integers, a few numbers), or None.
        dtype: of the first output, and of its gradient.
        gradients: the value that holds d loss / d output, of the output's shape; None where the loss does not
            depend on the output.
        requested: for each input, whether its gradient is asked for.
    """

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    constants: tuple[Array | None, ...]
    dtype: np.dtype[np.generic]
    gradients: tuple[str | None, ...]
    requested: tuple[bool, ...]

    @property
    def dy(self) -> str:
        """The gradient of the first output.

        Raises:
            UnsupportedVariant: only other outputs have one.
        """
        if self.gradients[0] is None:
            raise UnsupportedVariant("an output but the first is differentiated")
        return self.gradients[0]

    @property
    def x(self) -> str:
        """Name of the first input."""
        return self.inputs[0]

    @property
    def y(self) -> str:
        """Name of the first output."""
        return self.outputs[0]

    def has(self, index: int) -> bool:
        """Whether the input of that index is given."""
        return len(self.inputs) > index and bool(self.inputs[index])

    def wants(self, index: int) -> bool:
        """Whether the gradient of the input of that index is asked for."""
        return len(self.requested) > index and self.requested[index]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or its default."""
        return self.attributes.get(name, default)

    def constant(self, index: int) -> Array | None:
        """Return the value of an input that is the same in every step; None where it is left out.

        Raises:
            UnsupportedVariant: the input is computed from the data.
        """
        if not self.has(index):
            return None
        if (value := self.constants[index]) is None:
            raise UnsupportedVariant(f"input {index} is computed from the data")
        return value


class UnsupportedVariant(Exception):
    """A rule does not cover this use of its operator; says which."""
