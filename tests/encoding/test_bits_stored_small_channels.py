"""Every pass that makes grids makes such as are found again: tiny channels, every float type, lone zeros."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.config.registry import PASSES, cost_model
from onnx_admm.contracts import ModelView, Pass, PassContext
from onnx_admm.encoding.choice import choose_plan
from onnx_admm.encoding.coders.accounting import digit_bits
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.compression_options import BOTH_AXES, DENSE, FINE, SPARSE, Rounding, Treated
from onnx_admm.encoding.large import packed_alone
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.auto_quantize import AutoQuantize
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.exact.share_scales import ShareScales
from onnx_admm.passes.meet_budget import MeetBudget
from onnx_admm.passes.reconstruct_layers import ReconstructLayers

pytestmark = pytest.mark.slow

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '
ROWS, CHANNELS = 32, 24
TINY = {"float16": (2e-7, 3e-6, 1e-5), "float32": (1e-44, 1e-39, 3e-31), "float64": (1e-320, 1e-300, 1e-31)}
"""Magnitudes of channels that weight decay left: denormal in their type, and just above."""
VANISHING = {"float16": 0.0, "float32": 1e-38, "float64": 1e-250}
"""Magnitudes up to which a channel becomes zero; of float16, the smallest numbers have levels too."""

NO_GRIDS = {
    "admm_prune": "zeros and values as they were",
    "drop_dead_channels": "values as they were",
    "encode": "stores grids",
    "fine_tune": "moves kept weights; levels it holds are those of admm_quantize",
    "fold_batchnorm": "scales weights before they are rounded",
    "fold_bias": "biases alone",
    "share_constants": "equal values, stored once",
    "minify": "no values",
    "remove_blocks": "fitted values, before they are rounded",
    "remove_channels": "refitted values, before they are rounded",
    "meet_latency": "refitted values, and codes behind DequantizeLinear",
    "rewrite_for_runtime": "weights as they were, in another order or with rows of zeros",
    "set_layers": "as reconstruct_layers, which it runs",
    "quantize_activations": "codes behind DequantizeLinear; values on a grid stay as they were",
}
GRIDS = {
    AdmmQuantize.name: (
        *(AdmmQuantize(bits=bits, per_channel=True) for bits in (1, 3, 4, 8)),
        *(AdmmQuantize(bits=bits) for bits in (2, 8)),
    ),
    ReconstructLayers.name: (
        *(ReconstructLayers(bits=bits, samples=12) for bits in (1, 4, 8)),
        ReconstructLayers(bits=3, layers=0.4, samples=12),
        ReconstructLayers(bits=4, pattern="2:4", samples=12),
    ),
    AutoQuantize.name: (
        AutoQuantize(samples=8, least_sqnr_db=12.0),
        AutoQuantize(samples=8, least_sqnr_db=30.0),
    ),
    MeetBudget.name: (MeetBudget(budget=("macbits=0.1x",), samples=12, bits=(4,)),),
    ShareScales.name: (),  # see below: it needs layers on grids to begin with
}


def test_every_pass_is_said_to_make_grids_or_none() -> None:
    assert set(PASSES.names()) - {"fake"} == GRIDS.keys() | NO_GRIDS.keys()


@cache
def with_tiny_channels(dtype: str) -> ModelView:
    weights = np.random.default_rng(5).normal(size=(ROWS, CHANNELS)) * 0.2
    weights[:, 1] = 0
    for channel, magnitude in enumerate(TINY[dtype], start=5):
        weights[:, channel] *= magnitude / 0.2
    kind = {"float16": "float16", "float32": "float", "float64": "double"}[dtype]
    text = f"({kind}[N,{ROWS}] x) => ({kind}[N,{CHANNELS}] y) {{ y = MatMul (x, w) }}"
    return parse_text(HEAD + text, 3, constants={"w": weights.astype(dtype)})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", [name for name, steps in GRIDS.items() if steps])
def test_grids_of_tiny_channels_are_stored_in_their_bits(dtype: str, name: str) -> None:
    original = with_tiny_channels(dtype)
    context = PassContext(reference=original, cost_model=cost_model("macs"), bindings={"N": 1})
    for step in GRIDS[name]:
        model = original.fork()
        report = step.run(model, context)
        assert {edit.layer for edit in report.edits} == {"w"}, step
        rounded = model.read("w")
        assert not rounded[:, np.abs(original.read("w")).max(axis=0) <= VANISHING[dtype]].any(), step
        encoded = model.fork()
        (row,) = Encode("packed").run(encoded, context).figures["layers"]
        stored = 8 * (row["data_bytes"] + row["index_bytes"]) / row["elements"]
        assert stored <= most_bits(step) + 0.05, f"{step}: {row}"
        np.testing.assert_array_equal(encoded.read(encoded.sites()[0]), rounded)


def most_bits(step: Pass) -> float:
    bits = int(getattr(step, "bits", 8)) if not isinstance(step, MeetBudget) else 4
    has_zeros = isinstance(step, MeetBudget) or (
        isinstance(step, ReconstructLayers) and (step.layers is not None or step.pattern is not None)
    )
    return 8.0 if bits == 8 else digit_bits(2**bits + has_zeros)


def stored_bits(values: npt.NDArray[np.floating]) -> tuple[float, str]:
    """Bits of codes and index for each element, as encoded by itself."""
    weight = Weight("w", values)
    alone = packed_alone(weight)
    (row,) = (alone.row,) if alone is not None else choose_plan([weight], [], 21).rows()
    return (row.data_bits + row.index_bits) / row.elements, row.coding


@pytest.mark.parametrize("shape", [(96, 160), (160, 512)])  # by itself from 65,536 elements on
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_option_is_stored_as_it_is_priced(dtype: str, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(2).normal(size=shape)
    values[3] = 0
    for channel, magnitude in enumerate(TINY[dtype], start=5):
        values[channel] *= magnitude
    treated = Treated(values.astype(dtype), axis=0)
    fine = (BOTH_AXES, *FINE) if dtype != "float16" else ()
    for rounding in (*fine, *DENSE, *SPARSE[::7]):
        bits, coding = stored_bits(treated.apply(rounding))
        expected = 8 * treated.stored_bytes(rounding) / values.size
        assert bits <= 1.05 * expected, f"{rounding}: {coding}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_half_floats_are_stored_as_such(dtype: str) -> None:
    values = np.random.default_rng(2).normal(size=(96, 160)).astype(np.float16).astype(dtype)
    assert stored_bits(values) == (16, "half floats")


def test_few_exact_zeros_cost_a_level_and_not_a_bit() -> None:
    values = np.random.default_rng(2).normal(size=(96, 160)).astype(np.float32)
    values[[3, 40, 70], [5, 9, 11]] = 0
    rounded = Treated(values, axis=0).apply(Rounding(16))
    assert stored_bits(rounded)[0] == 4
    assert not rounded[[3, 40, 70], [5, 9, 11]].any()


def test_a_scale_of_24_bits_is_found_behind_rounded_products() -> None:
    scale, found = np.float32(0.10000001), 0
    for least in range(2, 60):
        codes = np.array([least, *range(61, 128, 2)], np.float32)
        weight = Weight("w", np.tile(codes * scale, (8, 1)))
        found += weight.values[0, 0] / codes[0] != scale  # where the quotient alone would not do
        assert weight.grid is not None
        np.testing.assert_array_equal(weight.grid.codes.reshape(8, -1) * weight.grid.scale, weight.values)
    assert found


def test_shared_scales_are_found_again() -> None:
    text = "(float[N,16] x) => (float[N,8] y) <float[16,24] w, float[24,8] v> {"
    text += " a = MatMul (x, w) r = Relu (a) y = MatMul (r, v) }"
    original = parse_text(HEAD + text, 3)
    context = PassContext(reference=original)
    AdmmQuantize(bits=3).run(original, context)
    for name, factor in (("w", 2.0**-90), ("v", 2.0**40)):
        original.replace(name, original.read(name) * np.float32(factor))
    model = original.fork()
    assert ShareScales().run(model, context).changed
    for row in Encode("packed").run(model, context).figures["layers"]:
        assert 8 * (row["data_bytes"] + row["index_bytes"]) / row["elements"] <= digit_bits(7) + 0.05, row
