"""ModelView: the owner of one ONNX model and the only object that changes its graph."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.errors import ModelError, UsageError, reading
from onnx_admm.model import edit, scopes
from onnx_admm.model.conditions import Conditions
from onnx_admm.model.constants import constant_tensor, replace_constant, stored_tensor, why_fixed
from onnx_admm.model.edit import NodeRef, ValueRef
from onnx_admm.model.folding.decoder import Decoded, Decoder
from onnx_admm.model.graph_state import GraphState
from onnx_admm.model.loading import model_files
from onnx_admm.model.loading.default_inputs import listed_by_habit, unlist
from onnx_admm.model.loading.map_outputs import tail_of
from onnx_admm.model.sites import FoundSite, SiteFinder, WeightSite
from onnx_admm.model.writing import saving
from onnx_admm.model.writing.atomic_output import OutputFile
from onnx_admm.model.writing.saving import ModelFiles

_UNREADABLE = "the model cannot be read"


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One graph input or output: name, numpy dtype name (``str`` for texts), shape with symbols.

    An axis of no known extent or symbol is None, and so is a shape of unknown rank.

    Example:
        >>> from onnx_admm.testing import model_family
        >>> model_family()["conv_net"].signature().inputs[0]
        PortSpec(name='x', dtype='float32', shape=('N', 1, 8, 8))
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """The user's contract: inputs and outputs, in order. No pass changes it.

    Attributes:
        inputs: inputs that a caller gives.
        outputs: outputs of the model.
        defaults: inputs with a stored default, which a caller may override (IR version 4 and newer).
    """

    inputs: tuple[PortSpec, ...]
    outputs: tuple[PortSpec, ...]
    defaults: tuple[PortSpec, ...] = ()


class ModelView:
    """One ONNX model: load, inspect, edit, fork, save.

    Example:
        >>> from onnx_admm.contracts import ModelView
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> model = ModelView.load("net.onnx")
        >>> copy = model.fork()
        >>> site = copy.sites()[0]
        >>> copy.replace(site, copy.read(site) * 0)
        >>> bool(copy.read(site).any()), bool(model.read(site).any())
        (False, True)
    """

    def __init__(self, model: ir.Model, conditions: Conditions | None = None) -> None:
        self._model = model
        self.conditions = conditions or Conditions()
        self._decoder = Decoder()
        self._last: dict[str, FoundSite] = {}
        self._state: GraphState | None = None

    # -- birth and storage -----------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelView:
        """Read and check a model file (external data stays on disk until read).

        Raises:
            ModelError: missing, not ONNX, unsafe paths or sizes, refused by the checker.
        """
        with reading(os.fspath(path), ModelError, _UNREADABLE):
            return cls(model_files.load_model(path))

    @classmethod
    def from_bytes(cls, data: bytes) -> ModelView:
        """Read a serialised ModelProto.

        Raises:
            ModelError: the bytes are not a valid model.
        """
        with reading("serialised model", ModelError, _UNREADABLE):
            return cls(model_files.parse_model(data))

    def to_bytes(self, *, maps: bool = True) -> bytes:
        """Serialise the model, weights included.

        Args:
            maps: with outputs that are maps, as in the file; else with the tensors that they are made of.
        """
        return model_files.serialize_model(self._model, maps=maps)

    def save(self, path: str | os.PathLike[str], *, inputs: Collection[Path] = ()) -> int:
        """Check and write atomically; return the bytes on disk, external data included.

        Args:
            path: target path.
            inputs: files that must stay, by any name.

        Raises:
            OutputError: the checker refuses the model, or the disk does.
            UsageError: another run writes the file, or the target is no regular file.
        """
        return saving.save_model(self._model, path, inputs=inputs)

    def write_files(self, output: OutputFile, inputs: Collection[Path] = ()) -> ModelFiles:
        """Check and write into the folder of an output; the caller moves the files in place.

        Raises:
            OutputError: the checker refuses the model, or the disk does.
        """
        return saving.write_model(self._model, output, inputs)

    def fork(self) -> ModelView:
        """Return an independent copy; weights are shared until one side replaces them."""
        return ModelView(self._model.clone(), self.conditions)

    def become(self, other: ModelView) -> None:
        """Replace the content by that of ``other``, for instance after a conversion on a copy."""
        self.__init__(other.graph_ir, self.conditions)  # type: ignore[misc]

    # -- looking ---------------------------------------------------------------------------

    @property
    def graph_ir(self) -> ir.Model:
        """The IR itself, for the files of ``model/`` alone; other packages use the methods."""
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
        """Return the inputs that a caller gives, the outputs, and which inputs have defaults.

        Outputs that are maps are listed at their place, with a description in place of a dtype.
        """
        graph = self._model.graph
        required = tuple(_port(value) for value in graph.inputs if not value.is_initializer())
        defaults = tuple(_port(value) for value in graph.inputs if value.is_initializer())
        tail = tail_of(self._model)
        shown = frozenset[str]() if tail is None else frozenset(tail.shown)
        outputs = [_port(value) for value in graph.outputs if value.name not in shown]
        for place, name, kind in () if tail is None else tail.contract():
            outputs.insert(place, PortSpec(name, kind, None))
        return Signature(required, tuple(outputs), defaults)

    @property
    def has_maps(self) -> bool:
        """Whether the file has outputs that are maps; in memory their tensors are outputs."""
        return tail_of(self._model) is not None

    def sites(self) -> tuple[WeightSite, ...]:
        """Return every compressible weight, in graph order, subgraphs and functions included."""
        return tuple(self._shown(found.site) for found in self.found_sites().values())

    def site(self, name: str) -> WeightSite:
        """Return the site of that name.

        Raises:
            UsageError: there is none.
        """
        self.found_sites()
        return self._shown(self._find(name).site)

    def read(self, site: WeightSite | str) -> npt.NDArray[np.floating]:
        """Return a copy of the site's weights, dense, in their dtype (an encoded weight is decoded)."""
        return self.read_found(self._find(site))

    def weights(self) -> Iterator[tuple[WeightSite, npt.NDArray[np.floating]]]:
        """Yield every site with the result of ``read``, in graph order, one at a time."""
        for found in self.found_sites().values():
            yield self._shown(found.site), self.read_found(found)

    def decoded(self, site: WeightSite | str) -> Decoded:
        """Return the site's dense weight, and its stored size."""
        return self.decoded_found(self._find(site))

    def nodes(self, op_type: str | None = None) -> tuple[NodeRef, ...]:
        """Return every node in graph order, subgraphs and functions included; of one operator if named."""
        return tuple(
            NodeRef(node, scope)
            for scope, graph in scopes.named_scopes(self._model)
            for node in graph
            if op_type is None or (node.op_type == op_type and node.domain in ("", "ai.onnx"))
        )

    def function_scopes(self) -> frozenset[str]:
        """Return the scopes inside model-local functions, which see nothing of the main graph."""
        return scopes.function_scopes(self._model)

    def state(self) -> GraphState:
        """Return the present state, for callers that keep results about the model."""
        return GraphState(self._model)

    def is_still(self, state: GraphState) -> bool:
        """Return whether nothing has changed since ``state`` was taken."""
        return state.holds_for(self._model)

    # -- editing ---------------------------------------------------------------------------

    def replace(self, site: WeightSite | str, array: npt.NDArray[np.generic]) -> None:
        """Store new values for a site; the shape must stay.

        Raises:
            UsageError: unknown site, or another shape.
        """
        found = self._find(site)
        known = self._shown(found.site)
        _check_free(found.value)
        if known.fixed_by_recipe is not None:
            raise UsageError("its values must stay", where=known.name, got=known.fixed_by_recipe.why)
        if not known.editable:
            raise UsageError(
                "the weight is already encoded",
                where=known.name,
                hint="Start from the model as it was before encoding.",
            )
        if array.shape != known.shape:
            raise UsageError(
                "new weights of another shape", where=known.name, got=array.shape, expected=known.shape
            )
        self._state = None  # else it keeps the old weights
        replace_constant(found.value, array.astype(known.dtype, copy=False))

    def write_back(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Store new values by tensor name: sites and any other constant of the main graph (biases).

        Raises:
            UsageError: no constant of that name, or another shape.
        """
        sites = self.found_sites()
        initializers = self._model.graph.initializers
        for name, array in arrays.items():
            value = sites[name].value if name in sites else initializers.get(name)
            tensor = None if value is None else constant_tensor(value)
            if value is None or tensor is None or tuple(tensor.shape.numpy()) != array.shape:
                raise UsageError("no constant of that name and shape", where=name, got=array.shape)
            _check_free(value)
            replace_constant(value, array.astype(tensor.dtype.numpy(), copy=False))

    def write(self, value: ValueRef, array: npt.NDArray[np.generic]) -> None:
        """Store new content, of any shape and type, for a constant.

        Raises:
            UsageError: the value is no constant.
        """
        if value.constant() is None:
            raise UsageError("not a constant", where=value.name)
        _check_free(value.ir_value)
        replace_constant(value.ir_value, array)

    def add_constant(self, node: NodeRef, index: int, array: npt.NDArray[np.generic], name: str) -> ValueRef:
        """Give a node a new constant as input ``index``; ``name`` gets a number if it is taken."""
        return ValueRef(edit.add_constant(self._model, node.ir_node, index, array, name))

    def set_attribute(self, node: NodeRef, name: str, value: int | float | str | Sequence[int]) -> None:
        """Set an attribute of a node: a number, a text or whole numbers."""
        node.ir_node.attributes.add(ir.convenience.convert_attribute(name, value))

    def remove_attribute(self, node: NodeRef, name: str) -> None:
        """Remove an attribute of a node, where it has it."""
        node.ir_node.attributes.pop(name, None)

    def bypass(self, node: NodeRef, replacement: ValueRef) -> None:
        """Remove a node; readers of its first output read ``replacement``, outputs keep their names."""
        edit.bypass(node.ir_node, replacement.ir_value)

    def replace_node(
        self,
        node: NodeRef,
        op_type: str,
        inputs: Sequence[ValueRef],
        attributes: Mapping[str, Any] | None = None,
    ) -> NodeRef:
        """Replace a node with one output by another operator; the output's value stays."""
        values = [value.ir_value for value in inputs]
        return NodeRef(edit.replace_node(node.ir_node, op_type, values, attributes or {}), node.scope)

    def insert_before(self, place: NodeRef, op_type: str, inputs: Sequence[ValueRef], name: str) -> NodeRef:
        """Insert a node with one output in front of another; ``name`` gets a number if it is taken."""
        values = [value.ir_value for value in inputs]
        return NodeRef(edit.insert_before(self._model, place.ir_node, op_type, values, name), place.scope)

    @property
    def lists_by_habit(self) -> bool:
        """Whether nine tenths or more of the initializers are listed as inputs, by the exporter."""
        return listed_by_habit(self._model)

    def freeze_defaults(self) -> tuple[str, ...]:
        """Turn all defaults into constants that no caller can override; return their names."""
        return unlist(self._model)

    def strip_unused(self) -> bool:
        """Remove nodes and constants that nothing reads; return whether there were any."""
        return edit.strip_unused(self._model)

    # -- inside ----------------------------------------------------------------------------

    def found_sites(self) -> dict[str, FoundSite]:
        """Return every site by name with its IR, for ``model/`` alone; kept until the graph changes."""
        if self._state is None or not self._state.holds_for(self._model):
            self._state = None  # it may keep large weights in memory
            self._last = SiteFinder(self._decoder, self.opset).find(scopes.named_scopes(self._model))
            self._state = GraphState(self._model)
        return self._last

    def read_found(self, found: FoundSite) -> npt.NDArray[np.floating]:
        """Return the result of ``read`` for a site that was just found, for ``model/`` alone."""
        tensor = stored_tensor(found.value) if found.lookup is None else None
        return np.array(tensor.numpy()) if tensor is not None else self.decoded_found(found).array

    def decoded_found(self, found: FoundSite) -> Decoded:
        """Return the result of ``decoded`` for a site that was just found, for ``model/`` alone."""
        decoded, lookup = self._decoder.describe(found.value, self.opset), found.lookup
        if lookup is None:
            return decoded
        scale = None if lookup.scale is None else self._decoder.describe(lookup.scale, self.opset)
        array = lookup.decoded(decoded.array, None if scale is None else scale.array)
        own = decoded.stored_bytes + (0 if scale is None else scale.stored_bytes)
        return replace(decoded, array=array, stored_bytes=own)

    def _shown(self, site: WeightSite) -> WeightSite:
        """Return a site as passes see it: fixed where the recipe fixes it."""
        found = self.conditions.fixed.get(site.name)
        if found is None:
            return site
        return replace(site, editable=False, fixed=site.fixed or found.why, fixed_by_recipe=found)

    def _find(self, site: WeightSite | str) -> FoundSite:
        """Return the named site, from the last sweep where its value is unchanged."""
        name = site if isinstance(site, str) else site.name
        last = self._last.get(name)
        if last is not None and last.site.editable and _still_stored(last):
            return last
        found = self.found_sites()
        if name not in found:
            raise UsageError("no such weight", where=name, expected=f"one of {', '.join(found) or 'none'}")
        return found[name]


def _still_stored(found: FoundSite) -> bool:
    value, tensor = found.value, constant_tensor(found.value)
    if tensor is None or tuple(tensor.shape.numpy()) != found.site.shape or not value.uses():
        return False
    return value.name == found.stored_name


def _check_free(value: ir.Value) -> None:
    """Refuse to write a value of the contract with the model's users."""
    fixed = why_fixed(value)
    if fixed is not None:
        raise UsageError(f"its values must stay: it {fixed}", where=value.name)


def _port(value: ir.Value) -> PortSpec:
    if value.dtype is None:
        dtype = "unknown"
    else:
        dtype = "str" if value.dtype == ir.DataType.STRING else str(value.dtype.numpy())
    return PortSpec(value.name or "", dtype, edit.stored_shape(value))
