"""Rules on convolutions: integer ones that float outruns, and widths beside the runtime's blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from onnx_admm.contracts import Finding, Level, LintSubject, ModelView
from onnx_admm.lint_rules.graph import VNNI, dequantise, quantised_data, quantised_layers
from onnx_admm.lint_rules.matches import example
from onnx_admm.model import NodeRef

_NO_FIX: Mapping[str, Any] = {}
_NARROW, _FEW_INPUTS = 16, 4


def _weight_shape(node: NodeRef) -> tuple[int, ...] | None:
    """Return the shape of a convolution's weight, dequantised or stored; None where it is computed."""
    weight = node.input(1)
    found = dequantise(weight)
    value = weight if found is None else found.input(0)
    return None if value is None else value.constant_shape


def _quantised(weight: tuple[int, ...], *, group: int = 1, channels: int = 0) -> ModelView:
    """Return a quantised convolution behind a Relu, with QuantizeLinear behind it."""
    constants: dict[str, Any] = {
        "codes": np.random.default_rng(0).integers(-60, 60, weight).astype(np.int8),
        "scale": np.float32(0.02), "zero": np.int8(0), "one": np.float32(0.05), "none": np.uint8(128),
    }  # fmt: skip
    body = (
        "r = Relu (x) q = QuantizeLinear (r, one, none) a = DequantizeLinear (q, one, none)"
        f" d = DequantizeLinear (codes, scale, zero) c = Conv <group = {group}> (a, d)"
        " p = QuantizeLinear (c, one, none) y = DequantizeLinear (p, one, none)"
    )
    data = channels or weight[1] * group
    return example(f"float[N,{data},6,6] x => float[N,{weight[0]},4,4] y", body, constants)


class GroupedConvolution:
    """A quantised grouped convolution is slower than in fp32."""

    name: ClassVar[str] = "grouped_convolution"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for node in quantised_layers(subject.model, "Conv"):
            shape, group = _weight_shape(node), node.attribute("group", 1)
            if shape is None or group == 1 or shape[1] == 1:
                continue
            why = f"the integer kernel computes the {group} groups one by one, slower than fp32"
            yield Finding((node.name,), why, "leave grouped convolutions in fp32", 1.47, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _quantised((16, 8, 3, 3), group=2)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _quantised((16, 16, 3, 3))


class NarrowConvolution:
    """A quantised convolution has fewer than 16 channels: hardly faster than fp32, or slower."""

    name: ClassVar[str] = "narrow_convolution"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for node in quantised_layers(subject.model, "Conv"):
            shape = _weight_shape(node)
            if shape is None or min(shape[0], shape[1]) >= _NARROW or shape[1] <= _FEW_INPUTS:
                continue
            why = f"an integer convolution from {shape[1]} to {shape[0]} channels takes 1.0 to 1.3 of fp32"
            yield Finding((node.name,), why, "time it in fp32, and keep what is faster", 1.15, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _quantised((8, 8, 3, 3))

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _quantised((16, 16, 3, 3))


class FirstConvolution:
    """The first convolution, of few channels, is quantised."""

    name: ClassVar[str] = "first_convolution"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for node in quantised_layers(subject.model, "Conv"):
            shape, data = _weight_shape(node), quantised_data(node)
            if shape is None or data is None or shape[1] > _FEW_INPUTS or node.attribute("group", 1) != 1:
                continue
            why = (
                f"an integer convolution of {shape[1]} channels is often slower than fp32 (2.3 times with "
                "stride 2 at 224 x 224), and costs accuracy"
            )
            yield Finding((node.name,), why, "time it in fp32, and keep what is faster", 1.1, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _quantised((32, 3, 3, 3))

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _quantised((32, 32, 3, 3))


class DepthwiseConvolution:
    """A quantised depthwise convolution with a large window is slower than in fp32."""

    name: ClassVar[str] = "depthwise_convolution"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for node in quantised_layers(subject.model, "Conv"):
            shape, group = _weight_shape(node), node.attribute("group", 1)
            if shape is None or group == 1 or shape[1] != 1 or max(shape[2:], default=1) < 5:
                continue
            why = "a depthwise convolution with a window of 5 or more is slower with integers"
            cure = "leave it in fp32, unless the convolutions on both sides of it are quantised"
            yield Finding((node.name,), why, cure, 1.4, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(5, 2)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(3, 4)

    def _model(self, window: int, places: int) -> ModelView:
        model = _quantised((16, 1, window, window), group=16) if window == 3 else None
        return model or _wide_window(places)


def _wide_window(places: int) -> ModelView:
    constants: dict[str, Any] = {
        "codes": np.ones((16, 1, 5, 5), np.int8), "scale": np.float32(0.02), "zero": np.int8(0),
        "one": np.float32(0.05), "none": np.uint8(128),
    }  # fmt: skip
    body = (
        "q = QuantizeLinear (x, one, none) a = DequantizeLinear (q, one, none)"
        " d = DequantizeLinear (codes, scale, zero) c = Conv <group = 16> (a, d)"
        " p = QuantizeLinear (c, one, none) y = DequantizeLinear (p, one, none)"
    )
    return example(f"float[N,16,6,6] x => float[N,16,{places},{places}] y", body, constants)


class DynamicConvolution:
    """ConvInteger quantises its data in every run, and has no kernel as fast as a static one."""

    name: ClassVar[str] = "dynamic_convolution"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for node in subject.model.nodes("ConvInteger"):
            why = (
                "ConvInteger takes 0.9 of fp32 where a static integer convolution takes 0.33: its result is "
                "int32, converted and scaled by further nodes over the whole tensor"
            )
            cure = "quantise convolutions with static ranges (calibration data), or leave them in fp32"
            yield Finding((node.name,), why, cure, 2.8, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        body = "q, s, z = DynamicQuantizeLinear (x) c = ConvInteger (q, w, z) y = Cast <to = 1> (c)"
        return example("float[N,3,8,8] x => float[N,4,6,6] y", body, {"w": np.ones((4, 3, 3, 3), np.uint8)})

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        weight = {"w": np.ones((4, 3, 3, 3), np.float32)}
        return example("float[N,3,8,8] x => float[N,4,6,6] y", "y = Conv (x, w)", weight)


class WidthOffGrid:
    """A convolution's channels are no multiple of 4: it leaves the runtime's blocked layout."""

    name: ClassVar[str] = "width_off_grid"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = _NO_FIX

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        block = subject.target.block
        for node in subject.model.nodes("Conv"):
            shape = _weight_shape(node)
            if shape is None or node.attribute("group", 1) != 1 or shape[0] <= block:
                continue
            missing = -shape[0] % block
            if missing and shape[0] % 4 and missing <= block // 4 and not _is_last(node):
                more = shape[0] + missing
                why = (
                    f"{shape[0]} channels are no multiple of 4, so that the convolution leaves the blocked "
                    f"layout: {more} channels are faster"
                )
                yield Finding((node.name,), why, f"train with {more} channels, or {more - block}", 1.1, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(47)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(48)

    def _model(self, width: int) -> ModelView:
        constants = {
            "w": np.ones((width, 3, 3, 3), np.float32),
            "v": np.ones((8, width, 3, 3), np.float32),
        }
        body = "c = Conv (x, w) r = Relu (c) y = Conv (r, v)"
        return example("float[N,3,8,8] x => float[N,8,4,4] y", body, constants, opset=17)


def _is_last(node: NodeRef) -> bool:
    """Return whether a result is an output, whose width is the task's."""
    return node.outputs[0].is_output
