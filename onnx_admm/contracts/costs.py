"""Cost models: the interface that prices each layer of a model under a compression option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from onnx_admm.errors import UsageError
from onnx_admm.model import LayerProfile, ModelView
from onnx_admm.settings.ranges import parse_pattern

STRUCTURES = ("unstructured", "block", "channel")
"""Structures of zeros, in addition to patterns such as ``2:4``."""


@dataclass(frozen=True, slots=True)
class CompressionOption:
    """How a layer's weights are stored: density, bits and structure of the zeros.

    Attributes:
        density: nonzeros over weights, 0 to 1.
        bits: bits of a weight, 1 to 64.
        structure: how the zeros lie: anywhere (``unstructured``), in blocks (``block``), as whole output
            channels (``channel``), or at most N nonzeros in every M weights (``N:M``).

    Raises:
        UsageError: an impossible density, number of bits or structure.

    Example:
        >>> from onnx_admm.contracts import CompressionOption
        >>> CompressionOption(density=0.5, bits=8, structure="2:4").pattern
        (2, 4)
        >>> CompressionOption(density=2)
        Traceback (most recent call last):
            ...
        onnx_admm.errors.UsageError: impossible density; got 2; expected 0 to 1
    """

    density: float = 1.0
    bits: int = 32
    structure: str = "unstructured"

    def __post_init__(self) -> None:
        if not 0.0 <= self.density <= 1.0:
            raise UsageError("impossible density", got=self.density, expected="0 to 1")
        if not 1 <= self.bits <= 64:
            raise UsageError("impossible bits", got=self.bits, expected="1 to 64")
        if self.structure not in STRUCTURES and self.pattern is None:
            known = f"{', '.join(STRUCTURES)} or a pattern such as 2:4"
            raise UsageError("no such structure", got=repr(self.structure), expected=known)

    @property
    def pattern(self) -> tuple[int, int] | None:
        """N and M where the structure is ``N:M``, else None."""
        return parse_pattern(self.structure)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one row of a price list; None where the cost model gives no value, never 0 for unknown.

    Attributes:
        bytes: bytes of weights in the file, or moved; the cost model's ``assumes`` says which.
        macs: multiply-accumulates that are carried out; zeros are left out only where the target skips them.
        latency_s: seconds of one run.
        energy_j: joules of one run.
        mac_bits: multiply-accumulates times the bits of their weight.
        uncertainty: relative uncertainty of latency and energy: 0.25 for a quarter up or down; None where the
            quantities are exact.

    Example:
        >>> from onnx_admm.contracts import Cost
        >>> cost = Cost(latency_s=1e-3, uncertainty=0.25)
        >>> cost.bytes is None
        True
    """

    bytes: float | None = None
    macs: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None
    mac_bits: float | None = None
    uncertainty: float | None = None


QUANTITIES = ("latency_s", "energy_j", "bytes", "macs", "mac_bits")
"""Names of the quantities of a `Cost`."""

QUANTITY_OF = {
    "latency": "latency_s",
    "energy": "energy_j",
    "size": "bytes",
    "macs": "macs",
    "macbits": "mac_bits",
}
"""Quantities of a `Cost` by their names in commands and recipes."""


@runtime_checkable
class CostModel(Protocol):
    """Interface of cost models: a frozen dataclass whose fields are the keys of its profile.

    The cost of a model is the sum of its rows, unless the cost model also has the members of `Composition`. A
    cost model of the machine it runs on has a member ``is_this_machine`` that is True: a result with a
    latency budget must then not be slower than the original when both are timed. One that names a processor
    has a member ``target``, a `RuntimeTarget`: its facts hold for passes too.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> from onnx_admm.contracts import Cost, CostModel, CompressionOption
        >>> from onnx_admm.testing import layers
        >>> @dataclass(frozen=True)
        ... class Steady:
        ...     '''One multiplier that skips zeros.'''
        ...     name: ClassVar[str] = "steady"
        ...     quantities: ClassVar[tuple[str, ...]] = ("latency_s",)
        ...     mhz: float = 100.0
        ...     @property
        ...     def assumes(self):
        ...         return f"a MAC a cycle at {self.mhz:g} MHz"
        ...     def estimate(self, layer, option):
        ...         seconds = layer.known_macs() * option.density / (self.mhz * 1e6)
        ...         return Cost(latency_s=seconds, uncertainty=0.5)
        >>> isinstance(Steady(), CostModel)
        True
        >>> f"{Steady().estimate(layers()[0], CompressionOption(density=0.5)).latency_s:.3g} s"
        '0.000829 s'
    """

    name: ClassVar[str]

    @property
    def assumes(self) -> str:
        """Assumptions behind the quantities, as a sentence."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """Members of `QUANTITIES` that are given for every row; the main one first."""

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the cost of a row stored as ``option``; a row without weights ignores ``option``.

        Raises:
            UnknownExtent: the cost depends on an open axis (raised by `LayerProfile.known_macs` and others).
            UnpricedOperator: the cost of this operator is unknown.
        """


@runtime_checkable
class Composition(Protocol):
    """A cost model whose total is not the sum of its rows.

    Example:
        >>> from onnx_admm.contracts import Composition, Cost
        >>> class Slowest:
        ...     '''Rows that run side by side.'''
        ...     composition = "the slowest row"
        ...     def compose(self, rows):
        ...         return Cost(latency_s=max(row.latency_s for row in rows))
        >>> isinstance(Slowest(), Composition)
        True
        >>> Slowest().compose([Cost(latency_s=1.0), Cost(latency_s=3.0)]).latency_s
        3.0
    """

    @property
    def composition(self) -> str:
        """How rows become a total, as a phrase: ``the sum of the rows and 12 us for the call``."""

    def compose(self, rows: Sequence[Cost]) -> Cost:
        """Return the total cost of all rows."""


@runtime_checkable
class WholeModel(Protocol):
    """A cost model that prices rows more precisely once it knows the model they belong to.

    Example:
        >>> from dataclasses import dataclass, replace
        >>> from onnx_admm.contracts import WholeModel
        >>> from onnx_admm.testing import model_family
        >>> @dataclass(frozen=True)
        ... class Counted:
        ...     '''Knows how many weights the model has (its prices are left out here).'''
        ...     weights: int = 0
        ...     def for_model(self, view, bindings):
        ...         return replace(self, weights=len(view.sites()))
        >>> isinstance(Counted(), WholeModel)
        True
        >>> Counted().for_model(model_family()["conv_net"], {"N": 1})
        Counted(weights=3)
    """

    def for_model(self, view: ModelView, bindings: Mapping[str, int]) -> CostModel:
        """Return a cost model for the rows of ``view``, with these extents of open axes."""
