"""Plans of decoders: priced as written, no more expensive than a single decoder, within the opset."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import CONV_NET
from quantised_models import quantised

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.encoding.choice import _SearchSpace, choose_plan, plan_bytes
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.dense_coder import DenseCoder
from onnx_admm.encoding.coders.sparse_coder import SparseCoder
from onnx_admm.encoding.coders.unpack import EncodedTensor
from onnx_admm.encoding.plan import Group, StoragePlan
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.insert_fragment import insert_fragment
from onnx_admm.passes.exact.minify import Minify


@pytest.mark.parametrize(
    ("density", "levels"), [(0.02, 1), (0.2, 1), (0.5, 1), (0.9, 1), (0.3, 3), (1.0, 100)]
)
def test_the_estimate_is_the_bytes_in_the_file(density: float, levels: int) -> None:
    dense = quantised(parse_text(CONV_NET), density, levels)
    weights = [Weight(site.name, dense.read(site)) for site in dense.sites()]
    plan = choose_plan(weights, (), dense.opset)
    fragment, outputs = plan.emit(dense.opset)
    short = dense.fork()
    Minify(strip_metadata=True).run(short, PassContext(reference=dense))
    stored = sum(size for name, size in _initializer_bytes(dense) if name in outputs)
    names = len("w1") - 1
    insert_fragment(dense, fragment, outputs)
    Minify(strip_metadata=True).run(dense, PassContext(reference=dense))
    grown = len(dense.to_bytes()) - (len(short.to_bytes()) - (stored - names * len(outputs)))
    assert fragment.file_bytes == pytest.approx(grown, abs=8)


def _initializer_bytes(view: ModelView) -> list[tuple[str, int]]:
    proto = onnx.load_from_string(view.to_bytes())
    return [(t.name, t.ByteSize() + (2 if t.ByteSize() < 128 else 3)) for t in proto.graph.initializer]


def test_no_single_decoder_is_smaller_than_the_chosen_plan() -> None:
    dense = quantised(parse_text(CONV_NET), 0.25)
    weights = [Weight(site.name, dense.read(site)) for site in dense.sites()]
    best = plan_bytes(choose_plan(weights, (), 17), weights, 17)
    members = tuple(EncodedTensor(weight, weight.flat) for weight in weights)
    for coder in (*(SparseCoder((-0.125, 0.125), low) for low in range(5)), DenseCoder((-0.125, 0.0, 0.125))):
        assert best <= plan_bytes(StoragePlan((Group(coder, members),)), weights, 17)


@pytest.mark.parametrize("opset", [6, 7, 9, 10, 11, 21])
def test_a_plan_has_no_operator_younger_than_asked(opset: int) -> None:
    dense = quantised(parse_text(CONV_NET), 0.1)
    weights = [Weight(site.name, dense.read(site)) for site in dense.sites()]
    weights.append(Weight("zeros", np.zeros((64, 64), np.float32)))
    biases = [Weight(name, np.arange(64, dtype=np.float32) / 64) for name in ("b1", "b2")]
    fragment, _ = choose_plan(weights, biases, opset).emit(opset)
    assert fragment.oldest_opset <= opset


def test_no_decoder_costs_less_than_nothing() -> None:
    """Zeros behind gaps have a price above their bytes, for the time that they take to load."""
    rng, weights = np.random.default_rng(0), []
    for number in range(4):
        values = rng.standard_normal((200, 200)).astype(np.float32)
        step = np.float32(np.abs(values).max() / (20 + 9 * number))
        rounded = (np.round(values / step) * step).astype(np.float32)
        rounded[rng.random(values.shape) < 0.25] = 0
        weights.append(Weight(f"w{number}", rounded))
    space = _SearchSpace(weights, 17)
    assert len(space._fixed) > 20
    assert space._fixed.min() >= 0
    chosen = space._search()
    assert len(chosen) <= len(weights)
