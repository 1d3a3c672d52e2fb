"""RemoveBlocks: what is linear or zero goes without loss, budgets are met, what is left has a reason."""

from __future__ import annotations

import numpy as np
import pytest
from removal_samples import macs, relative_error, samples

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.errors import NothingToDo, PassRefused, WorkError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.remove_blocks import RemoveBlocks, _split
from onnx_admm.removal.block_forms import shapes_by_name, why_broadcast
from onnx_admm.removal.depth import DepthSearch
from onnx_admm.removal.residual_blocks import residual_blocks

pytestmark = pytest.mark.slow

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'

TWO_BLOCKS = f"""{HEAD}
    g (float[N,3,8,8] x) => (float[N,5] y)
    <float[6,3,3,3] w0, float[6,6,3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6] b2,
     float[8,6,3,3] w3, float[8,8,3,3] w4, float[8,6,1,1] w5, float[8] b5, float[8,5] w6, float[5] b6>
    {{
        stem = Conv <pads = [1, 1, 1, 1]> (x, w0)
        r0 = Relu (stem)
        a = Conv <pads = [1, 1, 1, 1]> (r0, w1, b1)
        ra = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (ra, w2, b2)
        first = Add (c, r0)
        r1 = Relu (first)
        d = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r1, w3)
        rd = Relu (d)
        e = Conv <pads = [1, 1, 1, 1]> (rd, w4)
        p = Conv <strides = [2, 2]> (r1, w5, b5)
        second = Add (e, p)
        r2 = Relu (second)
        m = GlobalAveragePool (r2)
        f = Flatten (m)
        y = Gemm (f, w6, b6)
    }}
"""

SUBLAYERS = f"""{HEAD}
    g (float[N,5,8] x) => (float[N,5,4] y)
    <float[8] g1, float[8,16] w1, float[16] b1, float[16,8] w2, float[8] g2, float[8,4] w3>
    {{
        u = MatMul (x, w1)
        v = Add (u, b1)
        t = MatMul (v, w2)
        s = Add (x, t)
        n = LayerNormalization (s, g2)
        y = MatMul (n, w3)
    }}
"""


def test_a_block_that_is_the_whole_model_may_go() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float[N,8] y) <float[8,8] w1, float[8,8] w2>
        {{ a = MatMul (x, w1) r = Relu (a) b = MatMul (r, w2) y = Add (x, b) }}"""
    made, report = remove(parse_text(text), blocks=("dropped",), most_blocks=1)
    assert report.changed
    assert not made.sites()


def test_a_block_that_broadcasts_its_entry_stays() -> None:
    text = f"""{HEAD} g (float[1,5,8] x, float[N,5,8] u) => (float[N,5,8] y) <float[8,8] w1, float[8,8] w2>
        {{
            a = MatMul (x, w1) r = Relu (a) c = Add (r, u) b = MatMul (c, w2) s = Add (x, b)
            y = MatMul (s, w1)
        }}"""
    view = parse_text(text)
    shapes = shapes_by_name(view)
    (block,) = residual_blocks(view)[0]
    why = why_broadcast(block, shapes)
    assert why == "its sum is broadcast: [1, 5, 8] goes in, [3, 5, 8] comes out (open first axes: 3)"


def remove(view: ModelView, **settings: object) -> tuple[ModelView, PassReport]:
    fork = view.fork()
    context = PassContext(reference=view, train=samples(view))
    step = RemoveBlocks(**{"samples": 96, **settings})  # type: ignore[arg-type]
    step.requires(fork, context)
    return fork, step.run(fork, context)


def operators(view: ModelView) -> list[str]:
    return [node.op_type for node in view.nodes()]


def test_a_branch_of_zeros_is_dropped_without_loss() -> None:
    view = parse_text(TWO_BLOCKS)
    view.write_back({"w2": 0 * view.read("w2"), "b2": np.zeros(6, np.float32)})
    small, report = remove(view, most_blocks=1, blocks=("dropped",), ridge=1e-7)
    assert [site.name for site in small.sites()] == ["w0", "w3", "w4", "w5", "w6"]
    assert operators(small).count("Add") == 1
    assert operators(small).count("Relu") == 3  # of the two in a row one is left
    assert relative_error(view, small) < 1e-8
    assert small.signature() == view.signature()
    assert [edit.layer for edit in report.edits] == ["first"]
    assert report.edits[0].what.startswith("dropped: the branch removed; it adds")


def test_a_linear_branch_beside_an_identity_is_merged_without_loss() -> None:
    view = parse_text(TWO_BLOCKS.replace("ra = Relu (a)", "ra = Identity (a)"))
    inner = np.zeros((6, 6, 3, 3), np.float32)
    inner[:, :, 1, 1] = view.read("w2")[:, :, 1, 1]
    view.replace("w2", inner)
    small, report = remove(
        view, most_blocks=1, blocks=("merged",), include=("w1", "w2"), keep=0.9, ridge=1e-9
    )
    assert report.figures["blocks"]["first"]["form"] == "one convolution of 3x3"
    assert operators(small).count("Add") == 1
    assert relative_error(view, small) < 1e-6
    assert macs(small) == macs(view) - 6 * 6 * 9 * 64


@pytest.mark.parametrize("pads", ["[1, 1, 1, 1]", "[0, 1, 1, 0]"])
def test_a_linear_block_with_a_strided_shortcut_becomes_one_convolution(pads: str) -> None:
    text = TWO_BLOCKS.replace("rd = Relu (d)", "rd = Identity (d)")
    text = text.replace("[1, 1, 1, 1], strides = [2, 2]> (r1", f"{pads}, strides = [2, 2]> (r1")
    text = text.replace("<pads = [1, 1, 1, 1]> (rd, w4)", "(rd, w4)").replace("[8,8,3,3] w4", "[8,8,1,1] w4")
    small, report = remove(
        parse_text(text), most_blocks=1, blocks=("merged",), include=("w3", "w4", "w5"), keep=0.95, ridge=1e-9
    )
    assert report.figures["blocks"]["second"]["form"] == "one convolution of 3x3"
    assert operators(small).count("Conv") == 4
    assert relative_error(parse_text(text), small) < 1e-6


def test_a_linear_sublayer_becomes_one_product() -> None:
    view = parse_text(SUBLAYERS)
    small, report = remove(view, blocks=("merged",), most_blocks=1, ridge=1e-9)
    assert report.figures["blocks"]["s"]["form"] == "one product"
    assert operators(small) == ["MatMul", "Add", "LayerNormalization", "MatMul"]
    assert relative_error(view, small) < 1e-6


def test_the_least_loss_for_the_cost_is_chosen_first() -> None:
    view = parse_text(TWO_BLOCKS)
    view.write_back({"w2": 0 * view.read("w2"), "b2": np.zeros(6, np.float32)})
    _, report = remove(view, most_blocks=1)
    assert list(report.figures["blocks"]) == ["first"]
    assert report.figures["blocks"]["first"]["done"] == "dropped"
    other = parse_text(TWO_BLOCKS)
    other.write_back({"w4": 0 * other.read("w4")})
    _, report = remove(other, most_blocks=1, blocks=("dropped",))
    assert list(report.figures["blocks"]) == ["second"]


@pytest.mark.parametrize("keep", [0.9, 0.6, 0.3])
def test_the_share_is_met_and_told(keep: float) -> None:
    view = parse_text(TWO_BLOCKS)
    small, report = remove(view, keep=keep)
    assert macs(small) <= keep * 1.001 * macs(view)
    assert report.figures["reached"] == pytest.approx(macs(small) / macs(view), rel=1e-6)
    assert report.changed
    assert report.unmet is None
    assert relative_error(view, small) == pytest.approx(report.figures["error"], rel=0.5)


def test_the_layers_behind_are_refitted() -> None:
    view = parse_text(TWO_BLOCKS)
    small, _ = remove(view, most_blocks=1, blocks=("dropped",), include=("w1", "w2"))
    bare = small.fork()
    for name in ("w3", "w4", "w5", "w6"):
        assert not np.array_equal(small.read(name), view.read(name))
        bare.replace(name, view.read(name))
    bare.write_back({name: constant(view, name) for name in ("b5", "b6")})
    assert relative_error(view, small) < 0.8 * relative_error(view, bare)


def test_trials_are_refitted_and_the_chosen_model_once_more_to_all_samples() -> None:
    _, report = remove(parse_text(TWO_BLOCKS), most_blocks=1, blocks=("dropped",), include=("w1", "w2"))
    added, error = report.figures["blocks"]["first"]["added_error"], report.figures["error"]
    assert error < added < 1.6 * error


def test_the_last_step_has_the_least_error_of_those_that_reach_the_share() -> None:
    view = parse_text(TWO_BLOCKS)
    _, cheapest = remove(view, most_blocks=1, include=("w1", "w2"))
    _, mildest = remove(view, keep=0.8, include=("w1", "w2"))
    (first,), (second,) = (report.figures["blocks"].values() for report in (cheapest, mildest))
    assert first["form"] != second["form"] == "one convolution of 3x3"
    assert second["added_error"] < first["added_error"]


def test_candidates_are_judged_on_samples_that_they_are_not_fitted_to() -> None:
    data = samples(parse_text(TWO_BLOCKS), 10)
    judged, fitted = (next(part.batches(10)).feeds["x"] for part in _split(data))
    assert (len(judged), len(fitted)) == (3, 7)
    assert not any(np.array_equal(one, other) for one in judged for other in fitted)


def constant(view: ModelView, name: str) -> np.ndarray:
    values = {value.name: value for node in view.nodes() for value in node.inputs if value is not None}
    array = values[name].constant()
    assert array is not None
    return array


def test_a_block_merged_first_may_be_dropped_later() -> None:
    view = parse_text(TWO_BLOCKS)
    _, report = remove(view, keep=0.001)
    assert report.unmet is not None
    assert "remain where 0.001x was asked for" in report.unmet
    assert {name: row["done"] for name, row in report.figures["blocks"].items()} == {
        "first": "dropped",
        "second": "dropped",
    }


def test_each_block_has_a_line_that_tells_what_it_would_cost() -> None:
    view = parse_text(TWO_BLOCKS)
    _, report = remove(view, most_blocks=1, blocks=("dropped",), exclude=("w1",))
    assert [edit.layer for edit in report.edits] == ["second"]
    assert {skip.layer: skip.why for skip in report.skipped} == {"first": "w1: excluded"}
    _, report = remove(view, most_blocks=1)
    (left,) = report.skipped
    assert "to the error of the outputs and saves" in left.why


def test_a_branch_that_windows_do_not_follow_is_dropped_but_not_merged() -> None:
    text = TWO_BLOCKS.replace("ra = Relu (a)", "ra = Transpose <perm = [0, 1, 3, 2]> (a)")
    _, report = remove(parse_text(text), most_blocks=1, include=("w1", "w2"))
    assert report.figures["blocks"]["first"]["done"] == "dropped"
    with pytest.raises(NothingToDo, match="first: Transpose in its branch is not followed"):
        remove(parse_text(text), blocks=("merged",), include=("w1", "w2"))


def test_blocks_follow_the_cost_model() -> None:
    view = parse_text(TWO_BLOCKS)
    context = PassContext(
        reference=view, train=samples(view), cost_model=cost_model("storage"), bindings={"N": 1}
    )
    fork = view.fork()
    report = RemoveBlocks(keep=0.6, quantity="size", samples=96).run(fork, context)
    assert report.figures["reached"] <= 0.6005
    assert sum(site.size for site in fork.sites()) <= 0.7 * sum(site.size for site in view.sites())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"keep": 1.5}, "impossible share"),
        ({"quantity": "latency"}, "no cost model to price it"),
        ({"most_blocks": 0}, "impossible number of blocks"),
        ({"blocks": ()}, "nothing may become of a block"),
        ({"blocks": ("halved",)}, "unknown form of a block"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(PassRefused, match=sentence):
        remove(parse_text(TWO_BLOCKS), **settings)


def test_a_model_without_residual_blocks_is_refused_with_the_reason() -> None:
    text = f"{HEAD} g (float[N,6] x) => (float[N,4] y) <float[6,4] w> {{ y = MatMul (x, w) }}"
    with pytest.raises(NothingToDo, match="no block can be removed; got the model: it has no residual block"):
        remove(parse_text(text))


def test_a_form_that_the_runtime_cannot_run_is_left_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = DepthSearch._error

    def fails_without_an_add(search: DepthSearch, model: ModelView) -> float:
        if operators(model).count("Add") < 2 and "Identity" not in operators(model):
            raise WorkError("the runtime failed")
        return whole(search, model)

    monkeypatch.setattr(DepthSearch, "_error", fails_without_an_add)
    _, report = remove(parse_text(TWO_BLOCKS), most_blocks=2, include=("w1", "w2"))
    assert report.figures["blocks"]["first"]["done"] == "dropped"
    _, report = remove(parse_text(TWO_BLOCKS), most_blocks=1, blocks=("merged",), include=("w1", "w2"))
    assert not report.changed
    why = next(skip.why for skip in report.skipped if skip.layer == "first")
    assert "the model does not run: the runtime failed" in why
