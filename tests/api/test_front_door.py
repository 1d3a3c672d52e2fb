"""``import onnx_admm``: models on disk and in memory, data in every form, mistakes told as sentences."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
import pytest

import onnx_admm
from onnx_admm.errors import DataError, ModelError, UsageError
from onnx_admm.model.analysis.text import parse_text

RNG = np.random.default_rng(0)
NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,24] x) => (float[N,6] logits) { h = MatMul (x, w) r = Relu (h) logits = MatMul (r, v) }"""
X: npt.NDArray[np.float32] = RNG.normal(size=(40, 24)).astype(np.float32)
LABELS = RNG.integers(0, 6, 40)


def net() -> bytes:
    weights = {"w": (24, 40), "v": (40, 6)}
    arrays = {name: RNG.normal(0, 0.3, shape).astype(np.float32) for name, shape in weights.items()}
    return parse_text(NET, constants=arrays).to_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("front") / "net.onnx"
    file.write_bytes(net())
    return file


def models(path: Path) -> dict[str, Any]:
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "proto": onnx.load(path),
        "ir": onnx_ir.load(path.absolute()),
    }


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "proto", "ir"])
def test_a_model_comes_in_any_form_and_back_as_a_proto(kind: str, path: Path) -> None:
    model = models(path)[kind]
    before = onnx_admm.inspect(model)
    assert before.parameters == 24 * 40 + 40 * 6
    result = onnx_admm.compress(model, threads=1)
    assert result.target is None
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    assert len(result.model.SerializeToString()) == result.report.comparison.after.file_bytes
    assert "in memory" in repr(result)
    comparison = onnx_admm.compare(model, result.model, threads=1)
    assert comparison.file_ratio == result.report.comparison.file_ratio


class Reader:
    """A CalibrationDataReader."""

    def __init__(self) -> None:
        self._rows = iter(X)

    def get_next(self) -> dict[str, Any] | None:
        row = next(self._rows, None)
        return None if row is None else {"x": row[None]}


class Tensor:
    """What another library's tensor shows of itself."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        return self._array if dtype is None else self._array.astype(dtype)


def batches() -> Iterator[dict[str, Any]]:
    for start in range(0, 40, 8):
        yield {"x": X[start : start + 8], "labels": LABELS[start : start + 8]}


def data(kind: str, folder: Path) -> Any:
    np.savez(folder / "d.npz", x=X, labels=LABELS)
    np.save(folder / "x.npy", X)
    forms: dict[str, Any] = {
        "npz": folder / "d.npz",
        "npy": folder / "x.npy",
        "array": X,
        "dict": {"x": X, "labels": LABELS},
        "list": [{"x": row} for row in X],
        "generator": batches(),
        "reader": Reader(),
        "loader": [(Tensor(X[i : i + 8]), Tensor(LABELS[i : i + 8])) for i in range(0, 40, 8)],
    }
    return forms[kind]


@pytest.mark.parametrize("kind", ["npz", "npy", "array", "dict", "list", "generator", "reader", "loader"])
def test_data_comes_in_any_form(kind: str, path: Path, tmp_path: Path) -> None:
    result = onnx_admm.compress(path, data=data(kind, tmp_path), bits=6, fine_tune=False, threads=1)
    (quality, *_) = result.report.comparison.quality
    assert (quality.accuracy_after is not None) == (kind in ("npz", "dict", "generator", "loader"))
    assert quality.samples == 4


def test_a_target_is_written_and_the_model_is_there(path: Path, tmp_path: Path) -> None:
    result = onnx_admm.compress(path, tmp_path / "out.onnx", threads=1)
    assert result.model is None
    assert result.target == tmp_path / "out.onnx"
    assert result.target.stat().st_size == result.report.comparison.after.file_bytes
    assert path.read_bytes() != result.target.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"bits": "4"}, "bits"),
        ({"bits": True}, "bits"),
        ({"prune": 0.5}, "prune"),
        ({"seed": 1.5}, "seed"),
        ({"max_drop": "half"}, "max_drop"),
        ({"keep": 1}, "keep"),
        ({"include": [1]}, "include"),
    ],
)
def test_a_wrong_type_is_a_sentence(arguments: dict[str, Any], named: str, path: Path) -> None:
    with pytest.raises(UsageError, match=f"{named}: an argument of the wrong type|wrong type.*{named}"):
        onnx_admm.compress(path, **arguments)


def test_other_mistakes_are_sentences(path: Path) -> None:
    with pytest.raises(UsageError, match="of an unknown kind"):
        onnx_admm.inspect(3)  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        onnx_admm.inspect(b"no model")
    with pytest.raises(DataError, match="of an unknown kind"):
        onnx_admm.compress(path, data=3, threads=1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the number of entries of an item"):
        onnx_admm.compress(path, data=[(X, X, LABELS)], threads=1)
    with pytest.raises(TypeError):
        onnx_admm.compress(path, prunes="10x")  # type: ignore[call-arg]


def test_the_package_says_what_it_has() -> None:
    assert set(onnx_admm.__all__) <= set(dir(onnx_admm))
    assert onnx_admm.__version__.count(".") >= 1
    assert "data" in (onnx_admm.compress.__doc__ or "")
    with pytest.raises(AttributeError):
        _ = onnx_admm.nothing  # type: ignore[attr-defined]


def test_no_package_takes_the_place_of_a_function(path: Path) -> None:
    """An import of ``onnx_admm.NAME`` would set the attribute of that name."""
    folders = {entry.stem for entry in Path(onnx_admm.__path__[0]).iterdir()}
    assert not folders & set(onnx_admm.__all__)
    assert onnx_admm.costs(path, "macs", bind={"N": 1}).total.macs == 24 * 40 + 40 * 6
    assert callable(onnx_admm.costs)


def test_the_import_is_quick_and_the_module_runs() -> None:
    heavy = "import sys, onnx_admm; print([m for m in ('onnx', 'numpy', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    done = subprocess.run(
        [sys.executable, "-m", "onnx_admm", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("onnx-admm ")


def test_activations_are_looked_at_where_there_is_data_and_left_where_weights_alone_are_asked() -> None:
    both = onnx_admm.compress(net(), data={"x": X}, threads=1)
    alone = onnx_admm.compress(net(), data={"x": X}, threads=1, weights_only=True)
    without = onnx_admm.compress(net(), threads=1)
    passes = [[step.name for step in result.report.steps] for result in (both, alone, without)]
    assert ["quantize_activations" in names for names in passes] == [True, False, False]
    with pytest.raises(UsageError, match="--weights-only"):
        onnx_admm.compress(net(), recipe="lenet5-85x", weights_only=True)
