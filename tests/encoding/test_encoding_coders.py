"""Decoders give the very weights back, by the operators as the standard describes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_admm.encoding.coders.bits import MOST_LOW_BITS, rice_bits
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.dense_coder import DenseCoder
from onnx_admm.encoding.coders.large_sparse_coder import LargeSparseCoder, best_low_bits
from onnx_admm.encoding.coders.sparse_coder import SparseCoder
from onnx_admm.encoding.coders.unpack import EncodedTensor, narrowest
from onnx_admm.encoding.coders.vector_coder import VectorCoder
from onnx_admm.encoding.plan import Group, SharedVector, StoragePlan
from onnx_admm.model.rewrite.fragment import Fragment, NodeSpec


@given(
    density=st.floats(0.02, 1.0),
    levels=st.integers(1, 9),
    low_bits=st.integers(0, 6),
    opset=st.sampled_from([11, 13]),
    seed=st.integers(0, 99),
    head=st.booleans(),
)
def test_sparse_decoders_give_the_weights_back(
    density: float, levels: int, low_bits: int, opset: int, seed: int, head: bool
) -> None:
    members = _members(seed, density, levels)
    known = tuple(float(code) * 0.125 for code in range(-levels, levels + 1) if code)
    if members:
        vectors = (Weight("b1", np.arange(5, dtype=np.float32)), Weight("b2", -np.ones(3, np.float32)))
        shared_vector = SharedVector(VectorCoder("int8", np.float32(1.0)), vectors) if head else None
        _assert_decodes(
            StoragePlan((Group(SparseCoder(known, low_bits), members),), shared_vector=shared_vector), opset
        )


@given(levels=st.integers(1, 20), word_bits=st.sampled_from([8, 16]), seed=st.integers(0, 99))
def test_dense_decoders_give_the_weights_back(levels: int, word_bits: int, seed: int) -> None:
    known = tuple(code * 0.125 for code in range(-levels, levels + 1))
    _assert_decodes(StoragePlan((Group(DenseCoder(known, word_bits), _members(seed, 0.7, levels)),)), 13)


@pytest.mark.parametrize("opset", [10, 11, 17])
@pytest.mark.parametrize("shape", [(300, 720), (301, 719)], ids=["words full", "words filled up"])
@pytest.mark.parametrize(
    ("most", "word_bits"), [(1, 8), (2, 8), (7, 8), (1, 16), (19, 16), (127, 8), (127, 16)]
)
def test_many_words_give_the_weight_back_with_little_on_the_way(
    most: int, word_bits: int, shape: tuple[int, int], opset: int
) -> None:
    codes = np.random.default_rng(0).integers(-most, most + 1, shape).astype(np.float32)
    scale = np.linspace(0.5, 1.5, shape[0], dtype=np.float32)[:, None]
    member = EncodedTensor(Weight("w", codes * scale), codes.reshape(-1), scale)
    coder = DenseCoder(tuple(float(code) for code in range(-most, most + 1)), word_bits)
    fragment = Fragment(opset)
    output = coder.emit(fragment, [member])["w"]
    values = evaluate(fragment)
    assert np.array_equal(values[output], member.weight.values)
    whole = member.weight.values
    made = [value for name, value in values.items() if name not in fragment.constants]
    if opset >= 11 and word_bits == 8:
        # The weight, its codes as floats, its codes as bytes up to four times, and the words as indices.
        words = 4 * whole.size * coder.bits / word_bits
        assert sum(value.nbytes for value in made) <= 3 * whole.nbytes + words + (1 << 14)
    assert fragment.content_bytes <= whole.size * coder.bits / 8 + scale.nbytes + 4 * len(coder.levels) + 120


@given(
    density=st.floats(0.001, 1.0),
    levels=st.integers(1, 128),
    size=st.integers(1, 3000),
    low_bits=st.none() | st.integers(0, 9),
    channels=st.booleans(),
    seed=st.integers(0, 99),
)
def test_solo_decoders_give_the_weight_back(
    density: float, levels: int, size: int, low_bits: int | None, channels: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, levels + 1, (2, size)) * rng.choice([-1, 1], (2, size))
    codes = codes * (rng.random((2, size)) < density)
    codes[1, -1] = 1  # something is kept
    scale = np.array([[0.25], [3.0]], np.float32) if channels else np.float32(1)
    weight = Weight("w", (codes * scale).astype(np.float32))
    units = codes.reshape(-1).astype(np.float32)
    member = EncodedTensor(weight, units, scale if channels else None)
    positions = np.flatnonzero(units)
    best, bits = best_low_bits(positions)
    coder = LargeSparseCoder(
        tuple(map(float, np.unique(units[positions]))), best if low_bits is None else low_bits
    )
    fragment = Fragment(11)
    output = coder.emit(fragment, member)
    assert np.array_equal(evaluate(fragment)[output], weight.values)
    assert bits == min(rice_bits(positions, width) for width in range(MOST_LOW_BITS + 1))
    stored = 8 * fragment.content_bytes - (
        len(positions) * coder.code_bits + rice_bits(positions, coder.low_bits)
    )
    codebook = 8 * narrowest(np.array(coder.levels, np.float32)).nbytes
    assert 0 < stored - codebook < 8 * 150  # padding, shapes, powers and scales, and nothing else


def _members(seed: int, density: float, levels: int) -> tuple[EncodedTensor, ...]:
    rng = np.random.default_rng(seed)
    weights = []
    for number, shape in enumerate([(4, 1, 3, 3), (7, 5), (1, 3)]):
        codes = (
            rng.integers(1, levels + 1, shape) * rng.choice([-1, 1], shape) * (rng.random(shape) < density)
        )
        weights.append(Weight(f"w{number}", (codes * 0.125).astype(np.float32)))
    return tuple(EncodedTensor(weight, weight.flat) for weight in weights if weight.positions.size)


def _assert_decodes(plan: StoragePlan, opset: int) -> None:
    fragment, outputs = plan.emit(opset)
    values = evaluate(fragment)
    pooled = plan.shared_vector.vectors if plan.shared_vector else ()
    assert plan.groups[0].members or pooled
    for weight in (*(member.weight for member in plan.groups[0].members), *pooled):
        decoded = values[outputs[weight.name]]
        assert decoded.shape == weight.values.shape
        assert np.array_equal(decoded, weight.values), weight.name


def evaluate(fragment: Fragment) -> dict[str, np.ndarray]:
    """The operators of decoders, as the standard describes them."""
    values = dict(fragment.constants)
    for node in fragment.nodes:
        inputs = [values[name] for name in node.inputs]
        values.update(zip(node.outputs, _apply(node, inputs), strict=True))
    return values


def _apply(node: NodeSpec, inputs: list[np.ndarray]) -> list[np.ndarray]:
    first, *others = inputs
    match node.op_type:
        case "Cast":
            return [first.astype({1: np.float32, 6: np.int32, 7: np.int64}[int(node.attributes["to"])])]  # type: ignore[arg-type]
        case "Div":
            return [first // others[0]]
        case "BitShift":
            assert node.attributes["direction"] == "RIGHT"
            return [first >> others[0]]
        case "Slice":
            return [first[int(others[0][0]) : int(others[1][0])]]
        case "Split":
            lengths = node.attributes["split"] if "split" in node.attributes else others[0]
            return np.split(first, np.cumsum(lengths)[:-1])  # type: ignore[arg-type]
        case "TopK":
            order = np.argsort(-first, kind="stable")[: int(others[0][0])]
            return [first[order], order]
        case "ScatterElements":
            scattered = first.copy()
            scattered[others[0]] = others[1]
            return [scattered]
        case "ConstantOfShape":
            return [np.zeros(first, np.float32)]
        case "Range":
            return [np.arange(first, others[0], others[1], np.int32)]
        case "Pad":
            return [np.pad(first, [tuple(others[0])])]
        case name:
            plain = {
                "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Mod": np.mod, "MatMul": np.matmul,
                "MatMulInteger": lambda x, y: x.astype(np.int32) @ y.astype(np.int32),
                "Expand": lambda x, shape: np.broadcast_to(x, shape).copy(),
                "Gather": lambda x, index: np.take(x, index, axis=0), "Reshape": np.reshape,
                "CumSum": lambda x, axis: np.cumsum(x, int(axis)),
            }  # fmt: skip
            return [plain[name](first, others[0])]  # type: ignore[operator]
