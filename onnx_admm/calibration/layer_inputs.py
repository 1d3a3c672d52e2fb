"""Operators with weights as least-squares problems: ``T = X W'`` with W (rows, d).

A row of W computes one output channel; d numbers the inputs it reads. With ``group`` > 1, consecutive blocks
of rows have inputs of their own. Each extractor converts its stored tensor to that matrix and back, and the
inputs of its node to the rows of X.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from onnx_admm.admm.reconstruction.layer_problem import ridge_for
from onnx_admm.calibration.row_sampling import RowChoice
from onnx_admm.calibration.windows import (
    TransposedWindows,
    Windows,
    convolution_windows,
    transposed_windows,
)
from onnx_admm.contracts import Array, WeightSite
from onnx_admm.model import NodeRef
from onnx_admm.model.rewrite.expose_values import WeightUse

RECURRENT_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True, slots=True)
class Layout:
    """Conversion of a stored tensor to a matrix (rows, d) with ``group`` row blocks of separate inputs.

    The matrix is the tensor reshaped to ``split``, its axes put in the order ``axes``, reshaped to (rows, d);
    ``in_axis`` numbers input channels just before the last step.

    Where each output channel has a scale of its own, some rows still share one, so that the stored tensor has
    scales along one axis and standard operators can decode it: ``together`` consecutive rows, and the rows at
    the same place of each of ``blocks`` equal parts (directions, groups of a ConvTranspose).
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    axes: tuple[int, ...]
    rows: int
    in_axis: int
    group: int = 1
    together: int = 1
    blocks: int = 1

    @property
    def columns(self) -> int:
        """d: number of inputs of one row."""
        return prod(self.shape) // self.rows

    @property
    def ordered(self) -> tuple[int, ...]:
        """The shape between the two reshapes."""
        return tuple(self.split[axis] for axis in self.axes)

    def matrix(self, tensor: Array) -> Array:
        """Return the tensor as (rows, d)."""
        return tensor.reshape(self.split).transpose(self.axes).reshape(self.rows, -1)

    @property
    def of_row(self) -> Layout:
        """Layout of one row of the matrix."""
        shape = (1,) * self.in_axis + self.ordered[self.in_axis :]
        return Layout(shape, shape, tuple(range(len(shape))), 1, self.in_axis)

    def tensor(self, matrix: Array) -> Array:
        """Return the matrix in the stored shape."""
        back = np.argsort(self.axes)
        return matrix.reshape(self.ordered).transpose(back).reshape(self.shape)


class InputExtractor(Protocol):
    """One use of a weight by a node of the main graph."""

    @property
    def layout(self) -> Layout:
        """Conversion between tensor and matrix."""

    @property
    def exposed_values(self) -> tuple[str, ...]:
        """Values of the graph that `input_rows` reads."""

    def input_rows(self, values: Mapping[str, Array], choice: RowChoice) -> Array:
        """Return rows of X from the values of a batch: (group, n, d).

        Args:
            values: arrays by value name.
            choice: the rows.
        """

    def output_rows(self, y: Array, choice: RowChoice) -> Array:
        """Return values of the shape of the node's output as rows: (group, n, rows / group).

        Args:
            y: the values of a batch.
            choice: the rows, as for `input_rows`.
        """


@dataclass(frozen=True, slots=True)
class ConvolutionInputs:
    """Conv and ConvTranspose of any number of spatial axes and groups."""

    layout: Layout
    node: NodeRef
    kernel: tuple[int, ...]
    windows: Callable[[NodeRef, tuple[int, ...], tuple[int, ...]], Windows | TransposedWindows]

    @property
    def exposed_values(self) -> tuple[str, ...]:
        """The node's input."""
        return (_name_of(self.node, 0),)

    def input_rows(self, values: Mapping[str, Array], choice: RowChoice) -> Array:
        """See `InputExtractor.input_rows`; every sample gives the same positions, unless shares differ."""
        x = values[self.exposed_values[0]]
        spatial = x.shape[2:]
        windows = self.windows(self.node, self.kernel, spatial)
        places = prod(windows.extents(spatial))
        if choice.is_of_places(len(x) * places):
            drawn = choice.positions(len(x) * places)
            samples = [
                windows.rows(x[i : i + 1], drawn[drawn // places == i] % places) for i in range(len(x))
            ]
            rows = np.concatenate(samples)  # (n p, c, prod(kernel))
        else:
            rows = windows.rows(x, choice.of_each(len(x)).positions(places))
        if isinstance(windows, TransposedWindows):
            rows = rows[..., ::-1]  # the kernel is flipped
        grouped = rows.reshape(len(rows), self.layout.group, self.layout.columns)
        return np.moveaxis(grouped, 1, 0)

    def output_rows(self, y: Array, choice: RowChoice) -> Array:
        """See `InputExtractor.output_rows`."""
        flat = y.reshape(*y.shape[:2], -1)
        places = flat.shape[2]
        if choice.is_of_places(len(y) * places):
            rows = np.moveaxis(flat, 1, 2).reshape(-1, y.shape[1])[choice.positions(len(y) * places)]
        else:
            chosen = flat[:, :, choice.of_each(len(y)).positions(places)]
            rows = np.moveaxis(chosen, 1, 2).reshape(-1, y.shape[1])
        return np.moveaxis(rows.reshape(len(rows), self.layout.group, -1), 1, 0)


@dataclass(frozen=True, slots=True)
class ProductInputs:
    """MatMul and Gemm with the weight on either side; ``across`` where the inputs are columns."""

    layout: Layout
    name: str
    across: bool
    scale: float = 1.0

    @property
    def exposed_values(self) -> tuple[str, ...]:
        """The other operand."""
        return (self.name,)

    def input_rows(self, values: Mapping[str, Array], choice: RowChoice) -> Array:
        """See `InputExtractor.input_rows`; a vector (MatMul's 1-D form) is one row on either side."""
        x = values[self.name]
        across = self.across and x.ndim > 1
        rows = (np.swapaxes(x, -1, -2) if across else x).reshape(-1, self.layout.columns)
        return self.scale * rows[choice.positions(len(rows))][None]

    def output_rows(self, y: Array, choice: RowChoice) -> Array:
        """See `InputExtractor.output_rows`."""
        across = self.across and y.ndim > 1
        rows = (np.swapaxes(y, -1, -2) if across else y).reshape(-1, self.layout.rows)
        return rows[choice.positions(len(rows))][None]


@dataclass(frozen=True, slots=True)
class RecurrentInputs:
    """LSTM, GRU and RNN: the matrix W on the inputs, or R on the previous state (ONNX LSTM-14)."""

    layout: Layout
    node: NodeRef
    recurs: bool

    @property
    def exposed_values(self) -> tuple[str, ...]:
        """The sequence; for R the states after every step, and the first ones where computed."""
        if not self.recurs:
            return (_name_of(self.node, 0),)
        first = self.node.input(5)
        given = first is not None and first.constant() is None
        return (self.node.outputs[0].name, *((first.name,) if first is not None and given else ()))

    def input_rows(self, values: Mapping[str, Array], choice: RowChoice) -> Array:
        """See `InputExtractor.input_rows`."""
        x = values[self.exposed_values[0]]
        batch_first = bool(self.node.attribute("layout", 0))
        if not self.recurs:
            rows = x.reshape(-1, x.shape[-1])
            chosen = rows[choice.positions(len(rows))]
            return np.broadcast_to(chosen, (self.layout.group, *chosen.shape))
        states = np.moveaxis(x, 0, 2).swapaxes(0, 1) if batch_first else x  # (steps, directions, batch, h)
        before = np.stack([self._before(states, values, d, batch_first) for d in range(states.shape[1])])
        steps = before.reshape(len(before), -1, states.shape[-1])
        return steps[:, choice.positions(steps.shape[1])]

    def output_rows(self, y: Array, choice: RowChoice) -> Array:
        """Refuse: the outputs of gates are no values of the graph."""
        raise NotImplementedError("the outputs of gates are no values of the graph")

    def _before(self, states: Array, values: Mapping[str, Array], direction: int, batch_first: bool) -> Array:
        """Return the states before every step, (steps, batch, h)."""
        own = states[:, direction]
        backwards = direction == 1 or self.node.attribute("direction", "forward") == "reverse"
        first = self._first(values, direction, batch_first)
        first = np.zeros_like(own[0]) if first is None else np.broadcast_to(first, own[0].shape)
        return np.concatenate([own[1:], first[None]] if backwards else [first[None], own[:-1]])

    def _first(self, values: Mapping[str, Array], direction: int, batch_first: bool) -> Array | None:
        initial = self.node.input(5)
        if initial is None:
            return None
        constant = initial.constant()
        array = values[initial.name] if constant is None else constant
        return array[:, direction] if batch_first else array[direction]


@dataclass(frozen=True, slots=True)
class LookupInputs:
    """Gather of whole entries from a table (entries, ...): ``T = X W'`` with an input, 0 or 1, for each.

    Entries are independent of one another, so each is a group with one input, and samples determine only how
    often it is looked up. Entries that were never looked up count as looked up now and then, the more often
    the fewer look-ups were seen.
    """

    layout: Layout
    name: str

    @property
    def exposed_values(self) -> tuple[str, ...]:
        """The indices."""
        return (self.name,)

    def input_rows(self, values: Mapping[str, Array], choice: RowChoice) -> Array:
        """See `InputExtractor.input_rows`; one row for a batch, with the energy of all look-ups."""
        indices, entries = values[self.name].reshape(-1), self.layout.group
        counts = np.bincount(indices % entries, minlength=entries)
        unmet = ridge_for(entries, len(indices)) * len(indices) / entries
        energies: Array = np.sqrt(counts + unmet)[:, None, None]
        return energies

    def output_rows(self, y: Array, choice: RowChoice) -> Array:
        """Refuse: rows of a table have no place in a batch."""
        raise NotImplementedError("rows of a table have no place in a batch")


def extractor_of(site: WeightSite, use: WeightUse) -> InputExtractor | None:
    """Return the extractor of a node's inputs; None where its inputs are not available as rows.

    These are nodes inside subgraphs and functions, behind a Reshape, tables of which less than whole entries
    are looked up, stacks of matrices, and transposed convolutions cropped by more than their kernel's reach.
    """
    node, shape = use.node, site.shape
    if site.scope or site.out_axis is None or any(value is None for value in (node.input(0),)):
        return None
    match node.op_type:
        case "Conv":
            layout = Layout(shape, shape, tuple(range(len(shape))), shape[0], 1, site.group)
            return ConvolutionInputs(layout, node, shape[2:], convolution_windows)
        case "ConvTranspose":
            return _transposed(site, node)
        case "Gemm" | "MatMul" if len(shape) == 2:
            return _product(site, use)
        case "LSTM" | "GRU" | "RNN":
            layout = Layout(shape, shape, (0, 1, 2), shape[0] * shape[1], 2, shape[0], blocks=shape[0])
            recurs = use.index == 2
            if recurs and not node.outputs[0].name:
                return None
            return RecurrentInputs(layout, node, recurs)
        case "Gather" if node.attribute("axis", 0) == 0:
            return _lookup(site, node)
        case _:
            return None


def _transposed(site: WeightSite, node: NodeRef) -> InputExtractor:
    c_in, c_out, *kernel = site.shape  # c_out of one group
    split = (site.group, c_in // site.group, c_out, *kernel)
    axes = (0, 2, 1, *range(3, 3 + len(kernel)))
    layout = Layout(site.shape, split, axes, site.group * c_out, 2, site.group, blocks=site.group)
    return ConvolutionInputs(layout, node, tuple(kernel), transposed_windows)


def _lookup(site: WeightSite, node: NodeRef) -> InputExtractor | None:
    indices, entries = node.input(1), site.shape[0]
    if indices is None or indices.constant() is not None:
        return None
    axes = tuple(range(len(site.shape)))
    layout = Layout(site.shape, site.shape, axes, site.size, 1, entries, together=site.size // entries)
    return LookupInputs(layout, indices.name)


def _product(site: WeightSite, use: WeightUse) -> InputExtractor | None:
    node, first = use.node, use.index == 0
    other = node.input(1 - use.index)
    if other is None or other.constant() is not None:
        return None
    turned = bool(node.attribute("transA" if first else "transB", 0))  # how the weight is stored
    other_turned = bool(node.attribute("transB" if first else "transA", 0))
    upright = first != turned  # rows of the tensor are rows of the matrix
    axes = (0, 1) if upright else (1, 0)
    layout = Layout(site.shape, site.shape, axes, site.shape[axes[0]], 1)
    across = first != other_turned
    return ProductInputs(layout, other.name, across, float(node.attribute("alpha", 1.0)))


def _name_of(node: NodeRef, index: int) -> str:
    value = node.input(index)
    return "" if value is None else value.name
