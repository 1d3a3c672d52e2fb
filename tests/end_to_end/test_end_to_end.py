"""The main job, from file to file, on a model trained here: a floor that needs nothing from outside.

Every file written here runs again in a current ONNX Runtime (``keep_for_deployment``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import conv_net
from sklearn.datasets import load_digits

from onnx_admm.api import compress
from onnx_admm.contracts import ModelView, TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.report import Report
from onnx_admm.runtime.sessions import open_session
from onnx_admm.training.graph.trainer import GraphTrainer

pytestmark = pytest.mark.slow

DIGITS_NET = conv_net((8, 16), 10, ir_version=8, opset=13)
TEST_SAMPLES = 400


@dataclass(frozen=True)
class Bench:
    """A trained model and its data, as files; what the other side of the table would have on disk."""

    model: Path
    train: Path
    unlabelled: Path
    test: Path
    shown: np.ndarray  # (32, 1, 8, 8)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[TEST_SAMPLES:], order[:TEST_SAMPLES]
    net = parse_text(DIGITS_NET)
    settings = TrainingSettings(loss="cross_entropy", batch_size=32, threads=1)
    data = from_arrays({"x": x[train]}, labels[train])
    with GraphTrainer().open(net, net.sites(), data, settings, net) as run:
        for epoch in range(12):
            run.epoch(3e-3, 1e-3, seed=epoch)
        run.export().save(folder / "digits.onnx")
    np.savez(folder / "train.npz", x=x[train], labels=labels[train])
    np.savez(folder / "unlabelled.npz", x=x[train])
    np.savez(folder / "test.npz", x=x[test], labels=labels[test])
    files = [folder / f"{name}.npz" for name in ("train", "unlabelled", "test")]
    return Bench(folder / "digits.onnx", *files, x[test[:32]])


def accuracies(report: Report) -> tuple[float, float]:
    """Accuracy before and after on the test samples."""
    [found] = [quality for quality in report.comparison.quality if quality.data == "test"]
    assert found.accuracy_before is not None
    assert found.accuracy_after is not None
    return found.accuracy_before, found.accuracy_after


def keep(keep_for_deployment: Callable[..., Path], model: Path, bench: Bench) -> None:
    """Hand a written file over with what the training runtime computes for it."""
    outputs = open_session(model, threads=1).run({"x": bench.shown})
    keep_for_deployment(model, {"x": bench.shown}, outputs)


@pytest.mark.parametrize("form", ["auto", "dense", "packed", "qdq", "sparse"])
def test_pruned_and_quantised_in_every_form(
    bench: Bench, tmp_path: Path, keep_for_deployment: Callable[..., Path], form: str
) -> None:
    out = tmp_path / "small.onnx"
    asked = {"data": bench.train, "test": bench.test, "prune": "3x", "bits": 4, "epochs": 20, "threads": 1}
    report = compress(bench.model, out, format=form, **asked)
    before, after = accuracies(report)
    assert before > 0.95
    assert after > before - 0.03
    result, original = ModelView.load(out), ModelView.load(bench.model)
    assert result.signature() == original.signature()
    assert report.comparison.after.nonzeros <= report.comparison.before.parameters / 3
    sizes = report.comparison.after.sizes
    assert sizes.file == out.stat().st_size
    assert sizes.data <= sizes.data_index <= sizes.decode <= sizes.file
    assert sizes.file <= bench.model.stat().st_size
    if form == "packed":
        assert sizes.file < bench.model.stat().st_size / 3
    keep(keep_for_deployment, out, bench)


def test_without_labels_the_original_is_the_teacher(
    bench: Bench, tmp_path: Path, keep_for_deployment: Callable[..., Path]
) -> None:
    out = tmp_path / "small.onnx"
    asked = {"data": bench.unlabelled, "test": bench.test, "prune": "0.65", "bits": 4, "epochs": 20}
    report = compress(bench.model, out, threads=1, **asked)
    before, after = accuracies(report)
    assert after > before - 0.03
    keep(keep_for_deployment, out, bench)


def test_without_data_weights_take_8_bits(
    bench: Bench, tmp_path: Path, keep_for_deployment: Callable[..., Path]
) -> None:
    out = tmp_path / "small.onnx"
    report = compress(bench.model, out, threads=1)
    assert out.stat().st_size < bench.model.stat().st_size / 2
    assert any("data" in note for note in report.notes)
    feeds = {"x": bench.shown}
    whole, rounded = (open_session(path, threads=1).run(feeds)["scores"] for path in (bench.model, out))
    assert np.abs(whole - rounded).max() < 0.05 * np.abs(whole).max()
    keep(keep_for_deployment, out, bench)


def test_patterns_of_2_in_4(bench: Bench, tmp_path: Path, keep_for_deployment: Callable[..., Path]) -> None:
    out = tmp_path / "small.onnx"
    compress(bench.model, out, data=bench.train, prune="2:4", format="dense", epochs=4, threads=1, keep=True)
    model = ModelView.load(out)
    assert model.sites()
    for site in model.sites():
        if site.in_axis is not None and site.shape[site.in_axis] % 4 == 0:
            weights = np.moveaxis(model.read(site), site.in_axis, -1)
            groups = weights.reshape(-1, 4)
            assert (np.count_nonzero(groups, axis=1) <= 2).all()
    keep(keep_for_deployment, out, bench)


def test_same_seed_same_bytes(bench: Bench, tmp_path: Path) -> None:
    asked = {"data": bench.train, "prune": "4x", "bits": 3, "format": "packed", "epochs": 2, "threads": 1}
    written = []
    for name, seed in (("first", 1), ("second", 1), ("third", 2)):
        compress(bench.model, tmp_path / f"{name}.onnx", seed=seed, **asked)
        written.append((tmp_path / f"{name}.onnx").read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_a_run_can_be_cut_at_a_file(bench: Bench, tmp_path: Path) -> None:
    """Encoding a file written by an earlier run gives what one run would have written."""
    asked = {"data": bench.train, "prune": "4x", "bits": 4, "epochs": 1, "threads": 1}
    compress(bench.model, tmp_path / "whole.onnx", format="packed", **asked)
    compress(bench.model, tmp_path / "dense.onnx", format="dense", keep=True, **asked)
    recipe = tmp_path / "encode.toml"
    recipe.write_text('[[pass]]\nname = "encode"\nformat = "packed"\n')
    compress(tmp_path / "dense.onnx", tmp_path / "cut.onnx", recipe=recipe, threads=1)
    one, two = (
        open_session(tmp_path / f"{name}.onnx", threads=1).run({"x": bench.shown})
        for name in ("whole", "cut")
    )
    np.testing.assert_array_equal(one["scores"], two["scores"])


@pytest.mark.parametrize("name", ["lenet5-mnist", "resnet8-cifar10", "vgg-cifar10", "mnist_cntk"])
def test_real_models_packed_without_data(
    shared: Path, tmp_path: Path, keep_for_deployment: Callable[..., Path], name: str
) -> None:
    source, out = shared / "models" / f"{name}.onnx", tmp_path / "small.onnx"
    compress(source, out, format="packed", threads=1)
    assert out.stat().st_size < source.stat().st_size / 2.5
    session = open_session(out, threads=1)
    [port] = ModelView.load(out).signature().inputs
    shape = [8 if not isinstance(size, int) else size for size in port.shape or ()]
    feeds = {port.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    keep_for_deployment(out, feeds, session.run(feeds))
