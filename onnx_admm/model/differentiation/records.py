"""Graphs of static shape as plain records, which gradient rules read and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Subgraph:
    """The body of a control-flow node: names of inputs and outputs, and nodes in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[GraphNode, ...]


Attribute = (
    int
    | float
    | str
    | tuple[int, ...]
    | tuple[float, ...]
    | tuple[str, ...]
    | npt.NDArray[np.generic]
    | Subgraph
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One node.

    Attributes:
        operator: its type.
        inputs, outputs: names of values; empty where an optional one is left out.
        attributes: by name; those that hold a graph are in ``stored`` alone, where the node was read.
        domain: empty for the default domain.
        name: for messages.
        stored: the serialised node it was read from; None where it was made here.
        captured: values of the graph around it that its subgraphs read.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    domain: str = ""
    name: str = ""
    stored: bytes | None = field(default=None, repr=False)
    captured: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Every value of its own graph that it depends on."""
        return (*(name for name in self.inputs if name), *self.captured)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticGraph:
    """A graph in which every extent is known.

    Attributes:
        nodes: in topological order.
        inputs, outputs: names.
        constants: initializers by name.
        known: small integer values that follow from shapes and constants alone, by name.
        shapes: of every tensor, by name.
        dtypes: numpy dtype of every tensor, by name.
        opsets: version by domain.
    """

    nodes: tuple[GraphNode, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array]
    known: Mapping[str, Array]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, np.dtype[np.generic]]
    opsets: Mapping[str, int]
