"""Rules on formulas that an exporter wrote out in several nodes, and the runtime does not fuse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from onnx_admm.contracts import Finding, Level, LintSubject, ModelView
from onnx_admm.lint_rules.graph import VNNI, is_stored, only_reader
from onnx_admm.lint_rules.matches import Explained, example, rewritable, rewrite_step
from onnx_admm.model import NodeRef

_PORTS = "float[N,5,8] x => float[N,5,8] y"
_IMAGES = "float[N,3,9,9] x => float[N,4,{0},{0}] y"
_WHOLE = f"{VNNI}; behind a convolution or product of 64 to 256 channels, that layer included"


def _number(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


class WrittenOutGelu:
    """A Gelu is computed by five to nine nodes that the runtime does not fuse."""

    name: ClassVar[str] = "gelu"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("gelu")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "these nodes compute a Gelu, one after another over the whole tensor"
        return rewritable(subject, "gelu", Explained(why, "write the operator Gelu (opset 20)", 1.1, _WHOLE))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        body = (
            "a = Mul (x, x) b = Mul (a, x) c = Mul (b, k) e = Add (x, c) g = Mul (e, q) t = Tanh (g)"
            " u = Add (t, one) v = Mul (x, u) y = Mul (v, half)"
        )
        constants = {"k": 0.044715, "q": np.sqrt(2 / np.pi), "one": 1.0, "half": 0.5}
        return example(_PORTS, body, {name: _number(value) for name, value in constants.items()}, opset=17)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example(_PORTS, 'y = Gelu <approximate = "tanh"> (x)', opset=20)


class WholeSlice:
    """A Slice takes everything, and the runtime copies the tensor."""

    name: ClassVar[str] = "whole_slice"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("whole_slice")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "the Slice leaves no element out, and the runtime copies the whole tensor for it"
        return rewritable(subject, "whole_slice", Explained(why, "leave the Slice out", 1.02, _WHOLE))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(0)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model(1)

    def _model(self, start: int) -> ModelView:
        bounds = {"start": [0, start], "end": [2**31 - 1, 8], "axes": [0, 2]}
        constants = {name: np.array(numbers, np.int64) for name, numbers in bounds.items()}
        body = "s = Slice (x, start, end, axes) y = Sigmoid (s)"
        return example(f"float[N,5,8] x => float[N,5,{8 - start}] y", body, constants)


class WrittenOutLayerNorm:
    """A LayerNormalization is computed by seven nodes or more, in a form the runtime does not fuse."""

    name: ClassVar[str] = "layer_norm"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("layer_norm")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "these nodes compute a LayerNormalization, in a form that the runtime does not recognise"
        cure = (
            "write the operator LayerNormalization (opset 17), between two Transposes where the axis is not "
            "the last"
        )
        return rewritable(subject, "layer_norm", Explained(why, cure, 1.15, _WHOLE))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        body = (
            "m = ReduceMean <axes = [-1]> (x) c = Sub (x, m) s = Mul (c, c) v = ReduceMean <axes = [-1]> (s)"
            " e = Add (v, eps) r = Sqrt (e) n = Div (c, r) g = Mul (n, scale) y = Add (g, shift)"
        )
        return example(_PORTS, body, {**self._parameters(), "eps": _number(1e-5)}, opset=17)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example(_PORTS, "y = LayerNormalization (x, scale, shift)", self._parameters(), opset=17)

    def _parameters(self) -> dict[str, np.ndarray]:
        return {"scale": np.linspace(1, 2, 8, dtype=np.float32), "shift": np.ones(8, np.float32)}


class WrittenOutHardSigmoid:
    """HardSigmoid or HardSwish by Add, Clip and Div."""

    name: ClassVar[str] = "hard_sigmoid"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("hard_sigmoid")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "Add, Clip and Div compute a HardSigmoid, outside of the layout of the convolutions around them"
        cure = "write the operator HardSigmoid with alpha = 1/6 (HardSwish: times x)"
        return rewritable(subject, "hard_sigmoid", Explained(why, cure, 1.03, _WHOLE))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        body = "a = Add (x, three) b = Clip (a, zero, six) c = Mul (x, b) y = Div (c, six)"
        constants = {"three": _number(3), "zero": _number(0), "six": _number(6)}
        return example(_PORTS, body, constants, opset=13)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example(_PORTS, "h = HardSigmoid <alpha = 0.1666667> (x) y = Mul (x, h)", opset=13)


class WrittenOutSigmoid:
    """Sigmoid or SiLU by Neg, Exp, Add and Div."""

    name: ClassVar[str] = "sigmoid"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("sigmoid")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "Neg, Exp, Add and Div compute a Sigmoid in four passes over the tensor"
        cure = "write the operator Sigmoid (SiLU: times x, which the runtime fuses)"
        return rewritable(subject, "sigmoid", Explained(why, cure, 1.03, _WHOLE))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        body = "a = Neg (x) b = Exp (a) c = Add (b, one) y = Div (x, c)"
        return example(_PORTS, body, {"one": _number(1)}, opset=13)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return example(_PORTS, "s = Sigmoid (x) y = Mul (x, s)", opset=13)


class OneHotProduct:
    """A row of a table is chosen by a product with a one-hot vector."""

    name: ClassVar[str] = "one_hot_product"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("one_hot_product")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "the product multiplies a whole table by zeros and a single one, to choose a row of it"
        return rewritable(subject, "one_hot_product", Explained(why, "look the row up with Gather", 24.0))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        body = "c = Unsqueeze (ids, last) o = Equal (c, rows) f = Cast <to = 1> (o) y = MatMul (f, table)"
        constants = {"last": np.array([2]), "rows": np.arange(6), "table": self._table()}
        return example("int64[N,7] ids => float[N,7,4] y", body, constants, opset=13)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        ports = "int64[N,7] ids => float[N,7,4] y"
        return example(ports, "y = Gather (table, ids)", {"table": self._table()}, opset=13)

    def _table(self) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


class FunctionOfRows:
    """A function of looked-up rows is computed for every lookup, and could be for the table, once."""

    name: ClassVar[str] = "function_of_rows"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("function_of_rows")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = (
            "one sample looks up as many rows as the table has, or more, and the function depends on the row "
            "alone"
        )
        cure = "put the function in front of the Gather: it is computed as the file is loaded"
        return rewritable(subject, "function_of_rows", Explained(why, cure, 2.0))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("r = Gather (table, ids) y = Gelu (r)")

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return self._model("g = Gelu (table) y = Gather (g, ids)")

    def _model(self, body: str) -> ModelView:
        table = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        return example("int64[N,7] ids => float[N,7,4] y", body, {"table": table}, opset=20)


class MeanOverPlaces:
    """A mean over all places behind a convolution, outside of the layout of convolutions."""

    name: ClassVar[str] = "mean_over_places"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("mean_over_places")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "ReduceMean makes the runtime convert the convolution's result to another layout first"
        cure = "write GlobalAveragePool, which also has an integer kernel"
        return rewritable(subject, "mean_over_places", Explained(why, cure, 1.02, _WHOLE))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _behind_convolution("y = ReduceMean <axes = [2, 3]> (c)", 1)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _behind_convolution("y = GlobalAveragePool (c)", 1)


class MaximumBehindFunction:
    """A costly function is computed for all elements, and then only maxima are taken."""

    name: ClassVar[str] = "maximum_behind_function"
    level: ClassVar[Level] = Level.SLOW
    fix: ClassVar[Mapping[str, Any]] = rewrite_step("maximum_behind_function")

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        why = "the function never decreases, so it is enough to compute it for the maxima"
        cure = "put the pool in front of the function"
        return rewritable(subject, "maximum_behind_function", Explained(why, cure, 1.15, _WHOLE))

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _behind_convolution("e = Elu (c) y = MaxPool <kernel_shape = [2, 2]> (e)", 6)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        return _behind_convolution("p = MaxPool <kernel_shape = [2, 2]> (c) y = Elu (p)", 6)


def _behind_convolution(body: str, extent: int) -> ModelView:
    weight = np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    return example(_IMAGES.format(extent), f"c = Conv (x, w) {body}", {"w": weight}, opset=13)


class WrittenOutAttention:
    """Attention is written out as two products and a Softmax."""

    name: ClassVar[str] = "attention"
    level: ClassVar[Level] = Level.NOTE
    fix: ClassVar[Mapping[str, Any]] = {}

    def check(self, subject: LintSubject) -> Iterable[Finding]:
        """See ``contracts.LintRule``."""
        for softmax in subject.model.nodes("Softmax"):
            products = attention_products(softmax)
            if products is not None:
                names = (products[0].name, softmax.name, products[1].name)
                why = "two products and a Softmax compute an attention"
                cure = (
                    "the operator Attention (opset 23) takes as long on a CPU: keep the form, and leave "
                    "it in fp32 when you quantise"
                )
                yield Finding(names, why, cure, 1.0, VNNI)

    def faulty(self) -> ModelView:
        """See ``contracts.LintRule``."""
        body = "s = MatMul (q, k) h = Mul (s, r) p = Softmax <axis = -1> (h) y = MatMul (p, v)"
        ports = "float[2,5,4] q, float[2,4,5] k, float[2,5,4] v => float[2,5,4] y"
        return example(ports, body, {"r": _number(0.5)}, opset=17)

    def sound(self) -> ModelView:
        """See ``contracts.LintRule``."""
        ports = "float[N,4] q => float[N,5] y"
        body = "s = MatMul (q, w) y = Softmax <axis = -1> (s)"
        return example(ports, body, {"w": np.ones((4, 5), np.float32)}, opset=17)


_BETWEEN = ("Mul", "Div", "Add", "Cast", "Where", "Reshape", "QuantizeLinear", "DequantizeLinear", "Dropout")


def attention_products(softmax: NodeRef) -> tuple[NodeRef, NodeRef] | None:
    """Return the products of computed values before and behind a Softmax; None where one is missing."""
    before = next(_products(_inputs(softmax)), None)
    behind: NodeRef | None = softmax
    for _ in range(4):
        behind = None if behind is None else only_reader(behind.outputs[0])
        if behind is None or behind.op_type not in _BETWEEN:
            break
    if before is None or behind is None or behind.op_type != "MatMul" or is_stored(behind.input(1)):
        return None
    return before, behind


def _inputs(node: NodeRef) -> Iterator[NodeRef]:
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None:
            yield producer


def _products(nodes: Iterator[NodeRef], depth: int = 6) -> Iterator[NodeRef]:
    for node in nodes:
        if node.op_type == "MatMul" and not is_stored(node.input(0)) and not is_stored(node.input(1)):
            yield node
        elif depth and node.op_type in _BETWEEN:
            yield from _products(_inputs(node), depth - 1)
