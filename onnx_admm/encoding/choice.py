"""Choice of the storage plan of fewest bytes.

Every decoder has a cost of its own (its nodes and constants) and one for each weight it decodes (codes, gaps,
shape). For a given set of decoders each weight takes the cheapest, so the plan is a facility location
problem: decoders are added, removed and exchanged while that helps. The few best plans are then written and
measured, since estimates omit what plans share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_admm.encoding.coders.accounting import gaps_price
from onnx_admm.encoding.coders.bits import MOST_LOW_BITS
from onnx_admm.encoding.coders.codebook import MOST_LEVELS, Weight
from onnx_admm.encoding.coders.dense_coder import WORD_BITS, DenseCoder
from onnx_admm.encoding.coders.per_tensor_coder import per_tensor_coders
from onnx_admm.encoding.coders.sparse_coder import SparseCoder
from onnx_admm.encoding.coders.unpack import EncodedTensor, full_member, unpack
from onnx_admm.encoding.coders.vector_coder import exact_vector_coders
from onnx_admm.encoding.plan import Group, GroupCoder, Plain, SharedVector, StoragePlan
from onnx_admm.model.rewrite.fragment import Fragment, tensor_bytes

_SINGLES_MEASURED = 4
_MOST_ALPHABETS = 16
_PIECE_BYTES = 5
"""Bytes of one more output of a Split and its length."""

Alphabet = tuple[float, ...]
"""Nonzero levels, rising."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Candidate:
    """A decoder, its weights, the bytes of each (inf where it cannot decode it), and its own bytes."""

    coder: GroupCoder
    members: list[EncodedTensor | None]
    prices: list[float]
    fixed: float


def choose_plan(
    weights: Sequence[Weight], vectors: Sequence[Weight], opset: int, alone: Sequence[Weight] = ()
) -> StoragePlan:
    """Return the plan that stores ``weights`` and the small fp32 ``vectors`` (biases) in the fewest bytes.

    Args:
        weights: the weights; those that are not exact are left unchanged.
        vectors: vectors that share one decoder, or have one each.
        opset: newest opset of operators and types.
        alone: vectors that have a decoder of their own each, where that is smaller.
    """
    search_space = _SearchSpace([weight for weight in weights if weight.is_exact], opset)
    shared_vectors: list[SharedVector | None] = [None]
    if vectors:
        tried = [SharedVector(coder, tuple(vectors)) for coder in exact_vector_coders(vectors, opset)]
        shared_vectors += [
            shared_vector
            for shared_vector in tried
            if _is_known(StoragePlan(shared_vector=shared_vector), opset)
        ]
    plain_vectors, plain_alone = _plain_forms(vectors, opset), _plain_forms(alone, opset)
    plans = []
    for plan in search_space.plans():
        for shared_vector in shared_vectors:
            plain = plain_alone if shared_vector is not None else (*plain_vectors, *plain_alone)
            plans.append(StoragePlan(plan.groups, (*plan.plain, *plain), shared_vector))
    everything = (*weights, *vectors, *alone)
    return min(plans, key=lambda plan: plan_bytes(plan, everything, opset) + _loading_price(plan))


def _price(coder: GroupCoder, member: EncodedTensor) -> float:
    """Return the bytes of a weight behind a decoder, plus a penalty for slow loading."""
    size = _stream_bytes(coder, member)
    return size * gaps_price(member.weight.size) if isinstance(coder, SparseCoder) else size


def _stream_bytes(coder: GroupCoder, member: EncodedTensor) -> float:
    """Return the bytes of a weight's codes and gaps."""
    return (coder.data_bits(member) + coder.index_bits(member)) / 8


def _loading_price(plan: StoragePlan) -> float:
    """Return the part of the price that stands for loading time."""
    members = ((group.coder, member) for group in plan.groups for member in group.members)
    return sum(_price(coder, member) - _stream_bytes(coder, member) for coder, member in members)


def _plain_forms(vectors: Sequence[Weight], opset: int) -> tuple[Plain, ...]:
    """Return the vectors that are smaller in a form of their own, with that form."""
    return tuple(item for vector in vectors if (item := _best_plain(vector, opset)) is not None)


def plan_bytes(plan: StoragePlan, everything: Sequence[Weight], opset: int) -> int:
    """Return the bytes of the decoders and of unchanged weights."""
    fragment, outputs = plan.emit(opset)
    left = (weight.values for weight in everything if weight.name not in outputs)
    return fragment.file_bytes + sum(map(tensor_bytes, left))


def _best_plain(weight: Weight, opset: int) -> Plain | None:
    """Return the cheapest way to store one weight by itself; None where that is unchanged."""
    items = [Plain(coder, weight) for coder in per_tensor_coders(weight)]
    choices = [item for item in items if _is_known(StoragePlan(plain=(item,)), opset)]
    best = min(choices, key=lambda item: _plain_bytes(item, opset), default=None)
    if best is None or _plain_bytes(best, opset) >= tensor_bytes(weight.values):
        return None
    return best


def _plain_bytes(item: Plain, opset: int) -> int:
    return StoragePlan(plain=(item,)).emit(opset)[0].file_bytes


def _is_known(plan: StoragePlan, opset: int) -> bool:
    """Return whether the opset has all that the plan's decoders use."""
    return plan.emit(opset)[0].oldest_opset <= opset


class _SearchSpace:
    """Costs of every decoder for every weight."""

    def __init__(self, weights: Sequence[Weight], opset: int) -> None:
        self._weights = weights
        self._opset = opset
        self._plain = [_best_plain(weight, opset) for weight in weights]
        self._alone = np.array(
            [
                tensor_bytes(weight.values) if item is None else _plain_bytes(item, opset)
                for weight, item in zip(weights, self._plain, strict=True)
            ],
            float,
        )
        candidates = [
            candidate for alphabet in _alphabets(weights) for candidate in self._candidates(alphabet)
        ]
        self._coders = [candidate.coder for candidate in candidates]
        self._members = [candidate.members for candidate in candidates]
        self._fixed: Floats = np.array([candidate.fixed for candidate in candidates], float)
        self._prices: Floats = np.array([candidate.prices for candidate in candidates], float).reshape(
            len(candidates), len(weights)
        )

    def plans(self) -> Iterator[StoragePlan]:
        """Yield the plan found best, those of single decoders, and none at all."""
        yield self._plan(frozenset())
        if not self._coders:
            return
        yield self._plan(self._search())
        singles = np.argsort([self._total(frozenset([i])) for i in range(len(self._coders))], kind="stable")
        for single in singles[:_SINGLES_MEASURED]:
            yield self._plan(frozenset([int(single)]))

    # -- prices --------------------------------------------------------------------------------

    def _candidates(self, alphabet: Alphabet) -> Iterator[_Candidate]:
        members = [as_member(weight, alphabet) for weight in self._weights]
        handing = [0.0 if member is None else self._handing_bytes(member) for member in members]
        full = [None if m is None else full_member(m) for m in members]
        some = [m if m is not None and len(m.weight.positions) else None for m in members]
        for word_bits in WORD_BITS:
            if len(alphabet) < 1 << word_bits:
                yield from self._candidate(DenseCoder((*alphabet, 0.0), word_bits), members, handing)
            if len(alphabet) > 1:
                yield from self._candidate(DenseCoder(alphabet, word_bits), full, handing)
        for low_bits in range(MOST_LOW_BITS + 1):
            yield from self._candidate(SparseCoder(alphabet, low_bits), some, handing)

    def _candidate(
        self, coder: GroupCoder, members: list[EncodedTensor | None], handing: list[float]
    ) -> Iterator[_Candidate]:
        prices = [
            np.inf if member is None else _price(coder, member) + extra
            for member, extra in zip(members, handing, strict=True)
        ]
        if np.isinf(prices).all():
            return
        column = int(np.argmin(prices))
        fragment, probe = Fragment(self._opset), members[column]
        if probe is not None:
            coder.emit(fragment, [probe])
            if fragment.oldest_opset <= self._opset:
                own = fragment.file_bytes - _stream_bytes(coder, probe) - handing[column]
                yield _Candidate(coder, members, prices, max(0.0, own))

    def _handing_bytes(self, member: EncodedTensor) -> float:
        scratch = Fragment(self._opset)
        unpack(scratch, "row", [member], [len(member.units)])
        return scratch.file_bytes + _PIECE_BYTES

    # -- search --------------------------------------------------------------------------------

    def _total(self, chosen: frozenset[int]) -> float:
        rows = sorted(chosen)
        best = np.minimum(self._alone, self._prices[rows].min(axis=0, initial=np.inf))
        return float(best.sum() + self._fixed[rows].sum())

    def _search(self) -> frozenset[int]:
        chosen: frozenset[int] = frozenset()
        total = self._total(chosen)
        while True:
            candidates = [chosen ^ {i} for i in range(len(self._coders))]
            candidates += [chosen - {out} | {i} for out in chosen for i in range(len(self._coders))]
            best = min(candidates, key=self._total)
            if self._total(best) >= total:
                return chosen
            chosen, total = best, self._total(best)

    def _plan(self, chosen: frozenset[int]) -> StoragePlan:
        members_of: dict[int, list[EncodedTensor]] = {i: [] for i in sorted(chosen)}
        plain = []
        for column, item in enumerate(self._plain):
            best = min(members_of, key=lambda i: float(self._prices[i, column]), default=None)
            if best is not None and self._prices[best, column] < self._alone[column]:
                member = self._members[best][column]
                if member is not None:
                    members_of[best].append(member)
            elif item is not None:
                plain.append(item)
        groups = tuple(Group(self._coders[i], tuple(members)) for i, members in members_of.items() if members)
        return StoragePlan(groups, tuple(plain))


def as_member(weight: Weight, alphabet: Alphabet) -> EncodedTensor | None:
    """Return the weight as a decoder of these levels sees it: values or steps of its grid; else None."""
    known = np.array(alphabet, np.float32)
    if weight.levels is not None and np.isin(weight.levels, known).all():
        return EncodedTensor(weight, weight.flat)
    for grid in (weight.grid, weight.channel_grid):
        if grid is not None and np.isin(grid.levels, known).all():
            return EncodedTensor(weight, grid.codes.reshape(-1).astype(np.float32), grid.scale)
    return None


def _alphabets(weights: Sequence[Weight]) -> list[Alphabet]:
    """Return sets of nonzero levels worth a decoder: the most common values and steps, and all of them."""
    values = [_alphabet(weight.levels) for weight in weights if weight.levels is not None]
    steps = [
        _alphabet(grid.levels) for weight in weights for grid in (weight.grid, weight.channel_grid) if grid
    ]
    counts = Counter(alphabet for alphabet in (*values, *steps) if alphabet)
    unions = [tuple(sorted({level for alphabet in part for level in alphabet})) for part in (values, steps)]
    common = [alphabet for alphabet, _ in counts.most_common(_MOST_ALPHABETS)]
    return [a for a in dict.fromkeys((*common, *unions)) if 0 < len(a) <= MOST_LEVELS]


def _alphabet(levels: npt.NDArray[np.float32]) -> Alphabet:
    return tuple(float(level) for level in levels)
