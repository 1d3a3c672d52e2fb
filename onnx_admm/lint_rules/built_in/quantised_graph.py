"""Rules on where QuantizeLinear and DequantizeLinear stand: what keeps operators from integer kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from onnx_admm.contracts import Finding, Level, LintSubject, ModelView
from onnx_admm.lint_rules.built_in.written_out import attention_products
from onnx_admm.lint_rules.graph import (
    VNNI,
    dequantise,
    only_reader,
    quantise_behind,
    quantised_data,
    quantised_layers,
)
from onnx_admm.lint_rules.matches import example
from onnx_admm.model import NodeRef

_NO_FIX: Mapping[str, Any] = {}


def quantised_example(body: str, weight: tuple[int, ...] = (4, 3, 3, 3), places: int = 6) -> ModelView:
    """Return a convolution of quantised images: ``a`` the data, ``d`` the weight, ``one`` and ``none``."""
    constants: dict[str, Any] = {
        "codes": np.random.default_rng(0).integers(-60, 60, weight).astype(np.int8),
        "scale": np.float32(0.02), "zero": np.int8(0), "one": np.float32(0.05), "none": np.uint8(128),
    }  # fmt: skip
    head = (
        "q = QuantizeLinear (x, one, none) a = DequantizeLinear (q, one, none)"
        " d = DequantizeLinear (codes, scale, zero) "
    )
    ports = f"float[N,3,8,8] x => float[N,{weight[0]},{places},{places}] y"
    return example(ports, head + body, constants)


_THROUGH = "p = QuantizeLinear ({0}, one, none) y = DequantizeLinear (p, one, none)"


class MissingQuantise:
    """A convolution of quantised data has no QuantizeLinear of its own behind it, and stays in fp32."""

    name: ClassVar[str] = "missing_quantise"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for node in quantised_layers(subject.model, "Conv"):
            if quantise_behind(node) is None:
                why = (
                    f"{_readers(node)}, so that the Conv runs in fp32 on data that was quantised without use"
                )
                cure = (
                    "put QuantizeLinear and DequantizeLinear right behind the Conv, in front of all readers"
                )
                yield Finding((node.name,), why, cure, 2.9, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return quantised_example("c = Conv (a, d) s = Sigmoid (c) y = Mul (c, s)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return quantised_example(
            "c = Conv (a, d) p = QuantizeLinear (c, one, none) e = DequantizeLinear (p, one, none)"
            " s = Sigmoid (e) y = Mul (e, s)"
        )


def _readers(node: NodeRef) -> str:
    output = node.outputs[0]
    if output.is_output:
        return "its result is an output of the model"
    kinds = sorted({use.op_type for use in output.uses()})
    return f"its result is read by {' and '.join(kinds) or 'nothing'}" + (
        " too" if "QuantizeLinear" in kinds and len(kinds) > 1 else ""
    )


class MissingDequantise:
    """Some inputs of an operator are quantised and others are not: it has no integer kernel."""

    name: ClassVar[str] = "missing_dequantise"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for op_type in ("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat"):
            for node in subject.model.nodes(op_type):
                counted = node.inputs if op_type == "Concat" else node.inputs[:2]
                plain = [value.name for value in counted if value is not None and dequantise(value) is None]
                is_data = quantised_data(node) is not None or quantised_data(node, 1) is not None
                is_layer = op_type in ("Conv", "Gemm", "MatMul")
                if not plain or not is_data or not (is_layer or quantise_behind(node) is not None):
                    continue
                why = f"{', '.join(plain)} does not come from a DequantizeLinear, and other inputs do"
                cure = "quantise every input of the operator, or none"
                yield Finding((node.name,), why, cure, 2.6, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return quantised_example(f"r = Relu (x) s = Add (a, r) {_THROUGH.format('s')}", (3, 3, 1, 1), 8)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return quantised_example(f"s = Add (a, a) {_THROUGH.format('s')}", (3, 3, 1, 1), 8)


class QuantisedAttention:
    """The core of an attention is quantised, which takes twice as long as in fp32."""

    name: ClassVar[str] = "quantised_attention"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for softmax in subject.model.nodes("Softmax"):
            products = attention_products(softmax)
            for node in products or ():
                if quantised_data(node) is None and quantised_data(node, 1) is None:
                    continue
                why = "a product inside an attention reads quantised values"
                cure = "quantise the four projections around the attention, and leave its core in fp32"
                yield Finding((node.name, softmax.name), why, cure, 2.18, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("u = QuantizeLinear (q, one, none) a = DequantizeLinear (u, one, none)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("a = Identity (q)")

    def _model(self, head: str) -> ModelView:
        ports = "float[2,5,4] q, float[2,4,5] k, float[2,5,4] v => float[2,5,4] y"
        body = f"{head} s = MatMul (a, k) p = Softmax <axis = -1> (s) y = MatMul (p, v)"
        return example(ports, body, {"one": np.float32(0.1), "none": np.uint8(128)})


class QuantisedFusion:
    """QuantizeLinear stands inside a formula that the runtime would fuse into one kernel."""

    name: ClassVar[str] = "quantised_fusion"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for op_type in ("Sigmoid", "HardSigmoid", "Erf", "Tanh", "Sqrt", "Pow"):
            for node in subject.model.nodes(op_type):
                if quantised_data(node) is None or only_reader(node.outputs[0]) is None:
                    continue
                quantise = only_reader(node.outputs[0])
                if quantise is None or quantise.op_type != "QuantizeLinear":
                    continue
                formula = _formula(node, quantise)
                if formula is None:
                    continue
                why = f"{op_type} is part of a {formula}, and its result is quantised before the rest of it"
                cure = f"leave the inside of the {formula} in fp32; quantise in front of it and behind it"
                yield Finding((node.name,), why, cure, 3.2, f"{VNNI}; a detector with 104 SiLUs")

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("t = QuantizeLinear (s, one, none) u = DequantizeLinear (t, one, none)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("u = Identity (s)")

    def _model(self, middle: str) -> ModelView:
        return quantised_example(f"s = Sigmoid (a) {middle} y = Mul (a, u)", (3, 3, 1, 1), 8)


def _formula(node: NodeRef, quantise: NodeRef) -> str | None:
    """Return the formula that a node belongs to, by what reads its quantised result."""
    readers = {
        use.op_type: use
        for dequantised in quantise.outputs[0].uses()
        for use in dequantised.outputs[0].uses()
    }
    if node.op_type in ("Sigmoid", "HardSigmoid"):
        product = readers.get("Mul")
        codes = [None if found is None else found.input(0) for found in map(dequantise, _values(product))]
        own = dequantise(node.input(0))
        same = own is not None and any(value == own.input(0) for value in codes if value is not None)
        return ("SiLU" if node.op_type == "Sigmoid" else "HardSwish") if same else None
    if node.op_type in ("Erf", "Tanh"):
        return "Gelu" if "Add" in readers else None
    return "LayerNormalization" if readers.keys() & {"Div", "Reciprocal", "ReduceMean"} else None


def _values(node: NodeRef | None) -> Iterable[Any]:
    return () if node is None else node.inputs


_INTEGER = frozenset(
    {
        "Add", "ArgMax", "AveragePool", "Clip", "Concat", "Conv", "Expand", "Flatten", "Gather",
        "GatherElements", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool", "Mul",
        "QuantizeLinear", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Resize", "Sigmoid", "Slice",
        "Softmax", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators that have an integer kernel, let codes pass, or are redundant beside QuantizeLinear."""

_WITHOUT_KERNEL = {"ConvTranspose": 1.39, "HardSwish": 1.5, "Gelu": 1.5, "LayerNormalization": 1.5}
"""Slowdown of an operator with quantised data, where it was measured."""


class NoIntegerKernel:
    """QuantizeLinear and DequantizeLinear around an operator that has no integer kernel."""

    name: ClassVar[str] = "no_integer_kernel"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for node in subject.model.nodes():
            if node.op_type in _INTEGER or quantised_data(node) is None:
                continue
            if node.op_type not in _WITHOUT_KERNEL and quantise_behind(node) is None:
                continue  # a float tail behind integers
            kind, slowdown = node.op_type, _WITHOUT_KERNEL.get(node.op_type)
            why = f"{kind} has no integer kernel: its data are quantised and dequantised without use"
            basis = VNNI if slowdown else ""
            yield Finding(
                (node.name,), why, f"leave {kind} in fp32, or quantise less around it", slowdown, basis
            )

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _transposed("a")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _transposed("x")


def _transposed(data: str) -> ModelView:
    constants: dict[str, Any] = {
        "w": np.random.default_rng(0).normal(size=(3, 4, 2, 2)).astype(np.float32),
        "one": np.float32(0.05), "none": np.uint8(128),
    }  # fmt: skip
    head = "" if data == "x" else "q = QuantizeLinear (x, one, none) a = DequantizeLinear (q, one, none) "
    body = f"{head} y = ConvTranspose ({data}, w)"
    return example("float[N,3,8,8] x => float[N,4,9,9] y", body, constants)
