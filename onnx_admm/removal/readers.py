"""Layers that read a group of channels, as least-squares problems of the group's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.calibration.biases import LayerBias
from onnx_admm.calibration.moments import Moments
from onnx_admm.calibration.stream import CalibratedLayer, Calibration, LayerTarget, calibrated_layer
from onnx_admm.contracts import ModelView, WeightSite
from onnx_admm.model import NodeRef
from onnx_admm.model.channels.groups import ChannelGroup, Port, Units
from onnx_admm.model.rewrite.expose_values import weight_uses
from onnx_admm.removal.elimination import Floats, SharedProblem, refitted

_ROWS_PER_COLUMN, _LEAST_ROWS = 24, 16384
"""Rows of inputs for each column of a layer's matrix, and their least number."""

_REFITTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose outputs are values of the graph."""


class SampledLayer(CalibratedLayer):
    """A layer with moments of as many rows as a choice of channels needs."""

    @property
    def rows_requested(self) -> int:
        """Number of rows."""
        return max(_LEAST_ROWS, _ROWS_PER_COLUMN * self.extractors[0].layout.columns)


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads units of a group.

    Attributes:
        layer: the layer.
        units: units of the inputs of a row of its weights, (d,); -1 for inputs of other groups.
    """

    layer: CalibratedLayer
    units: Units

    @property
    def name(self) -> str:
        """Name of its weight."""
        return self.layer.site.name


def readers_of(
    model: ModelView, group: ChannelGroup, sites: Mapping[str, WeightSite]
) -> tuple[Reader, ...] | str:
    """Return the layers that read a group, or the sentence why one of them cannot be refitted."""
    found: dict[str, Reader] = {}
    for port in group.readers:
        name = port.weight.name
        site = sites.get(name)
        if site is None or not site.editable:
            return f"{name}, which reads its channels, is computed, encoded or fixed and cannot be refitted"
        layer = found[name].layer if name in found else _sampled(calibrated_layer(model, site))
        if layer is None:
            return f"the inputs of {name}, which reads its channels, are not available as rows"
        units = _columns(layer, port)
        if units is None:
            return f"the rows of {name}, which reads its channels, read different ones"
        if name in found and not np.array_equal(found[name].units, units):
            return f"{name} reads its channels at several places"
        found[name] = Reader(layer, units)
    return tuple(found.values())


def whole_layer(model: ModelView, site: WeightSite) -> Reader | None:
    """Return a layer as a reader without removable inputs, to refit it; None where it cannot be refitted."""
    if not site.editable or site.scope or site.op_type not in _REFITTED:
        return None
    layer = _sampled(calibrated_layer(model, site))
    return None if layer is None else Reader(layer, np.full(layer.extractors[0].layout.columns, -1, np.int64))


def _added_branch(model: ModelView, layer: CalibratedLayer) -> str | None:
    """Return the computed value that an Add joins to a layer's outputs; None where there is none."""
    node = _node_of(model, layer)
    if node is None or node.op_type not in _REFITTED:
        return None
    if layer.bias is not None and layer.bias.node != node:
        node = layer.bias.node
    output = node.outputs[0]
    readers = output.uses()
    if len(readers) != 1 or output.is_output or readers[0].op_type != "Add":
        return None
    others = [value for value in readers[0].inputs if value is not None and value != output]
    if len(others) != 1 or others[0].constant_shape is not None or others[0].producer() is None:
        return None
    return others[0].name


def _sampled(layer: CalibratedLayer | None) -> CalibratedLayer | None:
    return None if layer is None else SampledLayer(layer.site, layer.extractors, layer.bias)


def _node_of(model: ModelView, layer: CalibratedLayer) -> NodeRef | None:
    uses = weight_uses(model, layer.site)
    return uses[0].node if len(uses) == 1 else None


def _columns(layer: CalibratedLayer, port: Port) -> Units | None:
    """Return the units of the columns of a layer's matrix; None where its rows differ."""
    shape, layout = layer.site.shape, layer.extractors[0].layout
    along = [1] * len(shape)
    along[port.axis] = shape[port.axis]
    matrix = layout.matrix(np.broadcast_to(port.units.reshape(along), shape))
    first: Units = matrix[0]
    return first.copy() if (matrix == first).all() else None


class Refitting:
    """Problems of readers in the present model, and their refit.

    Removed inputs have zero weights; the model keeps its widths until all units are chosen.

    Args:
        calibration: samples, and the model whose outputs layers should keep.
        model: the model to change.
        targets: by site name, what layers should compute that the original does not have. Biases of all
            others are then read from the original, since other objects may have refitted the model before.
    """

    def __init__(
        self, calibration: Calibration, model: ModelView, targets: Mapping[str, LayerTarget] | None = None
    ) -> None:
        self._calibration, self._model, self._targets = calibration, model, targets
        self._removed: dict[str, np.ndarray] = {}
        self._biases: dict[str, np.ndarray] = {}

    def problems(self, readers: Sequence[Reader]) -> tuple[list[SharedProblem], dict[str, Moments]]:
        """Return the readers' problems behind the layers refitted so far, and their moments by name."""
        layers = [reader.layer for reader in readers]
        branches = {
            layer.site.name: branch
            for layer in layers
            if (branch := _added_branch(self._model, layer)) is not None
        }
        moments = self._calibration.moments(self._model, layers, branches=branches, targets=self._targets)
        problems = [
            SharedProblem(moments[reader.name].problem, reader.units, self._alive(reader))
            for reader in readers
            if reader.name in moments
        ]
        return problems, moments

    def refit(
        self,
        readers: Sequence[Reader],
        problems: Sequence[SharedProblem],
        moments: Mapping[str, Moments],
        gone: Units,
    ) -> dict[str, float]:
        """Remove units from the readers, and store their refitted weights; return relative errors by name."""
        errors = {}
        solvable = [reader for reader in readers if reader.name in moments]
        for reader, shared in zip(solvable, problems, strict=True):
            removed = np.isin(reader.units, gone)
            weights = refitted(shared, removed)
            self._removed[reader.name] = ~(shared.alive & ~removed)
            self._store(reader.layer, weights, moments[reader.name])
            errors[reader.name] = shared.problem.error(weights)
        return errors

    def has(self, name: str) -> bool:
        """Return whether a layer has been refitted."""
        return name in self._removed

    def _alive(self, reader: Reader) -> np.ndarray:
        removed = self._removed.get(reader.name)
        return np.ones(len(reader.units), np.bool_) if removed is None else ~removed

    def _bias_before(self, layer: CalibratedLayer, bias: LayerBias) -> Floats:
        """Return the bias that the refit's shift is added to: the original's, (rows,)."""
        name, rows = layer.site.name, layer.extractors[0].layout.rows
        if self._targets is not None and name in self._targets:
            return np.zeros(rows)
        if name not in self._biases:
            original = (
                None if self._targets is None else calibrated_layer(self._calibration.original, layer.site)
            )
            known = bias if original is None or original.bias is None else original.bias
            self._biases[name] = known.read(rows)
        return self._biases[name]

    def _store(self, layer: CalibratedLayer, weights: Floats, moments: Moments) -> None:
        layout = layer.extractors[0].layout
        kept = weights.astype(layer.site.dtype)
        self._model.replace(layer.site, layout.tensor(kept))
        if layer.bias is not None:
            before = self._bias_before(layer, layer.bias)
            layer.bias.store(self._model, (before + moments.bias_shift(kept)).astype(layer.site.dtype))
