"""ModelView: the owner of one ONNX model and the only object that changes its graph."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.errors import UsageError
from onnx_admm.model import files
from onnx_admm.model.constants import constant_tensor, replace_constant
from onnx_admm.model.sites import WeightSite, find_sites


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One graph input or output: name, numpy dtype name, shape with symbols (``None`` if unknown)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """The user's contract: inputs and outputs, in order. No pass changes it."""

    inputs: tuple[PortSpec, ...]
    outputs: tuple[PortSpec, ...]


class ModelView:
    """One ONNX model: load, look at, edit, fork, save."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    # -- birth and storage -----------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelView:
        """Read and check a model file (external data stays on disk until read).

        Raises:
            ModelError: missing, not ONNX, unsafe paths or sizes, refused by the checker.
        """
        return cls(files.load_model(path))

    @classmethod
    def from_bytes(cls, data: bytes) -> ModelView:
        """Read a serialised ModelProto.

        Raises:
            ModelError: the bytes are not a valid model.
        """
        return cls(files.parse_model(data))

    def to_bytes(self) -> bytes:
        """Serialise, weights included."""
        return files.serialize_model(self._model)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Check and write atomically; returns the bytes on disk, external data included.

        Raises:
            OutputError: the checker refuses the model, or the disk does.
        """
        return files.save_model(self._model, path)

    def fork(self) -> ModelView:
        """An independent copy; weights are shared until one side replaces them."""
        return ModelView(self._model.clone())

    # -- looking ---------------------------------------------------------------------------

    @property
    def graph_ir(self) -> ir.Model:
        """The IR itself, for the files of ``model/`` alone; other rooms use the methods."""
        return self._model

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        imports = self._model.opset_imports
        return imports.get("", imports.get("ai.onnx", 1))

    @property
    def ir_version(self) -> int:
        """IR version of the file."""
        return self._model.ir_version

    @property
    def metadata(self) -> MutableMapping[str, str]:
        """Model-level ``metadata_props``, writable."""
        return self._model.metadata_props

    def signature(self) -> Signature:
        """Inputs (initializers that double as inputs left out) and outputs."""
        graph = self._model.graph
        inputs = tuple(_port(value) for value in graph.inputs if not value.is_initializer())
        return Signature(inputs, tuple(_port(value) for value in graph.outputs))

    def sites(self) -> tuple[WeightSite, ...]:
        """Every compressible weight, in graph order, subgraphs and functions included."""
        return tuple(site for site, _ in self._sites().values())

    def site(self, name: str) -> WeightSite:
        """The site of that name.

        Raises:
            UsageError: there is none.
        """
        return self._find(name)[0]

    def read(self, site: WeightSite | str) -> npt.NDArray[np.floating]:
        """A copy of the site's weights, in their stored shape and dtype."""
        tensor = constant_tensor(self._find(site)[1])
        if tensor is None:
            raise UsageError("the weight is not stored as a constant", where=site)
        return np.array(tensor.numpy())

    # -- editing ---------------------------------------------------------------------------

    def replace(self, site: WeightSite | str, array: npt.NDArray[np.generic]) -> None:
        """Store new values for a site; the shape must stay.

        Raises:
            UsageError: unknown site, or another shape.
        """
        known, value = self._find(site)
        if array.shape != known.shape:
            raise UsageError(
                "new weights of another shape", where=known.name, got=array.shape, expected=known.shape
            )
        replace_constant(value, array.astype(known.dtype))

    # -- inside ----------------------------------------------------------------------------

    def _sites(self) -> dict[str, tuple[WeightSite, ir.Value]]:
        return find_sites(self._scopes())

    def _find(self, site: WeightSite | str) -> tuple[WeightSite, ir.Value]:
        name = site if isinstance(site, str) else site.name
        found = self._sites()
        if name not in found:
            raise UsageError("no such weight", where=name, expected=f"one of {', '.join(found) or 'none'}")
        return found[name]

    def _scopes(self) -> Iterator[tuple[str, ir.Graph | ir.Function]]:
        yield from _graph_scopes("", self._model.graph)
        for function in self._model.functions.values():
            yield from _graph_scopes(function.name, function)


def _graph_scopes(scope: str, graph: ir.Graph | ir.Function) -> Iterator[tuple[str, ir.Graph | ir.Function]]:
    yield scope, graph
    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.GRAPH:
                label = node.name or node.outputs[0].name or node.op_type
                inner = f"{label}.{name}"
                yield from _graph_scopes(f"{scope}/{inner}" if scope else inner, attribute.as_graph())


def _port(value: ir.Value) -> PortSpec:
    shape = None
    if value.shape is not None:
        shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
    dtype = str(value.dtype.numpy()) if value.dtype is not None else "unknown"
    return PortSpec(value.name or "", dtype, shape)
