"""Small models of many opsets, IR versions, ranks and forms, for passes with many settings.

Their weights lie on grids and have zeros, so that passes find values to encode, share or remove.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnx_admm.contracts import Array, ModelView
from onnx_admm.model.analysis.text import parse_text


@dataclass(frozen=True)
class _Model:
    """The text of a model without its header, and the values of the header.

    Attributes:
        body: the text; initializers are not declared in it.
        weights: shapes by name; values are multiples of a scale of their own, a third of them zero.
        opset, ir_version: values of the header.
        dtype: type of all constants.
        constants: other initializers.
        functions: text behind the graph.
        domains: further opset imports of the header.
    """

    body: str
    weights: dict[str, tuple[int, ...]]
    opset: int = 17
    ir_version: int = 8
    dtype: str = "float32"
    constants: dict[str, Array] = field(default_factory=dict)
    functions: str = ""
    domains: str = ""

    def view(self, seed: int) -> ModelView:
        """Return the model."""
        rng = np.random.default_rng(seed)
        arrays: dict[str, Array] = {}
        for number, (name, shape) in enumerate(self.weights.items()):
            codes = rng.integers(-3, 4, shape) * (rng.random(shape) > 1 / 3)
            scale = np.float32(0.5 ** (number % 3) / 4)
            values = codes * scale if len(shape) > 1 else rng.normal(0, 0.5, shape)
            arrays[name] = values.astype(self.dtype)
        arrays |= {name: array.astype(self.dtype) for name, array in self.constants.items()}
        header = f'<ir_version: {self.ir_version}, opset_import: ["" : {self.opset}{self.domains}]>'
        return parse_text(f"{header}\n{self.body}\n{self.functions}", constants=arrays)


_NORM = "s, t, m, v"
_STATISTICS = {
    "s": np.array([1.0, 0.5, 2.0, 1.5]),
    "t": np.array([0.1, -0.2, 0.3, 0.0]),
    "m": np.array([0.2, 0.0, -0.1, 0.4]),
    "v": np.array([1.0, 0.5, 2.0, 0.25]),
}
_DEAD = np.where(np.arange(12) % 4 == 1, 0.0, 0.5).reshape(12, 1)
"""Rows of a weight, every fourth of them dead."""

_MODELS = {
    "convolution_of_rank_3": _Model(
        f"""g (float[N,3,9] x) => (float[N,5,L] y)
        {{ a = Conv (x, w, b) n = BatchNormalization (a, {_NORM}) r = Relu (n) y = Conv (r, u) }}""",
        {"w": (4, 3, 3), "b": (4,), "u": (5, 4, 2)},
        constants=_STATISTICS,
    ),
    "convolution_of_rank_5": _Model(
        f"""g (float[N,2,4,4,4] x) => (float[N,4,3,3,3] y)
        {{ a = Conv (x, w) k = Add (a, c) y = BatchNormalization (k, {_NORM}) }}""",
        {"w": (4, 2, 2, 2, 2)},
        constants={**_STATISTICS, "c": np.arange(4.0).reshape(4, 1, 1, 1)},
    ),
    "product_with_a_vector": _Model(
        f"""g (float[N,4,4] x) => (float[N,6] y)
        {{ a = MatMul (x, u) n = BatchNormalization (a, {_NORM}) y = MatMul (n, w) }}""",
        {"u": (4,), "w": (4, 6)},
        opset=13,
        constants=_STATISTICS,
    ),
    "vector_times_matrix": _Model(
        """g (float[4] x) => (float[6] y) { a = MatMul (x, w) y = Add (a, b) }""",
        {"w": (4, 6), "b": (6,)},
    ),
    "products_of_rank_4": _Model(
        """g (float[N,2,5,4] x) => (float[N,2,5,3] y)
        { a = MatMul (x, w) k = Add (a, b) r = Relu (k) z = MatMul (r, u) y = Add (c, z) }""",
        {"w": (4, 8), "b": (8,), "u": (2, 8, 3)},
        constants={"c": np.array([[[0.5, -0.5, 1.0]]])},
    ),
    "product_of_rank_5": _Model(
        """g (float[N,2,2,3,4] x) => (float[N,2,2,3,6] y) { a = MatMul (x, w) y = Add (a, b) }""",
        {"w": (4, 6), "b": (1, 3, 6)},
        opset=21,
        ir_version=10,
    ),
    "gemm_with_a_column": _Model(
        """g (float[4,6] x) => (float[4,5] y) { a = Gemm (x, w, c) r = Relu (a) y = Gemm (r, u, d) }""",
        {"u": (4, 5)},
        opset=13,
        constants={
            "w": np.tile([[0.5, 0.0, -0.25, 0.75]], (6, 1)),
            "c": np.array([[0.5], [-1.0], [0.25], [2.0]]),
            "d": np.array([[1.0]]),
        },
    ),
    "gemm_with_a_scalar": _Model(
        """g (float[N,6] x) => (float[N,5] y)
        { a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, c) r = Relu (a) y = Gemm (r, u) }""",
        {"u": (12, 5)},
        opset=11,
        ir_version=6,
        constants={"w": np.tile(_DEAD, (1, 6)), "c": np.array(0.25)},
    ),
    "old_operators": _Model(
        """g (float[N,3,6,6] x) => (float[N,4,h,w2] y, float[N,q] z)
        {
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            k = Clip <min = 0.0, max = 6.0> (a)
            u = Upsample <mode = "linear"> (k, e)
            d = Dropout <ratio = 0.5> (u)
            y = Softmax <axis = 1> (d)
            f = ReduceSum <axes = [2, 3], keepdims = 0> (k)
            z = Gemm (f, g1, g2)
        }""",
        {"w": (4, 3, 3, 3), "b": (4,), "g1": (4, 70), "g2": (70,)},
        opset=9,
        ir_version=4,
        constants={"e": np.array([1.0, 1.0, 2.0, 1.5])},
    ),
    "older_operators": _Model(
        """g (float[N,3,6,6] x) => (float[N,4,p,p] y)
        { a = Conv (x, w) p = Pad <mode = "reflect", pads = [0, 0, 1, 1, 0, 0, 1, 1]> (a)
          h = Hardmax <axis = 1> (p) y = Mul (h, p) }""",
        {"w": (4, 3, 3, 3)},
        opset=7,
        ir_version=3,
    ),
    "branches_of_opset_11": _Model(
        """g (float[2,3,4] x, bool k) => (float[2,3,6] y)
        {
            h = MatMul (x, w)
            y = If (k) <
                then_branch = yes () => (float[2,3,6] p) { p = Softmax (h) },
                else_branch = no () => (float[2,3,6] q) { c = MatMul (h, u) q = Unsqueeze <axes = [0]> (c) }
            >
        }""".replace(
            "q = Unsqueeze <axes = [0]> (c)", "o = Unsqueeze <axes = [0]> (c) q = Squeeze <axes = [0]> (o)"
        ),
        {"w": (4, 6), "u": (6, 6)},
        opset=11,
        ir_version=6,
    ),
    "function_of_opset_12": _Model(
        """g (float[N,8] x) => (float[N,8] y) { a = own.layer (x, w) r = Relu (a) y = own.layer (r, u) }""",
        {"w": (8, 8), "u": (8, 8)},
        opset=12,
        domains=', "own" : 1',
        functions="""<domain: "own", opset_import: ["" : 12]> layer (i, k) => (o)
        { p = MatMul (i, k) o = Softmax <axis = 1> (p) }""",
    ),
    "masked_attention": _Model(
        """g (float[6,8] x) => (float[6,8] y)
        {
            t = MatMul (x, w) q = Add (t, b) k = Transpose (q) e = MatMul (q, k) f = Add (e, mask)
            p = Softmax (f) o = MatMul (p, q) z = MatMul (o, u) y = Add (z, c)
        }""",
        {"w": (8, 8), "b": (8,), "u": (8, 8), "c": (8,)},
        constants={"mask": np.triu(np.full((6, 6), -1e9), 1)},
    ),
    "recurrent": _Model(
        """g (float[5,N,3] x) => (float[5,2,N,4] y)
        { y, last = LSTM <hidden_size = 4, direction = "bidirectional"> (x, w, r, b) }""",
        {"w": (2, 16, 3), "r": (2, 16, 4), "b": (2, 32)},
        opset=14,
    ),
    "transposed_in_groups": _Model(
        f"""g (float[N,4,5,5] x) => (float[N,4,11,11] y)
        {{ a = ConvTranspose <group = 2, strides = [2, 2]> (x, w, b)
           y = BatchNormalization (a, {_NORM}) }}""",
        {"w": (4, 2, 3, 3), "b": (4,)},
        opset=15,
        constants=_STATISTICS,
    ),
    "chain_of_scales": _Model(
        """g (float[N,6] x) => (float[N,4] y)
        {
            a = Gemm (x, w1, b1) r = Relu (a)
            d = Gemm (r, w2, b2) e = Relu (d)
            y = Gemm (e, w3, b3)
        }""",
        {"w1": (6, 70), "b1": (70,), "w2": (70, 70), "b2": (70,), "w3": (70, 4), "b3": (4,)},
    ),
    "double_precision": _Model(
        """g (double[N,4] x) => (double[N,5] y) { a = MatMul (x, w) k = Add (a, b) y = Relu (k) }""",
        {"w": (4, 5), "b": (5,)},
        dtype="float64",
    ),
    "half_precision": _Model(
        f"""g (float16[N,3,5,5] x) => (float16[N,4,3,3] y)
        {{ a = Conv (x, w, b) n = BatchNormalization (a, {_NORM}) y = Relu (n) }}""",
        {"w": (4, 3, 3, 3), "b": (4,)},
        dtype="float16",
        constants=_STATISTICS,
    ),
}


def varied_family(seed: int = 0) -> dict[str, ModelView]:
    """Return every model by name, with seeded weights; new ones in each call.

    Example:
        >>> from onnx_admm.testing import varied_family
        >>> family = varied_family()
        >>> [site.name for site in family["recurrent"].sites()]
        ['w', 'r']
    """
    return {name: model.view(seed) for name, model in _MODELS.items()}
