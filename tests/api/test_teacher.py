"""The teacher: training learns the outputs of another model than the one that is compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import CONV_NET

from onnx_admm.api import Compression
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import ModelView
from onnx_admm.errors import UsageError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.sessions import open_session

RECIPE = Recipe.parse(
    {"pass": [{"name": "fine_tune", "epochs": 4, "learning_rate": 1e-2}], "training": {"batch_size": 16}},
    source="test",
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An original, and a copy whose last layer has other weights; samples of their input."""
    monkeypatch.chdir(tmp_path)
    original = parse_text(CONV_NET)
    original.save("original.onnx")
    student = original.fork()
    noise = 0.3 * np.random.default_rng(1).normal(size=student.read("w3").shape)
    student.write_back({"w3": (student.read("w3") + noise).astype(np.float32)})
    student.save("student.onnx")
    x = np.random.default_rng(0).normal(size=(256, 1, 8, 8)).astype(np.float32)
    np.savez("data.npz", x=x)
    return Path("original.onnx"), Path("student.onnx")


def distance(first: Path, second: Path) -> float:
    x = {"x": np.random.default_rng(2).normal(size=(64, 1, 8, 8)).astype(np.float32)}
    outputs = [open_session(ModelView.load(path), threads=1).run(x)["scores"] for path in (first, second)]
    return float(np.square(outputs[0] - outputs[1]).mean())


def test_a_student_comes_nearer_to_its_teacher(files: tuple[Path, Path]) -> None:
    original, student = files
    job = Compression(data="data.npz", recipe=RECIPE, threads=1, keep=True, teacher=original)
    job.run(student, "taught.onnx")
    assert distance(original, Path("taught.onnx")) < 0.5 * distance(original, student)


def test_without_a_teacher_a_model_is_its_own(files: tuple[Path, Path]) -> None:
    original, student = files
    Compression(data="data.npz", recipe=RECIPE, threads=1, keep=True).run(student, "alone.onnx")
    assert distance(original, Path("alone.onnx")) > 0.9 * distance(original, student)


def test_a_teacher_of_another_form_is_refused(files: tuple[Path, Path]) -> None:
    other = parse_text(CONV_NET.replace("scores", "points"))
    other.save("other.onnx")
    sentence = "the teacher has other outputs than the model; .*got points; expected scores"
    with pytest.raises(UsageError, match=sentence):
        Compression(data="data.npz", recipe=RECIPE, teacher="other.onnx").plan(files[1])


@pytest.mark.parametrize("settings", [{}, {"data": "data.npz", "fine_tune": False, "bits": 4}])
def test_a_teacher_needs_training(files: tuple[Path, Path], settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="a teacher needs training"):
        Compression(teacher=files[0], **settings).plan(files[1])  # type: ignore[arg-type]


def test_a_teacher_needs_something_that_trains(files: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="a teacher needs training, and nothing here trains"):
        Compression(data="data.npz", teacher=files[0]).plan(files[1])
    assert Compression(data="data.npz", bits=4, teacher=files[0]).plan(files[1]).teacher is not None


def test_a_teacher_of_another_shape_is_refused(files: tuple[Path, Path]) -> None:
    flat = """<ir_version: 8, opset_import: ["" : 17]>
        flat (float[N,64] x) => (float[N,6] scores) <float[64,6] w> { scores = MatMul (x, w) }"""
    parse_text(flat).save("wide.onnx")
    sentence = "the teacher's x is another one than the model's; .*N', 64.*expected float32"
    with pytest.raises(UsageError, match=sentence):
        Compression(data="data.npz", bits=4, teacher="wide.onnx").plan(files[1])
