"""Bits asked are bits stored: every grid that a pass can produce has a form that holds it exactly."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.contracts import ModelView, Pass, PassContext
from onnx_admm.encoding.coders.accounting import digit_bits
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.auto_quantize import AutoQuantize
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.reconstruct_layers import ReconstructLayers

pytestmark = pytest.mark.slow

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '
BOTH = 'hidden_size = 12, direction = "bidirectional"'
LAYERS = {
    "conv1d": "(float[N,12,12] x) => (float[N,32,a] y) <float[32,12,5] w> { y = Conv (x, w) }",
    "conv2d": "(float[N,8,6,6] x) => (float[N,16,a,b] y) <float[16,8,3,3] w> { y = Conv (x, w) }",
    "conv3d": "(float[N,4,4,4,4] x) => (float[N,12,a,b,c] y) <float[12,4,3,3,3] w> { y = Conv (x, w) }",
    "grouped": "(float[N,16,6,6] x) => (float[N,24,a,b] y) <float[24,4,4,4] w>"
    " { y = Conv <group = 4> (x, w) }",
    "depthwise": "(float[N,24,7,7] x) => (float[N,24,a,b] y) <float[24,1,6,6] w>"
    " { y = Conv <group = 24> (x, w) }",
    "transposed1d": "(float[N,12,9] x) => (float[N,16,a] y) <float[12,16,5] w> { y = ConvTranspose (x, w) }",
    "transposed2d": "(float[N,12,5,5] x) => (float[N,8,a,b] y) <float[12,8,3,3] w>"
    " { y = ConvTranspose <strides = [2, 2]> (x, w) }",
    "transposed_groups": "(float[N,12,5,5] x) => (float[N,24,a,b] y) <float[12,8,3,3] w>"
    " { y = ConvTranspose <group = 3> (x, w) }",
    "transposed_groups1d": "(float[N,16,9] x) => (float[N,24,a] y) <float[16,12,5] w>"
    " { y = ConvTranspose <group = 2> (x, w) }",
    "gemm": "(float[N,32] x) => (float[N,24] y) <float[32,24] w> { y = Gemm (x, w) }",
    "gemm_turned": "(float[N,32] x) => (float[N,24] y) <float[24,32] w> { y = Gemm <transB = 1> (x, w) }",
    "gemm_left": "(float[32,6] x) => (float[24,6] y) <float[24,32] w> { y = Gemm (w, x) }",
    "gemm_left_turned": "(float[32,6] x) => (float[24,6] y) <float[32,24] w>"
    " { y = Gemm <transA = 1> (w, x) }",
    "matmul": "(float[N,3,32] x) => (float[N,3,24] y) <float[32,24] w> { y = MatMul (x, w) }",
    "matmul_left": "(float[N,32,3] x) => (float[N,24,3] y) <float[24,32] w> { y = MatMul (w, x) }",
    "stack": "(float[3,N,16] x) => (float[3,N,24] y) <float[3,16,24] w> { y = MatMul (x, w) }",
    "behind_transpose": "(float[N,32] x) => (float[N,24] y) <float[24,32] w>"
    " { t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t) }",
    "tied": "(float[N,40] x) => (float[N,40] y) <float[40,40] w>"
    " { a = Gemm <transB = 1> (x, w) r = Relu (a) y = Gemm <transB = 1> (r, w) }",
    "tied_turned": "(float[N,40] x) => (float[N,40] y) <float[40,40] w>"
    " { a = MatMul (x, w) r = Relu (a) t = Transpose <perm = [1, 0]> (w) y = MatMul (r, t) }",
    "embedding": "(int64[N,4] i) => (float[N,4,24] y) <float[40,24] w> { y = Gather (w, i) }",
    "embedding3d": "(int64[N] i) => (float[N,6,8] y) <float[20,6,8] w> { y = Gather (w, i) }",
    "tied_embedding": "(int64[N,4] i) => (float[N,4,32] y) <float[32,24] w>"
    " { e = Gather (w, i) t = Transpose <perm = [1, 0]> (w) y = MatMul (e, t) }",
    "lstm": "(float[4,N,12] x) => (float[4,1,N,12] y) <float[1,48,12] w, float[1,48,12] r>"
    " { y = LSTM <hidden_size = 12> (x, w, r) }",
    "lstm_both": f"(float[4,N,12] x) => (float[4,2,N,12] y) <float[2,48,12] w, float[2,48,12] r>"
    f" {{ y = LSTM <{BOTH}> (x, w, r) }}",
    "gru_both": f"(float[4,N,12] x) => (float[4,2,N,12] y) <float[2,36,12] w, float[2,36,12] r>"
    f" {{ y = GRU <{BOTH}> (x, w, r) }}",
    "rnn_both": f"(float[4,N,48] x) => (float[4,2,N,12] y) <float[2,12,48] w, float[2,12,12] r>"
    f" {{ y = RNN <{BOTH}> (x, w, r) }}",
    "half": "(float16[N,32] x) => (float16[N,24] y) { y = MatMul (x, w) }",
    "double": "(double[N,32] x) => (double[N,24] y) { y = MatMul (x, w) }",
}
TYPES = {"half": np.float16, "double": np.float64}

Steps = dict[str, tuple[Pass, ...]]

REBUILT = {"lstm_both", "transposed_groups", "gemm_left", "half"}
"""Layers that are tried with more bits and sets: their grids are not one scale for each row of a matrix."""

STEPS: Steps = {
    "nearest": (*(AdmmQuantize(bits=bits, per_channel=True) for bits in (1, 4, 8)), AdmmQuantize(bits=3)),
    "rebuilt": (ReconstructLayers(bits=4, samples=12),),
    "thinned": (ReconstructLayers(bits=3, layers=0.4, samples=12),),
    "chosen": (AutoQuantize(samples=8, least_sqnr_db=15.0),),
    "more_nearest": tuple(
        AdmmQuantize(bits=bits, per_channel=is_by_channel)
        for bits in range(1, 9)
        for is_by_channel in (True, False)
    ),
    "more_bits": tuple(ReconstructLayers(bits=bits, samples=12) for bits in (1, 2, 3, 5, 6, 7, 8)),
    "more_sets": (
        ReconstructLayers(bits=3, samples=12, per_channel=False),
        ReconstructLayers(bits=8, layers=0.4, samples=12),
        *(ReconstructLayers(bits=bits, pattern="2:4", samples=12) for bits in (1, 4)),
    ),
}


def view_of(name: str) -> ModelView:
    rng = np.random.default_rng(5)
    dtype = TYPES.get(name)
    scales = rng.uniform(0.2, 3.0, size=24)  # channels of many sizes, which want scales of their own
    constants = {} if dtype is None else {"w": (rng.normal(size=(32, 24)) * scales).astype(dtype)}
    return parse_text(HEAD + LAYERS[name], 3, constants=constants)


def most_bits(step: Pass) -> float:
    """Bits of a weight in the widest words, zeros with a digit of their own where there are some."""
    bits = int(getattr(step, "bits", 8))
    is_thinned = isinstance(step, ReconstructLayers) and (step.layers or step.pattern)
    levels = 255 if bits == 8 else 2**bits + bool(is_thinned)
    return min(8.0, digit_bits(levels)) if not is_thinned else digit_bits(levels)


@pytest.mark.parametrize(
    ("name", "steps"),
    [(name, steps) for name in LAYERS for steps in STEPS if name in REBUILT or not steps.startswith("more")],
)
def test_every_grid_is_stored_in_its_bits(name: str, steps: str) -> None:
    original = view_of(name)
    context = PassContext(reference=original)
    for step in STEPS[steps]:
        model = original.fork()
        report = step.run(model, context)
        assert {edit.layer for edit in report.edits} == {site.name for site in model.sites()}, step
        rounded = {site.name: model.read(site) for site in model.sites()}
        for form in ("packed", "qdq"):
            encoded = model.fork()
            figures = Encode(form).run(encoded, context).figures["layers"]  # type: ignore[arg-type]
            assert {row["layer"] for row in figures} == rounded.keys()
            for row in figures:
                if form == "qdq" and name in TYPES:
                    continue  # of float32 alone
                where = f"{step}: {form}: {row}"
                assert "float" not in row["coding"] or steps == "chosen", where
                stored = 8 * (row["data_bytes"] + row["index_bytes"]) / row["elements"]
                assert stored <= (most_bits(step) if form == "packed" else 8) + 0.05, where
            after = {site.name: encoded.read(site) for site in encoded.sites()}
            after["t"] = after.get(
                "t", np.empty(0)
            ).T  # a decoded weight that is turned is read where it is used
            for key, values in rounded.items():
                assert np.array_equal(after.get(key, after["t"]), values), f"{step}: {form}: {key}"
