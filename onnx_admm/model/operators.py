"""The table of operators: one record for each operator that the tool knows.

A record states where weights and a bias are, which products count as multiply-accumulates, and the operator's
effect on the elements of its first input, as traits. All code that needs such facts uses this table. To add
an operator, add a record; ``tests/model/graph/test_operators.py`` checks it against the schema of onnx.

Source: https://onnx.ai/onnx/operators for the default domain; ONNX Runtime's ``ContribOperators.md`` for
``com.microsoft``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

import onnx_ir as ir

STANDARD = ("", "ai.onnx")
"""Names of the default domain."""

MICROSOFT = "com.microsoft"


class Trait(Enum):
    """An effect of an operator; on its first input unless stated otherwise."""

    REARRANGES = auto()  # gives every element once, in another shape or order
    VIEWS = auto()  # gives the same elements in the same order: no work for a runtime
    CASTS = auto()  # gives every element in another type
    CUTS = auto()  # gives elements that lie together
    LOOKS_UP = auto()  # gives the elements at stated places
    REPEATS = auto()  # gives elements several times
    JOINS = auto()  # puts inputs one behind the other
    PADS = auto()  # adds elements around
    UNARY = auto()  # maps each element by itself
    BROADCASTS = auto()  # combines elements of several inputs at the same place
    HOMOGENEOUS = auto()  # scales with its data input: f(c x) = c f(x) for c > 0
    KEEPS_CONSTANTS = auto()  # gives the same constant for a constant channel
    MONOTONE = auto()  # does not fall where its input rises
    KEEPS_SHAPE = auto()  # gives the shape of its first input
    KEEPS_CHANNELS = auto()  # gives the channels of its first input, other extents along space
    SQUASHES = auto()  # saturates, so that differences in front of it may vanish
    CHOOSES = auto()  # gives or compares scores of classes along an axis
    COMPARES = auto()  # gives only the result of a comparison
    DISCRETE = auto()  # gives numbers or truth values that no gradient passes
    NORMALISES = auto()  # divides by statistics, and has a scale for each channel
    POOLS = auto()  # maximum or mean over places
    REDUCES = auto()  # maximum, mean or sum over stated axes
    TAKES_MAXIMA = auto()  # the maximum over places or axes
    WINDOWED = auto()  # has strides, pads and dilations
    CONVOLVES = auto()  # a convolution: data, then a weight of (out, in, *window)
    MULTIPLIES = auto()  # a matrix product
    RECURRENT = auto()  # LSTM, GRU, RNN
    INTEGER = auto()  # computes with integer weights
    CONTAINS = auto()  # has subgraphs
    RANDOM = auto()  # draws random numbers
    DECODES = auto()  # stands between a stored code and a weight
    TRANSPOSES = auto()  # multiplies by its operands transposed where transA or transB says so
    INTEGER_PRODUCT = auto()  # the CPU runtime has an integer kernel for it between Q and DQ, with a weight
    INTEGER_KERNEL = auto()  # the same, without a weight: the output has a range of its own
    PASSES_INTEGERS = auto()  # gives integers as it takes them: scale and zero point stay


class Macs(Enum):
    """How multiply-accumulates follow from shapes."""

    PER_OUTPUT = auto()  # each output element takes one product with each element of a filter
    PER_INPUT = auto()  # each input element meets each element of its filters
    PER_STEP = auto()  # every time step and sample takes one product with the whole weight
    INNER = auto()  # each output element takes as many products as the inner axis is long
    EINSUM = auto()  # the product of the extents of all letters
    NONE = auto()  # nothing is multiplied
    UNKNOWN = auto()  # multiplies in ways that are not counted


@dataclass(frozen=True, slots=True)
class WeightInput:
    """A weight of an operator: the input, and the weight's axes of output and input channels."""

    index: int
    out_axis: int | None
    in_axis: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Facts of one operator.

    Attributes:
        name: name of the operator.
        since: the first opset of its domain that has it.
        domain: its domain; empty for the default one.
        weights: inputs with weights that the tool compresses; of Gemm without transposition.
        bias: the input with one number for each output channel; None without.
        products: inputs that the data are multiplied by, weights or not.
        macs: how these products count.
        traits: its effects.
    """

    name: str
    since: int = 1
    domain: str = ""
    weights: tuple[WeightInput, ...] = ()
    bias: int | None = None
    products: tuple[int, ...] = ()
    macs: Macs = Macs.NONE
    traits: frozenset[Trait] = frozenset()


def _all(traits: tuple[Trait, ...], since: Mapping[str, int]) -> list[Operator]:
    """Return the records of operators that differ by name and opset alone."""
    return [Operator(name=name, since=opset, traits=frozenset(traits)) for name, opset in since.items()]


_T = Trait
_RECURRENT = {
    "weights": (WeightInput(1, 1, 2), WeightInput(2, 1, 2)),
    "products": (1, 2),
    "macs": Macs.PER_STEP,
    "traits": frozenset({_T.RECURRENT}),
}

_LAYERS = [
    Operator(
        name="Conv", weights=(WeightInput(1, 0, 1),), bias=2, products=(1,), macs=Macs.PER_OUTPUT,
        traits=frozenset({_T.CONVOLVES, _T.WINDOWED, _T.INTEGER_PRODUCT}),
    ),
    Operator(
        name="ConvTranspose", weights=(WeightInput(1, 1, 0),), bias=2, products=(1,), macs=Macs.PER_INPUT,
        traits=frozenset({_T.CONVOLVES, _T.WINDOWED}),
    ),
    Operator(
        name="Gemm", weights=(WeightInput(1, 1, 0), WeightInput(0, 0, 1)), bias=2, products=(1,),
        macs=Macs.INNER, traits=frozenset({_T.MULTIPLIES, _T.TRANSPOSES, _T.INTEGER_PRODUCT}),
    ),
    Operator(
        name="MatMul", weights=(WeightInput(1, -1, -2), WeightInput(0, -2, -1)), products=(1,),
        macs=Macs.INNER, traits=frozenset({_T.MULTIPLIES, _T.INTEGER_PRODUCT}),
    ),
    Operator(name="LSTM", **_RECURRENT),  # type: ignore[arg-type]
    Operator(name="GRU", **_RECURRENT),  # type: ignore[arg-type]
    Operator(name="RNN", **_RECURRENT),  # type: ignore[arg-type]
    Operator(
        name="Gather", weights=(WeightInput(0, 0, 1),), traits=frozenset({_T.LOOKS_UP, _T.DECODES})
    ),
    Operator(name="Einsum", since=12, macs=Macs.EINSUM),
    Operator(name="DeformConv", since=19, bias=3, macs=Macs.UNKNOWN),
    Operator(
        name="ConvInteger", since=10, products=(1,), macs=Macs.PER_OUTPUT,
        traits=frozenset({_T.CONVOLVES, _T.WINDOWED, _T.INTEGER}),
    ),
    Operator(
        name="QLinearConv", since=10, products=(3,), macs=Macs.PER_OUTPUT,
        traits=frozenset({_T.CONVOLVES, _T.WINDOWED, _T.INTEGER}),
    ),
    Operator(
        name="MatMulInteger", since=10, weights=(WeightInput(1, -1, -2),), products=(1,), macs=Macs.INNER,
        traits=frozenset({_T.MULTIPLIES, _T.INTEGER}),
    ),
    Operator(
        name="QLinearMatMul", since=10, products=(3,), macs=Macs.INNER,
        traits=frozenset({_T.MULTIPLIES, _T.INTEGER}),
    ),
    *(
        Operator(name=name, since=since, macs=Macs.UNKNOWN)
        for name, since in {"Attention": 23, "DFT": 17, "MelWeightMatrix": 17, "STFT": 17}.items()
    ),
]  # fmt: skip

_ELEMENTWISE = [
    *_all(
        (_T.UNARY, _T.KEEPS_SHAPE, _T.MONOTONE),
        {"Elu": 6, "Softplus": 1, "Selu": 6, "Celu": 12, "Softsign": 1, "Clip": 6, "ThresholdedRelu": 10,
         "Erf": 9, "Exp": 6, "Log": 6, "Sqrt": 6},
    ),
    *_all((_T.UNARY, _T.KEEPS_SHAPE, _T.MONOTONE, _T.HOMOGENEOUS), {"Relu": 6}),
    *_all(
        (_T.UNARY, _T.KEEPS_SHAPE, _T.MONOTONE, _T.HOMOGENEOUS, _T.INTEGER_KERNEL),
        {"LeakyRelu": 6},
    ),
    *_all((_T.UNARY, _T.KEEPS_SHAPE, _T.MONOTONE, _T.SQUASHES), {"Sigmoid": 6, "HardSigmoid": 6, "Tanh": 6}),
    *_all(
        (_T.UNARY, _T.KEEPS_SHAPE),
        {"Abs": 6, "Neg": 6, "Reciprocal": 6, "Sin": 7, "Cos": 7, "Gelu": 20, "HardSwish": 14, "Mish": 18},
    ),
    *_all((_T.UNARY, _T.KEEPS_SHAPE, _T.COMPARES), {"Ceil": 6, "Floor": 6, "Round": 11, "Sign": 9}),
    *_all((_T.UNARY, _T.DISCRETE), {"Not": 1, "IsInf": 10, "IsNaN": 9}),
    *_all((_T.BROADCASTS,), {"Div": 7, "Max": 8, "Mean": 8, "Min": 8, "Mul": 7, "Pow": 7, "PRelu": 7}),
    *_all((_T.BROADCASTS, _T.DISCRETE), {"And": 7, "Or": 7, "Xor": 7}),
    *_all(
        (_T.BROADCASTS, _T.COMPARES, _T.DISCRETE),
        {"Equal": 7, "Greater": 7, "GreaterOrEqual": 12, "Less": 7, "LessOrEqual": 12},
    ),
    *_all((_T.BROADCASTS,), {"Sub": 7, "Sum": 8}),
    Operator(
        name="Add", since=7, weights=(WeightInput(1, -1, None), WeightInput(0, -1, None)),
        traits=frozenset({_T.BROADCASTS, _T.HOMOGENEOUS, _T.INTEGER_KERNEL}),
    ),
]  # fmt: skip

_MOVING = [
    Operator(
        name="Identity",
        traits=frozenset(
            {_T.REARRANGES, _T.VIEWS, _T.HOMOGENEOUS, _T.KEEPS_CONSTANTS, _T.KEEPS_SHAPE, _T.UNARY}
        ),
    ),
    *_all((_T.VIEWS, _T.HOMOGENEOUS, _T.KEEPS_CONSTANTS, _T.KEEPS_SHAPE), {"Dropout": 7}),
    *_all(
        (_T.REARRANGES, _T.VIEWS, _T.HOMOGENEOUS, _T.KEEPS_CONSTANTS, _T.PASSES_INTEGERS),
        {"Flatten": 1, "Reshape": 5},
    ),
    *_all((_T.REARRANGES, _T.VIEWS, _T.PASSES_INTEGERS), {"Squeeze": 1, "Unsqueeze": 1}),
    *_all((_T.REARRANGES, _T.PASSES_INTEGERS), {"Transpose": 1}),
    *_all((_T.CASTS, _T.KEEPS_SHAPE, _T.DECODES), {"Cast": 6}),
    *_all((_T.CASTS, _T.KEEPS_SHAPE), {"CastLike": 15}),
    *_all((_T.CUTS, _T.PASSES_INTEGERS), {"Slice": 1}),
    *_all((_T.CUTS,), {"Split": 1}),
    *_all((_T.REPEATS,), {"Expand": 8, "Tile": 6}),
    *_all((_T.JOINS, _T.INTEGER_KERNEL), {"Concat": 4}),
    *_all((_T.PADS, _T.KEEPS_CHANNELS), {"Pad": 2}),
    *_all((_T.KEEPS_CHANNELS,), {"Resize": 10, "Upsample": 7}),
    *_all((_T.DECODES,), {"ScatterElements": 11}),
    *_all((_T.DECODES, _T.KEEPS_SHAPE), {"DequantizeLinear": 10}),
    *_all((_T.KEEPS_SHAPE,), {"QuantizeLinear": 10, "DynamicQuantizeLinear": 11}),
    *_all((_T.VIEWS, _T.DISCRETE), {"Shape": 1, "Size": 1}),
    *_all((_T.DISCRETE,), {"NonZero": 9}),
    *_all((), {"Constant": 1, "ConstantOfShape": 9, "DepthToSpace": 1, "Range": 11, "ScatterND": 11,
               "SpaceToDepth": 1, "Where": 9}),
]  # fmt: skip

_GATHERING = [
    *_all(
        (_T.POOLS, _T.WINDOWED, _T.KEEPS_CHANNELS, _T.HOMOGENEOUS, _T.INTEGER_KERNEL),
        {"AveragePool": 1},
    ),
    *_all(
        (_T.POOLS, _T.WINDOWED, _T.KEEPS_CHANNELS, _T.HOMOGENEOUS, _T.KEEPS_CONSTANTS, _T.PASSES_INTEGERS),
        {"MaxPool": 1},
    ),
    *_all((_T.WINDOWED, _T.KEEPS_CHANNELS), {"LpPool": 2}),
    *_all(
        (_T.POOLS, _T.KEEPS_CHANNELS, _T.HOMOGENEOUS, _T.KEEPS_CONSTANTS, _T.INTEGER_KERNEL),
        {"GlobalAveragePool": 1},
    ),
    *_all(
        (_T.POOLS, _T.KEEPS_CHANNELS, _T.HOMOGENEOUS, _T.KEEPS_CONSTANTS, _T.TAKES_MAXIMA),
        {"GlobalMaxPool": 1},
    ),
    *_all((_T.REDUCES, _T.HOMOGENEOUS, _T.KEEPS_CONSTANTS, _T.TAKES_MAXIMA), {"ReduceMax": 1}),
    *_all((_T.REDUCES, _T.HOMOGENEOUS, _T.KEEPS_CONSTANTS), {"ReduceMean": 1}),
    *_all((_T.REDUCES,), {"ReduceL2": 1, "ReduceMin": 1, "ReduceProd": 1, "ReduceSum": 1}),
    *_all((_T.CHOOSES, _T.SQUASHES, _T.KEEPS_SHAPE), {"Softmax": 1, "LogSoftmax": 1}),
    *_all((_T.CHOOSES, _T.SQUASHES), {"Hardmax": 1}),
    *_all((_T.CHOOSES, _T.SQUASHES, _T.DISCRETE), {"ArgMax": 1, "ArgMin": 1}),
    *_all((_T.CHOOSES,), {"TopK": 10}),
    *_all(
        (_T.NORMALISES,),
        {"BatchNormalization": 7, "GroupNormalization": 18, "InstanceNormalization": 6,
         "LayerNormalization": 17, "RMSNormalization": 23},
    ),
    *_all((_T.KEEPS_SHAPE,), {"LpNormalization": 1, "LRN": 1}),
]  # fmt: skip

_OTHERS = [
    *_all((_T.CONTAINS,), {"If": 1, "Loop": 1, "Scan": 8, "SequenceMap": 17}),
    *_all(
        (_T.RANDOM,),
        {"Bernoulli": 15, "Multinomial": 7, "RandomNormal": 1, "RandomNormalLike": 1, "RandomUniform": 1,
         "RandomUniformLike": 1},
    ),
]  # fmt: skip

_BOTH = (WeightInput(1, -1, -2), WeightInput(0, -2, -1))
_BEHIND_OPTIMISERS = [
    Operator(
        name="FusedConv", domain=MICROSOFT, weights=(WeightInput(1, 0, 1),), bias=2, products=(1,),
        macs=Macs.PER_OUTPUT, traits=frozenset({_T.CONVOLVES, _T.WINDOWED}),
    ),
    Operator(
        name="FusedGemm", domain=MICROSOFT, weights=(WeightInput(1, 1, 0), WeightInput(0, 0, 1)), bias=2,
        products=(1,), macs=Macs.INNER, traits=frozenset({_T.MULTIPLIES, _T.TRANSPOSES}),
    ),
    *(
        Operator(
            name=name, domain=MICROSOFT, weights=_BOTH, products=(1,), macs=Macs.INNER,
            traits=frozenset({_T.MULTIPLIES, _T.TRANSPOSES}),
        )
        for name in ("FusedMatMul", "TransposeMatMul")
    ),
    Operator(
        name="FusedMatMulActivation", domain=MICROSOFT, weights=_BOTH, products=(1,), macs=Macs.INNER,
        traits=frozenset({_T.MULTIPLIES, _T.TRANSPOSES}),
    ),
    Operator(
        name="GemmFastGelu", domain=MICROSOFT, weights=(WeightInput(1, -1, -2),), bias=2, products=(1,),
        macs=Macs.INNER, traits=frozenset({_T.MULTIPLIES}),
    ),
    *(
        Operator(name=name, domain=MICROSOFT, weights=(WeightInput(1, 1, 0),), bias=2, macs=Macs.UNKNOWN)
        for name in ("Attention", "PackedAttention")
    ),
    Operator(
        name="LongformerAttention", domain=MICROSOFT, weights=(WeightInput(1, 1, 0), WeightInput(4, 1, 0)),
        bias=2, macs=Macs.UNKNOWN,
    ),
    Operator(
        name="DecoderAttention", domain=MICROSOFT, weights=(WeightInput(2, 1, 0), WeightInput(3, 1, 0)),
        bias=4, macs=Macs.UNKNOWN,
    ),
    Operator(
        name="EmbedLayerNormalization", domain=MICROSOFT,
        weights=(WeightInput(2, 0, 1), WeightInput(3, 0, 1), WeightInput(4, 0, 1)),
        traits=frozenset({_T.LOOKS_UP, _T.NORMALISES}),
    ),
    Operator(
        name="MoE", domain=MICROSOFT,
        weights=(WeightInput(2, 1, 2), WeightInput(4, 1, 2), WeightInput(6, 1, 2)), macs=Macs.UNKNOWN,
    ),
    Operator(name="AttnLSTM", domain=MICROSOFT, **_RECURRENT),  # type: ignore[arg-type]
    *(
        Operator(name=name, domain=MICROSOFT, traits=frozenset({_T.NORMALISES}))
        for name in ("GroupNorm", "SkipGroupNorm", "SkipLayerNormalization",
                     "SkipSimplifiedLayerNormalization")
    ),
    *(
        Operator(name=name, domain=MICROSOFT, bias=1, traits=frozenset({_T.UNARY}))
        for name in ("BiasGelu", "FastGelu", "BiasSplitGelu", "BiasAdd")
    ),
    *(
        Operator(name=name, domain=MICROSOFT, traits=frozenset({_T.UNARY, _T.KEEPS_SHAPE}))
        for name in ("Gelu", "QuickGelu")
    ),
    *(
        Operator(name=name, domain=MICROSOFT, macs=Macs.UNKNOWN)
        for name in ("GroupQueryAttention", "MultiHeadAttention", "PackedMultiHeadAttention",
                     "SparseAttention")
    ),
    Operator(name="RotaryEmbedding", domain=MICROSOFT),
    *(
        Operator(name=name, domain=MICROSOFT, macs=Macs.UNKNOWN, traits=frozenset({_T.INTEGER}))
        for name in ("DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "GatherBlockQuantized", "MatMulBnb4",
                     "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QEmbedLayerNormalization", "QGemm",
                     "QMoE")
    ),
]  # fmt: skip

OPERATORS: Mapping[tuple[str, str], Operator] = {
    (entry.domain, entry.name): entry
    for entry in (*_LAYERS, *_ELEMENTWISE, *_MOVING, *_GATHERING, *_OTHERS, *_BEHIND_OPTIMISERS)
}
"""Every record, by domain and name."""


def operator_of(node: ir.Node) -> Operator | None:
    """Return the record of a node's operator; None where the table has none."""
    domain = "" if node.domain in STANDARD else node.domain
    return OPERATORS.get((domain, node.op_type))


def has_trait(node: ir.Node, *traits: Trait) -> bool:
    """Return whether a node's operator has one of the traits; an unknown operator has none."""
    found = operator_of(node)
    return found is not None and not found.traits.isdisjoint(traits)


def operators_with(*traits: Trait) -> frozenset[str]:
    """Return the operators of the default domain that have at least one of the traits, by name.

    Example:
        >>> sorted(operators_with(Trait.RECURRENT))
        ['GRU', 'LSTM', 'RNN']
    """
    return frozenset(
        entry.name for entry in OPERATORS.values() if not entry.domain and not entry.traits.isdisjoint(traits)
    )


def biased_operators() -> Mapping[str, int]:
    """Return the bias input of each compressed operator of the default domain, by name."""
    return {
        entry.name: entry.bias
        for entry in OPERATORS.values()
        if not entry.domain and entry.weights and entry.bias is not None
    }


def second_operands(trait: Trait) -> dict[str, int]:
    """Return the input that the data are multiplied by, by operator of the default domain with a trait.

    Example:
        >>> second_operands(Trait.CONVOLVES)["QLinearConv"]
        3
    """
    return {
        entry.name: entry.products[0]
        for entry in OPERATORS.values()
        if not entry.domain and trait in entry.traits and entry.products
    }
