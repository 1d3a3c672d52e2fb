"""Storage of a model's weights: on disk, in memory, as codes; for packages that do not see the IR."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_admm.model.constants import constant_tensor, replace_constant, stored_tensor
from onnx_admm.model.files.file_tensor import spill, spilled
from onnx_admm.model.loading import checker, model_files
from onnx_admm.model.loading.checker import check_output
from onnx_admm.model.sites import WeightSite
from onnx_admm.model.view import ModelView


def model_bytes(view: ModelView) -> int:
    """Return the bytes of the model as one file; no large weight is read for it."""
    return model_files.file_bytes(view.graph_ir)


def check_model(view: ModelView, where: str) -> None:
    """Check a model in memory as when it is written; no large weight is read for it.

    Raises:
        OutputError: the checker refuses it.
    """
    check_output(model_files.skeleton_of(view.graph_ir), where)


def passes_full_check(view: ModelView) -> bool:
    """Return whether onnx's full check would pass the written model; no large weight is read for it."""
    return checker.passes_full_check(model_files.skeleton_of(view.graph_ir))


def spill_to_disk(view: ModelView) -> None:
    """Move new weights that are large together out of memory, into a file that is removed with them."""
    spill(view.graph_ir)


def stored_weight_bytes(view: ModelView) -> int:
    """Return the bytes of the model's stored constants, sparse ones dense."""
    return model_files.weight_bytes(view.graph_ir)


def constant_bytes(view: ModelView) -> int:
    """Return the bytes of all initializers and Constant nodes, in subgraphs and functions too."""
    nodes = (stored_tensor(node.ir_node.outputs[0]) for node in view.nodes("Constant"))
    return stored_weight_bytes(view) + sum(tensor.nbytes for tensor in nodes if tensor is not None)


_PIECE = 1 << 20  # elements


@dataclass(frozen=True, eq=False)
class ByteGrid:
    """Values ``codes * scales``, exact in fp32.

    Attributes:
        codes: int8, -127 to 127, shape of the weight.
        scales: fp32, positive or 0 where all codes are; of a shape that broadcasts over ``codes``.
    """

    codes: npt.NDArray[np.int8] = field(repr=False)
    scales: npt.NDArray[np.float32] = field(repr=False)

    def values(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return the products, as ``dtype``."""
        return np.multiply(self.codes, self.scales, dtype=np.float32).astype(dtype, copy=False)

    def holds(self, values: npt.NDArray[Any]) -> bool:
        """Return whether these are the products; compared a piece at a time."""
        step = max(1, _PIECE // max(1, values[:1].size))
        parts = (slice(start, start + step) for start in range(0, len(values), step))
        scales = np.broadcast_to(self.scales, (len(values), *self.scales.shape[1:]))
        return all(
            np.array_equal(ByteGrid(self.codes[part], scales[part]).values(values.dtype), values[part])
            for part in parts
        )


class _GridTensor(ir.LazyTensor):
    """A float tensor stored as codes and scales, whose product it is."""

    def __init__(
        self, codes: ir.TensorProtocol, scales: npt.NDArray[np.float32], like: ir.TensorProtocol
    ) -> None:
        super().__init__(
            lambda: ir.tensor(self.grid.values(self.dtype.numpy())),
            dtype=like.dtype,
            shape=ir.Shape(like.shape.numpy()),
            name=like.name,
        )
        self._codes, self._scales = codes, scales

    @property
    def grid(self) -> ByteGrid:
        """Codes and scales."""
        return ByteGrid(self._codes.numpy(), self._scales)


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A handle on a stored weight; it reads the values stored when it was made.

    Attributes:
        site: site of the weight.
    """

    site: WeightSite
    _value: ir.Value = field(repr=False)
    _tensor: ir.TensorProtocol = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.site.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the weight."""
        return np.dtype(self.site.dtype)

    @property
    def memo(self) -> MutableMapping[str, Any]:
        """Notes on the values: they are kept with these, in forks too, and never written to a file."""
        return self._tensor.meta

    def read(self) -> npt.NDArray[Any]:
        """Return the values, read-only; no copy is made where a file is read anyway."""
        array = self._tensor.numpy().view()
        array.flags.writeable = False
        return array

    def byte_grid(self) -> ByteGrid | None:
        """Return the grid it is stored on; None where values are stored, even if they lie on a grid."""
        return self._tensor.grid if isinstance(self._tensor, _GridTensor) else None

    def store_as_codes(self, grid: ByteGrid) -> None:
        """Replace the weight by the values of a grid, stored as codes."""
        if self._value.producer() is not None:  # a Constant node can only store values
            replace_constant(self._value, grid.values(self.dtype))
            return
        codes = spilled(ir.tensor(grid.codes, name=self.site.name))
        self._value.const_value = _GridTensor(codes, grid.scales, self._tensor)


def stored_weights(view: ModelView) -> tuple[StoredWeight, ...]:
    """Return a handle on every stored weight, in graph order; those that operators compute have none."""
    return tuple(
        StoredWeight(found.site, found.value, tensor)
        for found in view.found_sites().values()
        if found.site.editable and (tensor := constant_tensor(found.value)) is not None
    )
