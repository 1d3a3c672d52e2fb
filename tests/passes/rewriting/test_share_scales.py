"""ShareScales: one scale for all layers of a chain, the same outputs."""

from __future__ import annotations

import numpy as np
from conftest import CONV_NET, MLP

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.exact.share_scales import ShareScales
from onnx_admm.runtime.sessions import open_session


def ternary(text: str, scales: tuple[float, ...]) -> ModelView:
    view = parse_text(text)
    for site, scale in zip(view.sites(), scales, strict=True):
        view.replace(site, np.sign(view.read(site)) * (np.abs(view.read(site)) > 0.2) * scale)
    return view


def share(view: ModelView) -> tuple[ModelView, PassReport]:
    fork = view.fork()
    return fork, ShareScales().run(fork, PassContext(reference=view))


def assert_equal_outputs(before: ModelView, after: ModelView) -> None:
    (port,) = before.signature().inputs
    shape = [extent if isinstance(extent, int) else 3 for extent in port.shape or ()]
    feeds = {port.name: np.random.default_rng(2).standard_normal(shape).astype(np.float32)}
    expected = open_session(before, threads=1).run(feeds)
    assert expected
    for name, values in open_session(after, threads=1).run(feeds).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)


def test_a_chain_gets_the_geometric_mean_of_its_scales() -> None:
    view = ternary(CONV_NET, (0.5, 0.125, 2.0))
    shared, report = share(view)
    assert report.changed
    assert report.figures["scale"] == np.float32(0.5)
    assert len(shared.sites()) == 3
    for site in shared.sites():
        assert set(np.unique(shared.read(site))) <= {-0.5, 0.0, 0.5}
    assert_equal_outputs(view, shared)


def test_scales_that_are_no_powers_of_two_and_an_added_bias() -> None:
    view = ternary(MLP, (0.3, 0.07))
    shared, report = share(view)
    assert report.changed
    assert_equal_outputs(view, shared)
    _, again = share(shared)
    assert not again.changed


def test_the_packed_file_is_smaller_for_it() -> None:
    view = ternary(CONV_NET, (0.5, 0.1, 1.5))
    shared, _ = share(view)
    sizes = []
    for model in (view, shared):
        fork = model.fork()
        Encode(format="packed").run(fork, PassContext(reference=model))
        sizes.append(len(fork.to_bytes()))
    assert sizes[1] < sizes[0] - 60


def test_a_layer_off_every_grid_stops_it() -> None:
    view = ternary(MLP, (0.3, 0.07))
    rng = np.random.default_rng(0)
    view.replace("w1", rng.standard_normal((8, 16)))
    _, report = share(view)
    assert not report.changed


def test_an_operator_that_is_not_homogeneous_stops_it() -> None:
    view = ternary(MLP.replace("Relu", "Tanh"), (0.3, 0.07))
    _, report = share(view)
    assert not report.changed
    assert "cannot be made equal" in report.skipped[0].why


def test_added_branches_whose_scales_differ_stop_it() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 17]>
        residual (float[N,6] x) => (float[N,3] y) <float[6,6] w1, float[6,6] w2, float[6,3] w3>
        { a = MatMul (x, w1) r = Relu (a) b = MatMul (r, w2) s = Add (b, r) y = MatMul (s, w3) }"""
    view = ternary(text, (0.5, 0.25, 0.125))
    shared, report = share(view)
    if report.changed:
        assert_equal_outputs(view, shared)
    else:
        assert report.skipped
