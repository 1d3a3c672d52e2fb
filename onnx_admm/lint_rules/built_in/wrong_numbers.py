"""Rules on what computes wrong numbers, or does not load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from onnx_admm.contracts import Finding, Level, LintSubject, ModelView, RuntimeTarget
from onnx_admm.lint_rules.graph import dequantise, is_stored, quantised_layers, stored_codes
from onnx_admm.lint_rules.matches import Explained, example, rewritable, rewrite_step
from onnx_admm.model.analysis.text import parse_text

_DECODE = "d = DequantizeLinear (codes, scale, zero) "
_MOST_SAFE_CODE = 64
"""Two products of 255 and this many fit in 16 bits."""


class TwoBitWeights:
    """2-bit weights of a linear layer whose number of columns 4 does not divide: the runtime errs."""

    name: ClassVar[str] = "two_bit_weights"
    level: ClassVar[Level] = Level.ERROR
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("two_bit_weights")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = (
            "with 2-bit weights and a number of columns that 4 does not divide, onnxruntime 1.25 to 1.32 "
            "computes wrong numbers without an error"
        )
        cure = "store the same codes in 4 bits, or pad the columns to a multiple of 4"
        return rewritable(subject, "two_bit_weights", Explained(why, cure))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(10)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(12)

    def _model(self, columns: int) -> ModelView:
        codes = np.random.default_rng(0).integers(-2, 2, (32, columns)).astype(ml_dtypes.int2)
        constants: dict[str, Any] = {
            "codes": codes,
            "scale": np.float32(0.1),
            "zero": np.zeros((), ml_dtypes.int2),
        }
        ports = f"float[N,32] x => float[N,{columns}] y"
        return example(ports, f"{_DECODE} y = MatMul (x, d)", constants, opset=25, ir_version=13)


class BlocksOf512:
    """Weights in blocks of 512, which two releases compute as zeros."""

    name: ClassVar[str] = "blocks_of_512"
    level: ClassVar[Level] = Level.ERROR
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("blocks_of_512")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "onnxruntime 1.19 and 1.26 compute zeros or NaN for weights in blocks of 512 (issue 28551)"
        cure = "halve the blocks: each scale and zero point twice"
        return rewritable(subject, "blocks_of_512", Explained(why, cure))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(512)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(256)

    def _model(self, block: int) -> ModelView:
        rng = np.random.default_rng(0)
        constants: dict[str, Any] = {
            "codes": rng.integers(-8, 8, (1024, 4)).astype(ml_dtypes.int4),
            "scale": rng.uniform(0.01, 0.02, (1024 // block, 4)).astype(np.float32),
        }
        body = f"d = DequantizeLinear <axis = 0, block_size = {block}> (codes, scale) y = MatMul (x, d)"
        return example("float[N,1024] x => float[N,4] y", body, constants)


class MissingZeroPoint:
    """int8 DequantizeLinear without a zero point, then Reshape or Transpose: older runtimes err."""

    name: ClassVar[str] = "missing_zero_point"
    level: ClassVar[Level] = Level.ERROR
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("missing_zero_point")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = (
            "onnxruntime 1.19 to 1.26 takes a zero point that is left out for one of uint8 behind Reshape "
            "and Transpose, and computes wrong numbers without an error"
        )
        cure = "state the zero point of 0"
        return rewritable(subject, "missing_zero_point", Explained(why, cure))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("d = DequantizeLinear (codes, scale)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(_DECODE)

    def _model(self, decoding: str) -> ModelView:
        codes = np.random.default_rng(0).integers(-60, 60, (4, 8)).astype(np.int8)
        constants: dict[str, Any] = {"codes": codes, "scale": np.float32(0.1), "zero": np.int8(0)}
        return example(
            "float[N,8] x => float[N,4] y", f"{decoding} t = Transpose (d) y = MatMul (x, t)", constants
        )


class WrongShapes:
    """Stored shapes of inner values contradict the graph, and the runtime uses them."""

    name: ClassVar[str] = "wrong_shapes"
    level: ClassVar[Level] = Level.ERROR
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("wrong_shapes")

    _TEXT: ClassVar[str] = """<ir_version: 10, opset_import: ["" : 17]>
        net (float[N,8] x) => (float[N,8] y) { h = Relu (x) y = Sigmoid (h) }"""

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "the runtime shares buffers by stored shapes and chooses kernels by them; some are wrong"
        cure = "leave the stored shapes of inner values out: the runtime infers them"
        return rewritable(subject, "wrong_shapes", Explained(why, cure))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return parse_text(self._TEXT, shapes={"h": ["N", 9]}, is_checked=False)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return parse_text(self._TEXT)


class PerChannelOpset:
    """One scale for each channel at an opset below 13, where no operator has an axis for them."""

    name: ClassVar[str] = "per_channel_opset"
    level: ClassVar[Level] = Level.ERROR
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("per_channel_opset")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        opset = subject.model.opset
        why = f"QuantizeLinear and DequantizeLinear of opset {opset} have no axis: the file is invalid"
        cure = "raise the opset to 13"
        return rewritable(subject, "per_channel_opset", Explained(why, cure))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(11, is_checked=False)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(13, is_checked=True)

    def _model(self, opset: int, *, is_checked: bool) -> ModelView:
        codes = np.random.default_rng(0).integers(-60, 60, (8, 4)).astype(np.int8)
        constants: dict[str, Any] = {
            "codes": codes,
            "scale": np.full(4, 0.1, np.float32),
            "zero": np.zeros(4, np.int8),
        }
        text = f"""<ir_version: 8, opset_import: ["" : {opset}]> net (float[N,8] x) => (float[N,4] y)
            {{ d = DequantizeLinear <axis = 1> (codes, scale, zero) y = MatMul (x, d) }}"""
        return parse_text(text, constants=constants, is_checked=is_checked)


class InvalidModel:
    """The ONNX checker refuses the file; some runtimes do too."""

    name: ClassVar[str] = "invalid_model"
    level: ClassVar[Level] = Level.ERROR
    fix: ClassVar[Mapping[str, Any]] = {}

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        if subject.refusal:
            yield Finding((), subject.refusal, "export the model again, or mend what the checker names")

    def faulty(self) -> LintSubject:
        """See ``contracts.LintRule``."""
        return LintSubject(self.sound(), RuntimeTarget("x86-vnni", block=16), refusal="a node is missing")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example("float[N,8] x => float[N,8] y", "y = Relu (x)")


class SaturatingProducts:
    """Products of uint8 data and large int8 weights saturate on processors without VNNI."""

    name: ClassVar[str] = "saturating_products"
    level: ClassVar[Level] = Level.ERROR
    fix: ClassVar[Mapping[str, Any]] = {}

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        if not subject.target.saturates:
            return
        for node in quantised_layers(subject.model, "Conv", "Gemm", "MatMul"):
            data, weight = dequantise(node.input(0)), stored_codes(node.input(1))
            codes = None if weight is None else weight.constant()
            point = None if data is None else data.input(2)
            if codes is None or point is None or codes.dtype != np.int8 or point.dtype != "uint8":
                continue
            if (
                is_stored(node.input(0))
                or int(np.abs(codes.astype(np.int16)).max(initial=0)) <= _MOST_SAFE_CODE
            ):
                continue
            why = (
                f"on {subject.target.name} two products of uint8 and int8 are added in 16 bits, and saturate "
                "with weights over 64"
            )
            cure = "quantise the weights to 7 bits (reduce_range), or the data to int8"
            yield Finding((node.name,), why, cure)

    def faulty(self) -> LintSubject:
        """See ``contracts.LintRule``."""
        return self._subject(127)

    def sound(self) -> LintSubject:
        """See ``contracts.LintRule``."""
        return self._subject(63)

    def _subject(self, largest: int) -> LintSubject:
        constants: dict[str, Any] = {
            "codes": np.full((8, 4), largest, np.int8), "scale": np.float32(0.1), "zero": np.int8(0),
            "one": np.float32(0.1), "none": np.uint8(128),
        }  # fmt: skip
        body = "q = QuantizeLinear (x, one, none) a = DequantizeLinear (q, one, none) "
        model = example("float[N,8] x => float[N,4] y", f"{body}{_DECODE} y = MatMul (a, d)", constants)
        return LintSubject(model, RuntimeTarget("x86-avx2", block=8, has_integer_dot=False, saturates=True))
