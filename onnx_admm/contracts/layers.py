"""What a recipe asks for single layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerSetting:
    """The form that a recipe asks for some layers; all passes but ``set_layers`` then leave their weights.

    Attributes:
        is_float: the weights stay as they are, and the layer is computed with floats.
        bits: bits of a weight, 1 to 8; None: not quantised.
        keep: share of nonzeros, above 0 and at most 1; None: none is set to zero.

    Example:
        >>> from onnx_admm.contracts import LayerSetting
        >>> str(LayerSetting(bits=8, keep=0.1)), str(LayerSetting(is_float=True))
        ('8 bits and 0.1 of the weights', 'float')
    """

    is_float: bool = False
    bits: int | None = None
    keep: float | None = None

    def __str__(self) -> str:
        if self.is_float:
            return "float"
        bits = [] if self.bits is None else [f"{self.bits} bit{'s' * (self.bits > 1)}"]
        keep = [] if self.keep is None else [f"{self.keep:g} of the weights"]
        return " and ".join((*bits, *keep))
