"""A model on which nothing can be done: exit code 0, OUT is a copy of IN, and a note says why."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import RunCommand
from fake_plugins import Bloat

from onnx_admm.api import Compression, compare, inspect_model
from onnx_admm.api.notes import NOT_SMALLER
from onnx_admm.config.recipe import Recipe
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.report import to_json

HEAD = '<ir_version: 8, opset_import: ["" : 13]> g (float[N,16] x)'
LAYERS = (
    f"{HEAD} => (float[N,8] y) <float[16,32] a, float[32,8] b>"
    "{ t = MatMul (x, a) r = Relu (t) y = MatMul (r, b) }"
)
ASKED = {
    "nothing": [],
    "bits": ["--data", "d.npz", "--bits", "4", "--no-fine-tune"],
    "zeros, trained": ["--data", "d.npz", "--prune", "0.5", "--epochs", "1"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and samples, made once: no weights, none that may change, dense ones, packed ones."""
    place = tmp_path_factory.mktemp("models")
    samples = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    np.savez(place / "d.npz", x=samples)
    output = "(float[N,32] y, float[16,32] a) <float[16,32] a>"
    parse_text(f"{HEAD} => (float[N,16] y) {{ y = Relu (x) }}").save(place / "plain.onnx")
    parse_text(f"{HEAD} => {output} {{ y = MatMul (x, a) }}").save(place / "out.onnx")
    parse_text(LAYERS).save(place / "layers.onnx")
    Compression(threads=1, format="packed").run(place / "layers.onnx", place / "packed.onnx")
    return place


@pytest.fixture
def folder(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with these files."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("flags", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("plain", "the model has no weights to compress"),
        ("out", "every weight is an output of the model"),
        ("packed", "every weight is already encoded. Start from the model as it was before encoding."),
    ],
)
def test_out_is_a_copy(run: RunCommand, folder: Path, name: str, why: str, flags: list[str]) -> None:
    code, out, err = run("compress", f"{name}.onnx", "copy.onnx", "--threads", 1, *flags)
    assert (code, err) == (0, "")
    assert (folder / "copy.onnx").read_bytes() == (folder / f"{name}.onnx").read_bytes()
    assert "Note: No pass changed the model." in out
    assert flags == [] or why in " ".join(out.split())


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (", a, b", "integers already, read by MatMulInteger"),
        ("", "weights 1,024 1,024 nonzero weights 1,020"),
    ],
)
def test_integers_alone_are_left_alone(run: RunCommand, folder: Path, points: str, says: str) -> None:
    """Quantised by another tool: integer operators and no other weight."""
    parse_text(
        '<ir_version: 8, opset_import: ["" : 13]> g (uint8[N,16] x) => (int32[N,64] y) '
        f"{'<uint8 a = {3}, int8 b = {1}>' if points else ''} {{ y = MatMulInteger (x, w{points}) }}",
        constants={"w": np.arange(1024, dtype=np.int8).reshape(16, 64)},
    ).save("integers.onnx")
    code, out, err = run("compress", "integers.onnx", "copy.onnx", "--threads", 1)
    assert (code, err) == (0, "")
    assert (folder / "copy.onnx").read_bytes() == (folder / "integers.onnx").read_bytes()
    assert says in " ".join(out.split())


def test_integers_of_other_tools_have_a_line(run: RunCommand, folder: Path) -> None:
    """The largest is named, and how many there are."""
    parse_text(
        """<ir_version: 8, opset_import: ["" : 13]> g (uint8[N,16] x) => (int32[N,64] y, int32[N,32] z)
        <uint8 a = {3}, int8 b = {1}> { z = MatMulInteger (x, v, a, b) y = MatMulInteger (x, w, a, b) }""",
        constants={
            "v": np.arange(512, dtype=np.int8).reshape(16, 32),
            "w": np.arange(1024, dtype=np.int8).reshape(16, 64),
        },
    ).save("integers.onnx")
    code, out, _ = run("inspect", "integers.onnx")
    said = " ".join(out.split())
    assert code == 0
    assert "2 constants of 1,536 bytes are no layers that the tool knows." in said
    assert "The largest: w, 1,024 bytes: integers already, read by MatMulInteger." in said
    found = inspect_model("integers.onnx").other_weights
    assert [(each.name, each.bytes) for each in found] == [("v", 512), ("w", 1024)]
    code, out, _ = run("compress", "integers.onnx", "copy.onnx", "--threads", 1)
    assert "w of 1,024 bytes: integers already, read by MatMulInteger, and 1 other" in " ".join(out.split())


def test_a_larger_result_is_replaced_by_a_copy_where_nothing_was_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("onnx_admm.api.requests")
    bloat = Recipe((Bloat(),), fine_tune=False)
    monkeypatch.setattr(module, "recipe_from_flags", lambda flags: bloat)
    report = Compression(threads=1).run("layers.onnx", "copy.onnx")
    assert (folder / "copy.onnx").read_bytes() == (folder / "layers.onnx").read_bytes()
    assert report.comparison.missed is None
    assert NOT_SMALLER in report.notes
    kept = Compression(threads=1, keep=True).run("layers.onnx", "copy.onnx")
    assert kept.comparison.missed is not None
    assert kept.comparison.missed.name == "size"
    asked = Compression(threads=1, bits=8).run("layers.onnx", "asked.onnx")
    assert not asked.written
    assert not (folder / "asked.onnx").exists()


def test_a_budget_on_such_a_model_is_not_met(run: RunCommand, folder: Path) -> None:
    budget = ("--budget", "macs=0.5x", "--cost-model", "macs", "--bind", "N=1")
    code, _, err = run("compress", "packed.onnx", "copy.onnx", "--data", "d.npz", "--threads", 1, *budget)
    assert code == 3
    assert "the budget is not reachable: every weight is already encoded" in err
    assert not (folder / "copy.onnx").exists()


def test_compare_takes_a_result_whose_defaults_are_frozen(folder: Path) -> None:
    """Inputs that a caller may override are no inputs that must be given."""
    proto = onnx.load("layers.onnx")
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in proto.graph.initializer
    )
    onnx.save(proto, "listed.onnx")
    Compression(threads=1).run("listed.onnx", "frozen.onnx")
    found = compare("listed.onnx", "frozen.onnx", threads=1)
    assert found.file_ratio > 1
    assert '"promises": []' in to_json(found)
