"""Transforms and filter banks are told from weights by their values, and left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import PassContext
from onnx_admm.errors import PassRefused
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.auto_quantize import AutoQuantize
from onnx_admm.passes.encode import Encode
from onnx_admm.passes.meet_budget import MeetBudget
from onnx_admm.selection.fixed_transforms import transform_in
from onnx_admm.selection.layers import choose_layers

Floats = npt.NDArray[np.float64]


def fourier(length: int = 64) -> Floats:
    """Real and imaginary parts, Hann window, (2 * bins, 1, length)."""
    bins, steps = np.arange(1, length // 2), np.arange(length)
    phases = 2 * np.pi * np.outer(bins, steps) / length
    return (np.concatenate([np.cos(phases), np.sin(phases)]) * np.hanning(length))[:, None]


def triangles(bands: int = 16, width: int = 64) -> Floats:
    """Overlapping triangles, as mel filters are, (bands, width)."""
    centres = np.linspace(4, width - 5, bands)[:, None]
    return np.maximum(0.0, 1 - np.abs(np.arange(width) - centres) / 4)


def positions(count: int = 64, width: int = 32) -> Floats:
    rates = 1 / 100 ** (np.arange(width // 2) / (width // 2))
    angles = np.outer(np.arange(count), rates)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_transforms_are_recognised(dtype: type) -> None:
    assert "sinusoids" in (transform_in(fourier().astype(dtype)) or "")
    assert "sinusoids" in (transform_in(fourier()[:, 0].T.astype(dtype)) or "")
    assert "sinusoids" in (transform_in(positions().astype(dtype)) or "")
    cut = np.pad(triangles(), ((0, 0), (0, 192)))  # fewer values than frequencies: nothing above a limit
    for bank in (triangles(), triangles().T, cut, cut.T):
        assert "filter bank" in (transform_in(bank.astype(dtype)) or "")


def pruned(array: Floats, share: float) -> Floats:
    return np.where(np.abs(array) >= np.quantile(np.abs(array), share), array, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = np.apply_along_axis(np.convolve, 1, rng.normal(size=(64, 128)), np.hanning(9), "same")
    low_rank = rng.normal(size=(64, 3)) @ rng.normal(size=(3, 128))
    nonnegative = np.abs(rng.normal(size=(64, 128)))
    for weights in (rng.normal(size=(64, 128)), smooth, low_rank, nonnegative, np.zeros((64, 64))):
        assert transform_in(weights) is None
        for share in (0.7, 0.95, 0.99):
            assert transform_in(pruned(weights, share)) is None
    assert transform_in(rng.normal(size=(32, 16, 7, 7))) is None
    assert transform_in(np.eye(32)) is None  # a selection: few levels, which are stored exactly
    assert transform_in(np.kron(np.eye(16), np.ones((1, 4)))) is None  # sums of four
    assert transform_in(np.full((64, 64), np.nan)) is None


def spectrogram() -> ModelView:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,1,256] x) => (float[N,4,m] y) <float[62,1,64] basis, float[4,62,3] w>
        {
            f = Conv <strides = [32]> (x, basis)
            p = Mul (f, f)
            y = Conv (p, w)
        }""")
    model.replace("basis", fourier().astype(np.float32))
    return model


def test_a_transform_is_no_weight_unless_it_is_named() -> None:
    model = spectrogram()
    context = PassContext(reference=model)
    report = AutoQuantize().run(after := model.fork(), context)
    assert np.allclose(after.read("basis"), model.read("basis"), rtol=1e-2, atol=2e-3)
    assert [edit.layer for edit in report.edits] == ["w", "basis"]
    assert "a fixed transform" in report.edits[1].what
    Encode("packed").run(packed := after.fork(), context)
    assert not AutoQuantize().run(packed.fork(), PassContext(reference=packed)).changed
    named = AutoQuantize(include=("basis",)).run(model.fork(), context)
    assert [edit.layer for edit in named.edits] == ["basis"]


def test_a_model_of_transforms_alone_is_refused() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,1,256] x) => (float[N,62,m] y) <float[62,1,64] basis> { y = Conv (x, basis) }""")
    model.replace("basis", fourier().astype(np.float32))
    with pytest.raises(PassRefused, match="no weight is left to compress; got basis: its rows are"):
        choose_layers(model, (), ())


def test_a_model_of_transforms_alone_gets_shorter_numbers() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,1,256] x) => (float[N,62,m] y) <float[62,1,64] basis> { y = Conv (x, basis) }""")
    model.replace("basis", fourier().astype(np.float32))
    report = AutoQuantize().run(model, PassContext(reference=model.fork()))
    assert [edit.layer for edit in report.edits] == ["basis"]
    assert "a fixed transform" in report.edits[0].what


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("basic_pitch", {"const_fold_opt__664", "const_fold_opt__655"}),
        ("gtcrn_simple", {"onnx::MatMul_3414", "onnx::MatMul_3932"}),
        (
            "silero_vad_ifless",
            {
                f"node_cond__1.{n}.stft.forward_basis_buffer"
                for n in ("then_branch/model", "else_branch/model_8k")
            },
        ),
        ("magika_v33", set()),
        ("vgg-cifar10", set()),
        ("yolox_nano", set()),
        ("lenet5-mnist", set()),
    ],
)
def test_real_models(name: str, found: set[str], shared: Path) -> None:
    view = ModelView.load(shared / "models" / f"{name}.onnx")
    sites = {site.name for site in view.sites() if transform_in(view.read(site)) is not None}
    assert sites == found


def test_every_pass_agrees_on_which_layers_there_are() -> None:
    """A budget is met by the learned weights, and the layers rebuilt for it are those that were priced."""
    model = spectrogram()
    step = MeetBudget(budget=("size=1.1x",), rounds=1)
    context = PassContext(reference=model, cost_model=cost_model("storage"))
    step.requires(model, context)
    report = step.run(after := model.fork(), context)
    assert np.array_equal(after.read("basis"), model.read("basis"))
    assert not np.array_equal(after.read("w"), model.read("w"))
    assert {skip.layer for skip in report.skipped} == {"basis"}
    assert report.unmet is None
