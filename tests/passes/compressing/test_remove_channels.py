"""RemoveChannels: what others can express goes without loss, budgets are met, what is left has a reason."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CONV_NET
from removal_samples import macs, relative_error, samples

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.remove_channels import RemoveChannels

RESIDUAL = """
    <ir_version: 10, opset_import: ["" : 17]>
    residual (float[N,3,8,8] x) => (float[N,5] y)
    <float[12,3,3,3] w1, float[12] b1, float[16,12,3,3] w2, float[16] b2, float[12,16,3,3] w3, float[12] b3,
     float[12,5] w4, float[5] b4>
    {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        s = Relu (c)
        d = Conv <pads = [1, 1, 1, 1]> (s, w3, b3)
        e = Add (d, r)
        t = Relu (e)
        m = GlobalAveragePool (t)
        f = Flatten (m)
        y = Gemm (f, w4, b4)
    }
"""


def remove(view: ModelView, **settings: object) -> tuple[ModelView, PassReport]:
    fork = view.fork()
    context = PassContext(reference=view, train=samples(view))
    step = RemoveChannels(samples=96, **settings)  # type: ignore[arg-type]
    step.requires(fork, context)
    return fork, step.run(fork, context)


def with_copies(view: ModelView) -> ModelView:
    """The first layer's channels 6 to 11 are those from 0 to 5 times two, of the second 8 to 15 likewise."""
    for weight, bias, half in (("w1", "b1", 6), ("w2", "b2", 8)):
        values, added = view.read(weight), np.linspace(-0.1, 0.2, 2 * half).astype(np.float32)
        values[half:], added[half:] = 2 * values[:half], 2 * added[:half]
        view.replace(weight, values)
        view.write_back({bias: added})
    return view


CHAIN = """
    <ir_version: 10, opset_import: ["" : 17]>
    chain (float[N,3,8,8] x) => (float[N,5] y)
    <float[12,3,3,3] w1, float[12] b1, float[16,12,3,3] w2, float[16] b2, float[16,5] w3, float[5] b3>
    {
        a = Conv (x, w1, b1)
        r = Relu (a)
        c = Conv (r, w2, b2)
        s = Relu (c)
        m = GlobalAveragePool (s)
        f = Flatten (m)
        y = Gemm (f, w3, b3)
    }
"""


def test_channels_that_are_copies_of_others_cost_nothing() -> None:
    view = with_copies(parse_text(CHAIN))
    small, report = remove(view, keep=0.33, ridge=1e-7)
    shapes = {site.name: site.shape for site in small.sites()}
    assert shapes["w1"][0] == 6
    assert shapes["w2"][:2] == (8, 6)
    assert macs(small) <= 0.33 * macs(view)
    assert relative_error(view, small) < 1e-6
    assert small.signature() == view.signature()
    assert report.unmet is None


@pytest.mark.parametrize("text", [CHAIN, RESIDUAL, CONV_NET])
@pytest.mark.parametrize("keep", [0.7, 0.4])
def test_the_share_is_met_and_better_than_without_a_refit(text: str, keep: float) -> None:
    view = parse_text(text)
    small, report = remove(view, keep=keep)
    assert macs(small) <= keep * 1.001 * macs(view)
    assert macs(small) >= 0.6 * keep * macs(view)
    assert report.figures["reached"] == pytest.approx(macs(small) / macs(view), rel=1e-6)
    assert report.changed
    assert relative_error(view, small) < 0.8


def test_each_group_has_a_line_and_each_one_left_a_reason() -> None:
    view = parse_text(RESIDUAL)
    _, report = remove(view, keep=0.5)
    rows = report.figures["groups"]
    assert rows.keys() == {"w1 + w3", "w2"}
    assert all(1 <= row["kept"] <= row["of"] for row in rows.values())
    assert all("channels kept" in edit.what for edit in report.edits)
    reasons = {skip.layer: skip.why for skip in report.skipped}
    assert reasons.pop("w4") == "its channels are an output of the model"
    whole = {name for name, row in rows.items() if row["kept"] == row["of"]}
    assert reasons == dict.fromkeys(
        whole, "all its channels stay: those of other layers cost the outputs less"
    )


def test_groups_are_included_and_excluded_by_the_layers_that_write_them() -> None:
    view = parse_text(RESIDUAL)
    _, report = remove(view, keep=0.6, exclude=("w3",))
    assert report.figures["groups"].keys() == {"w2"}
    left = {skip.layer: skip.why for skip in report.skipped}
    assert left["w1 + w3"] == "w3: excluded"
    _, report = remove(view, keep=0.6, include=("w2",))
    assert report.figures["groups"].keys() == {"w2"}


def test_what_cannot_be_reached_is_told() -> None:
    view = parse_text(RESIDUAL)
    _, report = remove(view, keep=0.01)
    assert report.unmet is not None
    assert "remain where 0.01x was asked for" in report.unmet


def test_widths_follow_the_cost_model(made_up_times: object) -> None:
    view = parse_text(CHAIN)
    context = PassContext(
        reference=view, train=samples(view), cost_model=cost_model("storage"), bindings={"N": 1}
    )
    fork = view.fork()
    report = RemoveChannels(keep=0.5, quantity="size", samples=96).run(fork, context)
    assert report.figures["reached"] <= 0.5005
    assert sum(site.size for site in fork.sites()) <= 0.55 * sum(site.size for site in view.sites())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"keep": 1.5}, "impossible share"), ({"quantity": "latency"}, "no cost model to price it")],
)
def test_impossible_settings_are_refused_in_a_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(PassRefused, match=sentence):
        remove(parse_text(CHAIN), **settings)


def test_a_model_without_inner_channels_is_refused_with_the_reason() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
        g (float[N,6] x) => (float[N,4] y) <float[6,4] w> { y = MatMul (x, w) }"""
    model = parse_text(text)
    report = RemoveChannels(keep=0.5).run(model, PassContext(reference=model))
    assert not report.changed
    assert report.unmet is not None
    assert "no channel can be removed; got w: its channels are an output" in report.unmet
