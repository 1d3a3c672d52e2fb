"""Rules on Gemm, MatMul and Conv with dequantised weights: why they get no integer kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from onnx_admm.contracts import Array, Finding, Level, LintSubject, ModelView
from onnx_admm.lint_rules.graph import VNNI, quantised_data, stored_codes
from onnx_admm.lint_rules.matches import Explained, example, rewritable, rewrite_step

_ROWS, _COLUMNS = 32, 12
_NARROW = ("int4", "uint4", "int2", "uint2")
_DECODE = "d = DequantizeLinear (codes, scale, zero) "
_DATA = "q = QuantizeLinear (x, one, none) a = DequantizeLinear (q, one, none) "
_PORTS = f"float[N,{_ROWS}] x => float[N,{_COLUMNS}] y"


def _codes(shape: tuple[int, ...] = (_ROWS, _COLUMNS)) -> Array:
    return np.random.default_rng(0).integers(-60, 60, shape).astype(np.int8)


def _weights(**more: Any) -> dict[str, Any]:
    bias = np.linspace(-1, 1, _COLUMNS, dtype=np.float32)
    return {"codes": _codes(), "scale": np.float32(0.02), "zero": np.int8(0), "bias": bias, **more}


def _quantised(**more: Any) -> dict[str, Any]:
    return _weights(one=np.float32(0.05), none=np.uint8(128), **more)


class ReluAfterWeight:
    """A Relu or Clip behind a linear layer keeps it from its low-bit or integer kernel."""

    name: ClassVar[str] = "relu_after_weight"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("relu_after_weight")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = (
            "the runtime takes the Relu or Clip for part of a quantised group, finds no QuantizeLinear "
            "behind it, and dequantises the whole weight in every run"
        )
        cure = "write Relu as ThresholdedRelu(alpha = 0), Clip as Max and Min: no fusion looks at those"
        return rewritable(subject, "relu_after_weight", Explained(why, cure, 4.6))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("r = Relu (h)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("r = ThresholdedRelu <alpha = 0.0> (h)")

    def _model(self, limit: str) -> ModelView:
        body = f"{_DECODE} h = Gemm (x, d, bias) {limit} y = Sigmoid (r)"
        return example(_PORTS, body, _weights())


class TransposedWeight:
    """A Gemm reads its dequantised weight transposed, for which there is no kernel."""

    name: ClassVar[str] = "transposed_weight"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("transposed_weight")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "Gemm with transB = 1 and a dequantised weight never becomes one low-bit kernel"
        cure = "store the weight transposed, and leave transB out"
        return rewritable(subject, "transposed_weight", Explained(why, cure, 4.4))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        body = f"{_DECODE} y = Gemm <transB = 1> (x, d, bias)"
        return example(_PORTS, body, _weights(codes=_codes((_COLUMNS, _ROWS))))

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example(_PORTS, f"{_DECODE} y = Gemm (x, d, bias)", _weights())


class RowBias:
    """The bias of a product with a dequantised weight is a matrix of one row."""

    name: ClassVar[str] = "row_bias"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("row_bias")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = (
            "with a bias of shape (1, N) the product does not become one low-bit kernel, and the runtime "
            "dequantises the whole weight in every run"
        )
        cure = "store the bias as a vector of N elements: it is added to each row just so"
        return rewritable(subject, "row_bias", Explained(why, cure, 22.0))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        row = np.linspace(-1, 1, _COLUMNS, dtype=np.float32).reshape(1, _COLUMNS)
        return example(_PORTS, f"{_DECODE} y = Gemm (x, d, bias)", _weights(bias=row))

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example(_PORTS, f"{_DECODE} y = Gemm (x, d, bias)", _weights())


class FloatBias:
    """A product of two dequantised matrices has a bias in fp32, and so no integer kernel."""

    name: ClassVar[str] = "float_bias"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("float_bias")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "the runtime merges product and bias into a Gemm with a float bias, which has no integer kernel"
        cure = "write Gemm with an int32 bias behind DequantizeLinear, of scale x_scale * w_scale"
        return rewritable(subject, "float_bias", Explained(why, cure, 6.2))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example(_PORTS, f"{_DATA}{_DECODE} m = MatMul (a, d) y = Add (m, bias)", _quantised())

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _with_bias_scale(1.0)


def _with_bias_scale(factor: float) -> ModelView:
    """Return an integer Gemm whose bias has ``factor`` times the scale that the kernel adds it with."""
    body = f"{_DATA}{_DECODE} b = DequantizeLinear (whole, fine, naught) y = Gemm (a, d, b)"
    fine = np.float32(0.05 * 0.02 * factor)
    whole = np.rint(np.linspace(-1, 1, _COLUMNS) / fine).astype(np.int32)
    constants = _quantised(whole=whole, fine=fine, naught=np.int32(0))
    return example(_PORTS, body, {name: array for name, array in constants.items() if name != "bias"})


class BiasScale:
    """An int32 bias has another scale than data times weight, and the integer kernel adds it wrongly."""

    name: ClassVar[str] = "bias_scale"
    level: ClassVar[Level] = Level.ERROR
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("bias_scale")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = (
            "the integer Gemm adds an int32 bias as it is, whatever its scale says (seen in onnxruntime "
            "1.32); a Conv with such a bias stays in fp32"
        )
        cure = "give the bias the scale x_scale * w_scale, and its codes to match"
        return rewritable(subject, "bias_scale", Explained(why, cure))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _with_bias_scale(2.0)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _with_bias_scale(1.0)


class Uint8Weights:
    """Weights are uint8, for which integer kernels are slower than for int8."""

    name: ClassVar[str] = "uint8_weights"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("uint8_weights")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        if subject.target.saturates:
            return ()  # products of uint8 and int8 saturate there, those of uint8 and uint8 do not
        why = "kernels for uint8 weights take 2 to 2.5 times as long as those for int8"
        cure = "store int8 codes and zero points: both less 128"
        return rewritable(subject, "uint8_weights", Explained(why, cure, 2.4))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        codes = (_codes().astype(np.int16) + 128).astype(np.uint8)
        weights = _quantised(codes=codes, zero=np.uint8(128))
        return example(_PORTS, f"{_DATA}{_DECODE} y = MatMul (a, d)", weights)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example(_PORTS, f"{_DATA}{_DECODE} y = MatMul (a, d)", _quantised())


class UnfusedWeight:
    """The weight of a convolution is dequantised in every run: no kernel takes it with data in fp32."""

    name: ClassVar[str] = "unfused_weight"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("unfused_weight")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = (
            "no kernel takes a dequantised weight and data in fp32 for this operator, and the runtime "
            "dequantises the weight in every run instead of once"
        )
        cure = "write Cast and Mul in place of DequantizeLinear: they are computed as the file is loaded"
        yield from rewritable(subject, "unfused_weight", Explained(why, cure, 1.25, VNNI))
        for node in subject.model.nodes("Conv"):
            codes = stored_codes(node.input(1))
            if codes is not None and codes.dtype in _NARROW and quantised_data(node) is None:
                yield Finding((node.name,), why, "store the codes in 8 bits, with Cast and Mul", 1.29, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("d = DequantizeLinear (codes, scale, zero)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("f = Cast <to = 1> (codes) d = Mul (f, scale)")

    def _model(self, decoding: str) -> ModelView:
        constants: dict[str, Any] = {
            "codes": _codes((4, 3, 3, 3)),
            "scale": np.float32(0.02),
            "zero": np.int8(0),
        }
        return example("float[N,3,8,8] x => float[N,4,6,6] y", f"{decoding} y = Conv (x, d)", constants)
