"""Storage plans: which weights share which decoder, and how each of the others is stored."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.dense_coder import DenseCoder
from onnx_admm.encoding.coders.encoding_report import TensorEncoding, stored_row
from onnx_admm.encoding.coders.per_tensor_coder import PerTensorCoder, plain_row
from onnx_admm.encoding.coders.sparse_coder import SparseCoder
from onnx_admm.encoding.coders.unpack import EncodedTensor, unpack
from onnx_admm.encoding.coders.vector_coder import VectorCoder
from onnx_admm.model.rewrite.fragment import Fragment

GroupCoder = SparseCoder | DenseCoder


@dataclass(frozen=True)
class Group:
    """One decoder and the weights behind it."""

    coder: GroupCoder
    members: tuple[EncodedTensor, ...]


@dataclass(frozen=True)
class Plain:
    """One weight stored by itself."""

    coder: PerTensorCoder
    weight: Weight


@dataclass(frozen=True)
class SharedVector:
    """Small vectors (biases) stored as one."""

    coder: VectorCoder
    vectors: tuple[Weight, ...]

    @property
    def members(self) -> tuple[EncodedTensor, ...]:
        """The vectors as pieces of a decoder's row."""
        return tuple(EncodedTensor(vector, vector.flat) for vector in self.vectors)


@dataclass(frozen=True)
class StoragePlan:
    """A plan of how weights are stored; weights that are not in it stay unchanged."""

    groups: tuple[Group, ...] = ()
    plain: tuple[Plain, ...] = ()
    shared_vector: SharedVector | None = None

    def emit(self, opset: int) -> tuple[Fragment, dict[str, str]]:
        """Return the decoders, and value names by weight name.

        The shared vector is placed in front of the first sparse group's row, which costs less than a row of
        its own.
        """
        fragment, outputs = Fragment(opset), dict[str, str]()
        shared_vector = self.shared_vector
        for group in self.groups:
            if isinstance(group.coder, SparseCoder):
                head = (
                    None
                    if shared_vector is None
                    else (shared_vector.coder.emit(fragment, shared_vector.vectors), shared_vector.members)
                )
                outputs |= group.coder.emit(fragment, group.members, head)
                shared_vector = None
            else:
                outputs |= group.coder.emit(fragment, group.members)
        if shared_vector is not None:
            row, members = shared_vector.coder.emit(fragment, shared_vector.vectors), shared_vector.members
            outputs |= unpack(fragment, row, members, [len(member.units) for member in members])
        for item in self.plain:
            outputs[item.weight.name] = item.coder.emit(fragment, item.weight)
        return fragment, outputs

    def rows(self) -> tuple[TensorEncoding, ...]:
        """Return the report of each weight."""
        grouped = [_member_row(group.coder, member) for group in self.groups for member in group.members]
        plain = [plain_row(item.coder, item.weight) for item in self.plain]
        if self.shared_vector is None:
            return (*grouped, *plain)
        coder = self.shared_vector.coder
        return (
            *grouped,
            *plain,
            *(stored_row(vector, coder.label, coder.bits) for vector in self.shared_vector.vectors),
        )


def _member_row(coder: GroupCoder, member: EncodedTensor) -> TensorEncoding:
    weight, data, index = member.weight, coder.data_bits(member), coder.index_bits(member)
    return TensorEncoding(weight.name, coder.label, weight.size, weight.nonzeros, data, index)
