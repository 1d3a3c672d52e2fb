"""Rules on quantised activations: their types, and what hides them from a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from onnx_admm.contracts import Finding, Level, LintSubject, ModelView
from onnx_admm.lint_rules.graph import VNNI
from onnx_admm.lint_rules.matches import Explained, example, rewritable, rewrite_step


class Int8Activations:
    """int8 activations that several nodes read: the runtime converts others to uint8, and fuses neither."""

    name: ClassVar[str] = "int8_activations"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("int8_activations")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        if not subject.target.has_integer_dot or subject.target.has_fp16:
            return ()  # ARM prefers int8; without VNNI products of uint8 and int8 saturate
        why = (
            "the runtime turns int8 activations into uint8, but not those that several nodes read: operators "
            "between the two kinds have no integer kernel"
        )
        cure = "make all activations uint8: the same scales, zero points 128 higher"
        basis = f"{VNNI}; a small residual network as a whole"
        return rewritable(subject, "int8_activations", Explained(why, cure, 2.1, basis))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(np.int8(0))

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(np.uint8(128))

    def _model(self, point: Any) -> ModelView:
        body = (
            "q = QuantizeLinear (x, one, none) a = DequantizeLinear (q, one, none) s = Add (a, a)"
            " p = QuantizeLinear (s, one, none) y = DequantizeLinear (p, one, none)"
        )
        return example("float[N,8] x => float[N,8] y", body, {"one": np.float32(0.05), "none": point})


class ViewBehindDequantise:
    """Flatten or Reshape between DequantizeLinear and a layer hides the quantised data from it."""

    name: ClassVar[str] = "view_behind_dequantise"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("view_behind_dequantise")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "the layer sees a Flatten or Reshape in place of a DequantizeLinear, and runs in fp32"
        cure = "put the view in front of the DequantizeLinear: it only moves the codes"
        return rewritable(subject, "view_behind_dequantise", Explained(why, cure, 6.0))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("a = DequantizeLinear (q, one, none) f = Flatten (a)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("a = Flatten (q) f = DequantizeLinear (a, one, none)")

    def _model(self, body: str) -> ModelView:
        constants: dict[str, Any] = {
            "codes": np.random.default_rng(0).integers(-60, 60, (32, 12)).astype(np.int8),
            "scale": np.float32(0.02), "zero": np.int8(0), "one": np.float32(0.05), "none": np.uint8(128),
        }  # fmt: skip
        head = "q = QuantizeLinear (x, one, none) d = DequantizeLinear (codes, scale, zero) "
        return example("float[N,2,16] x => float[N,12] y", f"{head}{body} y = Gemm (f, d)", constants)


class Int8ConvInteger:
    """ConvInteger with int8 weights, whose kernel is slower than that for uint8."""

    name: ClassVar[str] = "int8_conv_integer"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("int8_conv_integer")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "ConvInteger with int8 weights takes 2.5 to 4 times as long as with uint8 weights"
        cure = "store uint8 codes and zero points: both 128 more"
        return rewritable(subject, "int8_conv_integer", Explained(why, cure, 3.3))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(np.int8)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(np.uint8)

    def _model(self, dtype: Any) -> ModelView:
        codes = np.random.default_rng(0).integers(0, 60, (4, 3, 3, 3)).astype(dtype)
        body = "q, s, z = DynamicQuantizeLinear (x) c = ConvInteger (q, w, z) y = Cast <to = 1> (c)"
        return example("float[N,3,8,8] x => float[N,4,6,6] y", body, {"w": codes})
