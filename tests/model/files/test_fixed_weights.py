"""Weights that belong to the contract: outputs of the model, and defaults that a caller may override."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import RunCommand

from onnx_admm.api import Compression
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Array, Feeds, ModelView
from onnx_admm.data import from_arrays
from onnx_admm.errors import UsageError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.report import Report
from onnx_admm.runtime.sessions import open_session

pytestmark = pytest.mark.slow

OUTPUT, DEFAULT = "is an output of the model", "is a default that a caller may override"


def header(ir_version: int = 8) -> str:
    return f'<ir_version: {ir_version}, opset_import: ["" : 13]>'


def samples(count: int = 48) -> Array:
    return np.random.default_rng(1).normal(size=(count, 16)).astype(np.float32)


def compressed(view: ModelView, folder: Path, **settings: object) -> tuple[ModelView, Report]:
    """The result as read back, written whatever it misses."""
    view.save(folder / "in.onnx")
    report = Compression(threads=1, keep=True, **settings).run(folder / "in.onnx", folder / "out.onnx")  # type: ignore[arg-type]
    return ModelView.load(folder / "out.onnx"), report


def lines(report: Report) -> dict[str, str]:
    return {layer: why for step in report.steps for layer, why in step.skipped.items()}


def stored(view: ModelView, name: str) -> Array:
    proto = onnx.load_from_string(view.to_bytes())
    return next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)


# -- outputs ----------------------------------------------------------------------------------

TWO_LAYERS = "<float[16,32] a, float[32,8] b> { t = MatMul (x, a) r = Relu (t) y = MatMul (r, b) %s }"

WAYS: dict[str, dict[str, object]] = {
    "nothing asked": {},
    "rebuilt": {"data": from_arrays({"x": samples()}), "bits": 4, "fine_tune": False},
    "trained": {"data": from_arrays({"x": samples()}), "bits": 4, "epochs": 1},
    "packed": {"format": "packed"},
    "qdq": {"format": "qdq"},
}


@pytest.mark.parametrize(
    ("outputs", "rest", "way"),
    [
        *(("float[N,8] y, float[16,32] a", "", way) for way in WAYS),
        ("float[16,32] a, float[N,8] y", "", "rebuilt"),
        ("float[16,32] a, float[N,8] y", "", "trained"),
        ("float[N,8] y, float[16,32] a, float[16,32] a", "", "rebuilt"),
        ("float[N,8] y, float[32,16] out", "out = Transpose (a)", "rebuilt"),
    ],
)
def test_a_weight_that_is_an_output_stays_and_the_others_are_compressed(
    outputs: str, rest: str, way: str, tmp_path: Path
) -> None:
    view = parse_text(f"{header()} g (float[N,16] x) => ({outputs}) {TWO_LAYERS % rest}")
    after, report = compressed(view, tmp_path, **WAYS[way])
    assert after.signature() == view.signature()
    assert lines(report)["a"] == OUTPUT
    np.testing.assert_array_equal(stored(after, "a"), view.read("a"))
    assert not np.array_equal(after.read("b"), view.read("b"))


@pytest.mark.parametrize(
    ("outputs", "rest"),
    [
        ("float[N,8] y, float[N,16] x", ""),
        ("float[N,8] y, float[N,8] y", ""),
        ("float[N,8] y, float[2] k", "k = Constant <value = float[2] {1, 2}> ()"),
        ("float[N,8] y, float[32,8] b, float[N,16] same", "same = Identity (x)"),
    ],
    ids=["an input", "one twice", "a Constant node", "a weight and an input"],
)
def test_outputs_that_no_layer_computes_stay(outputs: str, rest: str, tmp_path: Path) -> None:
    view = parse_text(f"{header()} g (float[N,16] x) => ({outputs}) {TWO_LAYERS % rest}")
    after, _ = compressed(view, tmp_path, **WAYS["rebuilt"])
    assert after.signature() == view.signature()
    before, got = (open_session(v, threads=1).run({"x": samples(2)}) for v in (view, after))
    assert before.keys() == got.keys()
    for name in before.keys() - {"y"}:
        np.testing.assert_array_equal(got[name], before[name])
    assert not np.array_equal(after.read("a"), view.read("a"))


def test_a_bias_that_is_an_output_stays(tmp_path: Path) -> None:
    view = parse_text(
        f"""{header()} g (float[N,16] x) => (float[N,8] y, float[32] c)
        <float[16,32] a, float[32] c, float[32,8] b>
        {{ t = Gemm (x, a, c) r = Relu (t) y = MatMul (r, b) }}"""
    )
    for way in ("rebuilt", "trained", "packed"):
        after, _ = compressed(view, tmp_path, **WAYS[way])
        np.testing.assert_array_equal(stored(after, "c"), stored(view, "c"))
        assert not np.array_equal(after.read("a"), view.read("a"))


def test_a_weight_that_is_an_output_of_a_branch_stays(tmp_path: Path) -> None:
    branch = "%s () => (float[N,8] p, float[32,8] v) <float[32,8] v> { p = MatMul (r, v) }"
    view = parse_text(
        f"""{header()} g (float[N,16] x, bool[1] q) => (float[N,8] y) <float[16,32] a>
        {{ t = MatMul (x, a) r = Relu (t)
           u, w = If (q) <then_branch = {branch % "one"}, else_branch = {branch % "two"}>
           z = MatMul (r, w) y = Add (u, z) }}"""
    )
    after, report = compressed(view, tmp_path)
    assert {layer for layer, why in lines(report).items() if why == OUTPUT} == {
        "u.then_branch/v", "u.else_branch/v",
    }  # fmt: skip
    for name in ("u.then_branch/v", "u.else_branch/v"):
        np.testing.assert_array_equal(after.read(name), view.read(name))
    assert not np.array_equal(after.read("a"), view.read("a"))


# -- defaults ---------------------------------------------------------------------------------

LISTED = {
    "some": "float[N,16] x, float[16,32] a",
    "all": "float[N,16] x, float[16,32] a, float[32,8] b",
    "none": "float[N,16] x",
}


def with_defaults(inputs: str, ir_version: int = 8) -> ModelView:
    return parse_text(f"{header(ir_version)} g ({inputs}) => (float[N,8] y) {TWO_LAYERS % ''}")


def overridden(path: Path, **inputs: Array) -> Feeds:
    return open_session(path, threads=1).run({"x": samples(2), **inputs})


@pytest.mark.parametrize("ir_version", [4, 10, 11])
def test_deliberate_defaults_stay(ir_version: int, tmp_path: Path) -> None:
    view = with_defaults(LISTED["some"], ir_version)
    after, report = compressed(view, tmp_path)
    assert [port.name for port in view.signature().inputs] == ["x"]
    assert [port.name for port in view.signature().defaults] == ["a"]
    assert after.signature() == view.signature()
    assert lines(report)["a"] == DEFAULT
    assert report.frozen_defaults == ()
    np.testing.assert_array_equal(after.read("a"), view.read("a"))
    assert not np.array_equal(after.read("b"), view.read("b"))
    other = np.zeros((16, 32), np.float32)
    assert not overridden(tmp_path / "out.onnx", a=other)["y"].any()


@pytest.mark.parametrize("ir_version", [4, 11])
def test_defaults_listed_by_habit_are_frozen_and_said(ir_version: int, tmp_path: Path) -> None:
    view = with_defaults(LISTED["all"], ir_version)
    after, report = compressed(view, tmp_path)
    assert after.signature().defaults == ()
    assert report.frozen_defaults == ("a", "b")
    (note,) = [note for note in report.notes if "(a, b)" in note]
    assert "a caller can no longer override them" in note
    assert "--keep-defaults" in note
    assert not np.array_equal(after.read("a"), view.read("a"))


def test_before_ir_version_4_every_initializer_is_an_input_and_that_says_nothing(tmp_path: Path) -> None:
    view = with_defaults(LISTED["none"], 3)
    assert view.signature().defaults == ()
    view.save(tmp_path / "same.onnx")
    assert {value.name for value in onnx.load(tmp_path / "same.onnx").graph.input} == {"x", "a", "b"}
    after, report = compressed(view, tmp_path)
    assert after.signature() == view.signature()
    assert report.frozen_defaults == ()
    assert not np.array_equal(after.read("a"), view.read("a"))
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)


def test_flags_recipe_and_api_decide(run: RunCommand, tmp_path: Path) -> None:
    some, every = tmp_path / "some.onnx", tmp_path / "all.onnx"
    with_defaults(LISTED["some"]).save(some)
    with_defaults(LISTED["all"]).save(every)
    (tmp_path / "keep.toml").write_text('freeze_defaults = false\n[[pass]]\nname = "auto_quantize"\n')
    out = tmp_path / "out.onnx"

    def defaults(*arguments: object) -> list[str]:
        code, _, err = run("compress", *arguments, "--threads", 1, "-q")
        assert (code, err) == (0, "")
        return [port.name for port in ModelView.load(out).signature().defaults]

    assert defaults(some, out, "--freeze-defaults") == []
    assert defaults(every, out, "--keep-defaults") == ["a", "b"]
    assert defaults(every, out, "--recipe", tmp_path / "keep.toml") == ["a", "b"]
    assert defaults(every, out, "--recipe", tmp_path / "keep.toml", "--freeze-defaults") == []
    recipe = Recipe.load(tmp_path / "keep.toml")
    assert Recipe.parse(recipe.dump()) == recipe
    Compression(threads=1, freeze_defaults=True).run(some, out)
    assert ModelView.load(out).signature().defaults == ()


def test_nothing_that_depends_on_a_default_is_folded(tmp_path: Path) -> None:
    """A default behind a Transpose is no weight, and a BatchNormalization with a default stays."""
    view = parse_text(
        f"""{header()} g (float[N,4,1,1] x, float[4] s, float[4,4] a) => (float[N,4] y)
        <float[4,4,1,1] w, float[4] s = {{1, 2, 3, 4}}, float[4] t, float[4] m, float[4] v = {{1, 1, 1, 1}},
         float[4,4] a, float[4,4] b>
        {{ c = Conv (x, w) n = BatchNormalization (c, s, t, m, v) f = Flatten (n)
           k = Transpose (a) d = MatMul (f, k) y = MatMul (d, b) }}"""
    )
    assert {site.name for site in view.sites() if site.editable} == {"w", "b"}
    after, _ = compressed(view, tmp_path, prune="0.5")
    assert after.signature() == view.signature()
    assert {node.op_type for node in after.nodes()} >= {"BatchNormalization", "Transpose"}
    feeds = {"x": np.ones((2, 4, 1, 1), np.float32), "s": np.zeros(4, np.float32)}
    changed = open_session(tmp_path / "out.onnx", threads=1).run(feeds)["y"]
    feeds["x"] *= 7
    np.testing.assert_allclose(
        open_session(tmp_path / "out.onnx", threads=1).run(feeds)["y"], changed, atol=1e-5
    )


def test_a_default_of_a_loop_body_is_what_the_loop_carries(tmp_path: Path) -> None:
    """The body's input doubles as its initializer; what the loop hands in is what counts."""
    text = f"""{header()} g (float[4,16] x) => (float[4,16] y) <float[16,16] a>
        {{ n = Constant <value = int64 {{2}}> () c = Constant <value = bool {{1}}> ()
           t = MatMul (x, a)
           y = Loop (n, c, t) <body = turn (int64 i, bool ci, float[4,16] h) => (bool co, float[4,16] ho)
               {{ co = Identity (ci) ho = MatMul (h, a) }}> }}"""
    proto = onnx.parser.parse_model(text)
    body = proto.graph.node[-1].attribute[0].g
    for graph, name, shape in ((body, "h", (4, 16)), (proto.graph, "a", (16, 16))):
        array = np.random.default_rng(2).normal(size=shape).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    del proto.graph.value_info[:]
    view = ModelView.from_bytes(proto.SerializeToString())
    assert [site.name for site in view.sites() if site.editable] == ["a"]


def test_writing_what_is_fixed_is_refused() -> None:
    view = with_defaults(LISTED["some"])
    with pytest.raises(UsageError, match="a: its values must stay: it is a default"):
        view.replace("a", np.zeros((16, 32), np.float32))


def test_unused_defaults_stay() -> None:
    view = parse_text(
        f"{header()} g (float[2] x, float[2] k) => (float[2] y) <float[2] k = {{1, 2}}> {{ y = Relu (x) }}"
    )
    view.strip_unused()
    assert [port.name for port in view.signature().defaults] == ["k"]
