"""Rules on what a file stores: initializers, normalisations that could be folded, types, external data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from onnx_admm.contracts import Finding, Level, LintSubject, ModelView, RuntimeTarget
from onnx_admm.lint_rules.graph import VNNI, only_reader
from onnx_admm.lint_rules.matches import Explained, example, rewritable, rewrite_step
from onnx_admm.model.rewrite.weight_storage import stored_weight_bytes

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_UNREAD_SHARE = 0.05
_SMALL_BYTES = 1 << 20


class ListedInitializers:
    """Initializers are listed as inputs, so that the runtime can neither fold nor fuse anything."""

    name: ClassVar[str] = "listed_initializers"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = {"freeze_defaults": True}

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        defaults = tuple(port.name for port in subject.model.signature().defaults)
        if not defaults:
            return
        why = (
            f"{len(defaults)} initializers are inputs that a caller may override, so the runtime treats them "
            "as unknown: no BatchNormalization is folded, no layout chosen, no constant computed"
        )
        if subject.model.lists_by_habit:
            cure = "take them out of the inputs (IR version 4 and newer needs none there)"
            basis = f"{VNNI}; a face detector"
            yield Finding(defaults, why, cure, 6.2, basis, is_mended=True)
        else:
            cure = "take them out of the inputs if no caller overrides them (compress --freeze-defaults)"
            yield Finding(defaults, why, cure, level=Level.NOTE)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example("float[N,3] x, float[3,2] w = {1, 2, 3, 4, 5, 6} => float[N,2] y", "y = MatMul (x, w)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        weight = {"w": np.arange(6, dtype=np.float32).reshape(3, 2)}
        return example("float[N,3] x => float[N,2] y", "y = MatMul (x, w)", weight)


class UnusedConstants:
    """Stored constants that no node reads."""

    name: ClassVar[str] = "unused_constants"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("unused_constants")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        explained = Explained("no node reads this constant", "remove it from the file")
        return rewritable(subject, "unused_constants", explained)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example("float[N,3] x => float[N,3] y", "y = Relu (x)", {"w": np.ones(5, np.float32)})

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example("float[N,3] x => float[N,3] y", "y = Relu (x)")


class UnfusedBatchNorm:
    """A BatchNormalization stands behind a linear layer that could take it in."""

    name: ClassVar[str] = "unfused_batchnorm"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = {"name": "fold_batchnorm"}

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for node in subject.model.nodes("BatchNormalization"):
            data = node.input(0)
            layer = None if data is None else data.producer()
            if data is None or layer is None or layer.op_type not in _LINEAR or only_reader(data) is None:
                continue
            weight = layer.input(1)
            parameters = [node.input(index) for index in range(1, 5)]
            is_stored = all(value is not None and value.constant_shape is not None for value in parameters)
            if weight is None or weight.constant_shape is None or not is_stored or len(weight.uses()) != 1:
                continue
            if layer.op_type == "MatMul" and len(weight.constant_shape) != 2:
                continue
            is_conv = layer.op_type == "Conv"
            level = Level.NOTE if is_conv else Level.SLOW
            told = "the runtime folds it in every load" if is_conv else "the runtime runs it"
            why = f"a BatchNormalization behind {layer.op_type} could be folded into its weight; {told}"
            yield Finding(
                (node.name, layer.name), why, "fold it into the weight", is_mended=True, level=level
            )

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("y = BatchNormalization (c, one, one, one, one)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("y = Relu (c)")

    def _model(self, behind: str) -> ModelView:
        constants: dict[str, Any] = {"w": np.ones((4, 3, 3, 3), np.float32)}
        constants |= {"one": np.ones(4, np.float32)} if "one" in behind else {}
        ports = "float[N,3,8,8] x => float[N,4,6,6] y"
        return example(ports, f"c = Conv (x, w) {behind}", constants, opset=17)


class HalfPrecision:
    """Operators compute in fp16 on a processor whose kernels are fp32: the runtime casts around each."""

    name: ClassVar[str] = "half_precision"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = {}

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        if subject.target.has_fp16:
            return
        nodes = [
            node.name
            for op_type in (*_LINEAR, "LSTM", "GRU")
            for node in subject.model.nodes(op_type)
            if (weight := node.input(1)) is not None and weight.dtype == "float16"
        ]
        if nodes:
            why = (
                f"{len(nodes)} layers compute in fp16, for which {subject.target.name} has no kernels: the "
                "runtime casts to fp32 and back around them, and fuses nothing"
            )
            cure = (
                "keep the weights in fp16 and cast them to fp32, which is folded as the file is loaded: half "
                "the bytes at the speed of fp32"
            )
            yield Finding(tuple(nodes), why, cure, 1.24, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        weight = {"w": np.ones((3, 2), np.float16)}
        return example("float16[N,3] x => float16[N,2] y", "y = MatMul (x, w)", weight)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        weight = {"w": np.ones((3, 2), np.float16)}
        return example("float[N,3] x => float[N,2] y", "f = Cast <to = 1> (w) y = MatMul (x, f)", weight)


class ExternalData:
    """The files that hold the weights: bytes that nothing reads, or no need for them."""

    name: ClassVar[str] = "external_data"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = {}

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        if not subject.external:
            return
        stored, used = sum(subject.external.values()), stored_weight_bytes(subject.model)
        names = tuple(subject.external)
        if stored > used * (1 + _UNREAD_SHARE) and stored - used > _SMALL_BYTES // 256:
            why = f"{stored - used:,} of {stored:,} bytes are read by nothing, left by an earlier version"
            yield Finding(names, why, "save the model again, into a new file")
        if used < _SMALL_BYTES:
            why = f"{used:,} bytes of weights lie in another file, which must go wherever the model goes"
            yield Finding(names, why, "store the weights in the model file, which may be up to 2 GB")

    def faulty(self) -> LintSubject:
        """See ``contracts.LintRule``."""
        target = RuntimeTarget("x86-vnni", block=16)
        return LintSubject(ListedInitializers().sound(), target, external={"net.onnx.data": 1 << 20})

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return ListedInitializers().sound()
