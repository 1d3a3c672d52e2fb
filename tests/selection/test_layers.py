"""Which layers a pass works on: patterns, reasons, and the sentence where none is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_admm import cli
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.sites import WeightSite
from onnx_admm.selection.layers import choose_sites, spread

BRANCHES = """
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[N,2] x, bool k) => (float[N,2] y)
    {
        y = If (k) <
            then_branch = yes () => (float[N,2] p) <float[2,2] w = {1, 2, 3, 4}> { p = MatMul (x, w) },
            else_branch = no () => (float[N,2] q) <float[2,2] v = {5, 6, 7, 8}> { q = MatMul (x, v) }
        >
    }"""


def site(name: str, op_type: str = "Conv", *, scope: str = "", editable: bool = True) -> WeightSite:
    return WeightSite(name, op_type, (2, 2), "float32", 0, 1, 1, (name,), scope, editable)


SITES = (
    site("conv1"),
    site("conv2"),
    site("fc", "Gemm"),
    site("lost", scope="If"),
    site("done", editable=False),
)


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        ((), (), ["conv1", "conv2", "fc"]),
        (("conv*",), (), ["conv1", "conv2"]),
        (("Gemm",), (), ["fc"]),
        ((), ("conv1", "Gemm"), ["conv2"]),
        (("conv?",), ("*2",), ["conv1"]),
    ],
)
def test_patterns_name_weights_or_operators(
    include: tuple[str, ...], exclude: tuple[str, ...], chosen: list[str]
) -> None:
    found, skipped = choose_sites(SITES, include, exclude)
    assert [site.name for site in found] == chosen
    assert {skip.layer for skip in skipped} == {site.name for site in SITES} - set(chosen)
    reasons = {skip.layer: skip.why for skip in skipped}
    assert reasons["lost"] == "is in the subgraph If"
    assert reasons["done"] == "already encoded"


MANY = tuple(site(f"w{number}") for number in range(11))


@pytest.mark.parametrize(
    ("sites", "include", "sentence"),
    [
        (SITES, ("x",), r"^no layer matches; got x; expected some of conv1, conv2, fc, lost, done$"),
        (SITES, ("fc", "x*"), r"^no layer matches; got x\*; expected some of conv1, conv2, fc, lost, done$"),
        (
            SITES,
            ("lost",),
            r"no layer matches; got include \['lost'\], .*; expected some of conv1, conv2, fc$",
        ),
        (MANY, ("x",), "expected some of w0, w1, w2, w3, w4, w5, w6, w7 and 3 more$"),
        ((), (), "^the model has no weights to compress$"),
        (SITES[4:], (), "^every weight is already encoded. Start from the model as it was before"),
        (SITES[3:4], (), "^no weight to compress in the main graph: 1 are in subgraphs. Export the model"),
        (SITES[3:], (), "main graph: 1 are in subgraphs, 1 are already encoded. Export the model without"),
    ],
)
def test_nothing_left_is_a_sentence(
    sites: tuple[WeightSite, ...], include: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(PassRefused, match=sentence):
        choose_sites(sites, include, ())


def test_an_exclusion_that_matches_nothing_is_a_mistake() -> None:
    with pytest.raises(PassRefused, match=r"^no layer matches; got conv3, Gem; expected some of conv1"):
        choose_sites(SITES, (), ("conv1", "conv3", "Gem"))


@pytest.mark.parametrize("asked", [["--prune", "2x"], ["--bits", "4"]])
def test_weights_in_branches_alone_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    source, out = tmp_path / "branches.onnx", tmp_path / "small.onnx"
    parse_text(BRANCHES).save(source)
    with pytest.raises(SystemExit) as left:
        cli.main(["compress", str(source), str(out), *asked])
    assert left.value.code == 1
    assert "2 are in subgraphs. Export the model without control flow" in capsys.readouterr().err
    assert not out.exists()


# -- names -----------------------------------------------------------------------------------

BRACKETS = tuple(map(site, ("layers[0].w", "layers[1].w", "layers0.w", "w*", "w1")))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("layers[1].w", ["layers[1].w"]),
        ("layers[?].w", ["layers[0].w", "layers[1].w"]),
        ("layers[01].w", None),  # no character class
        ("layers*", ["layers[0].w", "layers[1].w", "layers0.w"]),
        ("w*", ["w*"]),  # a name before it is a pattern
        ("w?", ["w*", "w1"]),
    ],
)
def test_brackets_are_characters_and_names_come_before_patterns(
    pattern: str, found: list[str] | None
) -> None:
    if found is None:
        with pytest.raises(PassRefused, match="no layer matches"):
            choose_sites(BRACKETS, (pattern,), ())
        return
    assert [site.name for site in choose_sites(BRACKETS, (pattern,), ())[0]] == found
    others = [site.name for site in BRACKETS if site.name not in found]
    assert [site.name for site in choose_sites(BRACKETS, (), (pattern,))[0]] == others


def test_a_table_asks_for_the_name_before_the_patterns() -> None:
    table = {"*": 0.5, "layers[1].w": 0.25, "w*": 0.125, "layers[?].w": 0.75}
    assert spread(table, BRACKETS, "layers") == {
        "layers[0].w": 0.5,
        "layers[1].w": 0.25,
        "layers0.w": 0.5,
        "w*": 0.125,
        "w1": 0.5,
    }
    with pytest.raises(PassRefused, match=r"a pattern matches no layer.*\['layers\[01\]\.w'\]"):
        spread({"*": 1.0, "layers[01].w": 0.5}, BRACKETS, "layers")
    with pytest.raises(PassRefused, match=r"no pattern matches the layer; got layers0\.w"):
        spread({"layers[?].w": 1.0, "w?": 0.5}, BRACKETS, "layers")
