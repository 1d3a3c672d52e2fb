"""Small models with features that compression tools often get wrong, one each."""

from __future__ import annotations

from onnx_admm.contracts import ModelView
from onnx_admm.model.analysis.text import parse_text

_HEADER = '<ir_version: %d, opset_import: ["" : 17]>'
_IR_VERSIONS = {"mandatory_inputs": 3}

_FAMILY = {
    "conv_net": """
        conv_net (float[N,1,8,8] x) => (float[N,3] scores)
        <float[4,1,3,3] w1, float[4] b1, float[6,4,3,3] w2, float[3,24] w3, float[3] b3>
        {
            a1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            r1 = Relu (a1)
            p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)
            a2 = Conv <pads = [1, 1, 1, 1]> (p1, w2)
            r2 = Relu (a2)
            p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
            flat = Flatten (p2)
            scores = Gemm <transB = 1> (flat, w3, b3)
        }""",
    "grouped_batchnorm": """
        grouped (float[N,4,6,6] x) => (float[N,8,4,4] y)
        <float[8,2,3,3] w, float[8] bias, float[8] scale, float[8] shift, float[8] mean,
         float[8] var = {1.0, 0.5, 2.0, 1.5, 0.25, 1.0, 3.0, 0.75}>
        {
            a = Conv <group = 2> (x, w, bias)
            y = BatchNormalization (a, scale, shift, mean, var)
        }""",
    "mlp_both_ways": """
        mlp (float[N,8] x) => (float[N,3] scores)
        <float[8,16] w1, float[16] b1, float[12,16] w2, float[12] b2, float[12,3] w3>
        {
            a1 = Gemm (x, w1, b1)
            r1 = Relu (a1)
            a2 = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (r1, w2, b2)
            r2 = Relu (a2)
            scores = MatMul (r2, w3)
        }""",
    "tied_weights": """
        tied (float[N,6] x) => (float[N,6] y)
        <float[6,6] w, float[6] b>
        {
            a = Gemm <transB = 1> (x, w, b)
            r = Relu (a)
            y = Gemm <transB = 1> (r, w, b)
        }""",
    "branches": """
        branches (float[N,4] x, bool turned) => (float[N,3] y)
        <float[4,4] w>
        {
            h = MatMul (x, w)
            y = If (turned) <
                then_branch = turned_graph () => (float[N,3] yt) <float[4,3] wt> { yt = MatMul (h, wt) },
                else_branch = plain_graph () => (float[N,3] ye) <float[4,3] we> { ye = MatMul (h, we) }
            >
        }""",
    "defaults_of_inputs": """
        defaults (
            float[N,2] x, float[2,3] w = {0.5, -1.0, 0.25, 1.5, 0.75, -0.5}, float[3] b = {0.1, 0.2, 0.3}
        ) => (float[N,3] y)
        <float[3,3] v>
        {
            m = MatMul (x, w)
            a = Add (m, b)
            y = MatMul (a, v)
        }""",
    "weights_that_are_outputs": """
        outputs (float[N,4] x) => (float[N,3] y, float[4,6] w, float[6] b, float[3,6] turned, float[6,3] v)
        <float[4,6] w, float[6] b, float[6,6] u, float[6,3] v>
        {
            m = Gemm (x, w, b)
            r = Relu (m)
            a = MatMul (r, u)
            y = MatMul (a, v)
            turned = Transpose (v)
        }""",
    "mandatory_inputs": """
        oldest (float[N,4] x) => (float[N,3] y)
        <float[4,6] w, float[6] b, float[6,3] v>
        {
            a = Gemm (x, w, b)
            r = Relu (a)
            y = MatMul (r, v)
        }""",
    "constant_node_weights": """
        constants (float[N,3] x) => (float[N,2] y)
        {
            w = Constant <value = float[3,2] {0.5, -1.0, 0.25, 1.5, 0.75, -0.5}> ()
            y = MatMul (x, w)
        }""",
    "no_weights": """
        plain (float[N,3] x) => (float[N,3] y)
        {
            y = Relu (x)
        }""",
}


def model_family(seed: int = 0) -> dict[str, ModelView]:
    """Return every model of the family by name, with seeded weights; new ones in each call.

    Example:
        >>> from onnx_admm.testing import model_family
        >>> sorted(model_family())[:3]
        ['branches', 'constant_node_weights', 'conv_net']
        >>> [site.shape for site in model_family()["conv_net"].sites()]
        [(4, 1, 3, 3), (6, 4, 3, 3), (3, 24)]
    """
    return {
        name: parse_text(_HEADER % _IR_VERSIONS.get(name, 10) + text, seed) for name, text in _FAMILY.items()
    }
