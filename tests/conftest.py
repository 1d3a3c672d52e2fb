"""What tests share: where files lie, tiny models, and the fixture that feeds the deployment check.

Fixtures import what they need themselves, so that a test of one module does not load the whole product.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from made_up_times import MadeUpTimes

    from onnx_admm.contracts import ModelView, Pass, PassContext, PassReport

settings.register_profile("onnx-admm", deadline=None, derandomize=True, database=None)
settings.load_profile("onnx-admm")

Array = npt.NDArray[np.generic]
KeepForDeployment = Callable[..., Path]


# -- where things lie ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout; the suite may run from a copy of ``tests/`` against an installed wheel."""
    return Path(os.environ.get("ONNX_ADMM_REPOSITORY") or Path(__file__).parents[1]).resolve()


@pytest.fixture(scope="session")
def shared(repository: Path) -> Path:
    """Real models and datasets beside the checkout (``ONNX_ADMM_SHARED`` names another place)."""
    folder = Path(os.environ.get("ONNX_ADMM_SHARED") or repository.parent / "shared")
    if not (folder / "models").is_dir():
        pytest.skip(f"needs the real models and datasets: no folder {folder}")
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measured times are kept in a folder of the suite's own; no width of a terminal is stated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv(
            "COLUMNS", raising=False
        )  # workers of the suite are told a width, and no reader is there
        yield


# -- end-to-end outputs, run again in the deployment runtime ---------------------------------


@pytest.fixture
def keep_for_deployment(request: pytest.FixtureRequest, tmp_path: Path) -> KeepForDeployment:
    """``keep(model_path, feeds, expected, tolerance=1e-4)``: hand a written model to ``deployment/check.py``.

    ``expected`` holds outputs by name, as the training runtime computed them; ``tolerance`` is the
    share of ``max |expected|`` an output may differ by.
    """
    from onnx_admm.local_files.named_arrays import write_npz

    root = Path(os.environ.get("ONNX_ADMM_E2E_OUT") or tmp_path / "deployment")
    test = re.sub(r"\W+", "-", request.node.name).strip("-")
    kept = 0

    def keep(
        model_path: str | os.PathLike[str],
        feeds: Mapping[str, Array],
        expected: Mapping[str, Array],
        tolerance: float = 1e-4,
    ) -> Path:
        nonlocal kept
        kept += 1
        case = root / f"{request.node.path.stem}-{test}-{kept}"
        case.mkdir(parents=True)
        shutil.copyfile(model_path, case / "model.onnx")
        write_npz(case / "inputs.npz", feeds)
        write_npz(case / "expected.npz", expected)
        (case / "tolerance").write_text(repr(float(tolerance)))
        return case

    return keep


# -- tiny models -----------------------------------------------------------------------------


def conv_net(channels: tuple[int, int], classes: int, *, ir_version: int = 10, opset: int = 17) -> str:
    """Text of two convolutions, each with Relu and pooling, and a Gemm, over one-channel 8x8 images."""
    first, second = channels
    return f"""
    <ir_version: {ir_version}, opset_import: ["" : {opset}]>
    conv_net (float[N,1,8,8] x) => (float[N,{classes}] scores)
    <
        float[{first},1,3,3] w1, float[{first}] b1, float[{second},{first},3,3] w2, float[{second}] b2,
        float[{classes},{4 * second}] w3, float[{classes}] b3
    >
    {{
        a1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (a1)
        p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)
        a2 = Conv <pads = [1, 1, 1, 1]> (p1, w2, b2)
        r2 = Relu (a2)
        p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
        flat = Flatten (p2)
        scores = Gemm <transB = 1> (flat, w3, b3)
    }}"""


CONV_NET = conv_net((4, 6), 3)

MLP = """
    <ir_version: 10, opset_import: ["" : 17]>
    mlp (float[N,8] x) => (float[N,3] scores)
    <float[8,16] w1, float[16] b1, float[3,16] w2, float[3] b2>
    {
        m1 = MatMul (x, w1)
        a1 = Add (m1, b1)
        r1 = Relu (a1)
        scores = Gemm <transB = 1> (r1, w2, b2)
    }
"""


TWO_GEMMS = """
    <ir_version: 10, opset_import: ["" : 17]>
    two_gemms (float[N,16] x) => (float[N,4] logits)
    <float[16,32] w1, float[32] b1, float[4,32] w2, float[4] b2>
    {
        a = Gemm (x, w1, b1)
        r = Relu (a)
        logits = Gemm <transB = 1> (r, w2, b2)
    }
"""


@pytest.fixture
def tiny_conv() -> ModelView:
    """Two convolutions and a Gemm, 3 classes of 8x8 images, random weights."""
    from onnx_admm.model.analysis.text import parse_text

    return parse_text(CONV_NET)


@pytest.fixture
def tiny_mlp() -> ModelView:
    """MatMul + Add, Relu, Gemm: 8 inputs, 3 classes, random weights."""
    from onnx_admm.model.analysis.text import parse_text

    return parse_text(MLP)


# -- passes ----------------------------------------------------------------------------------


def context_of_gemms(model: ModelView, *, trained: bool = False, seed: int = 0) -> PassContext:
    """For passes on ``TWO_GEMMS``: without data, or with a trainer and samples that can be learned."""
    from onnx_admm.contracts import PassContext, TrainingSettings
    from onnx_admm.data import from_arrays
    from onnx_admm.training.graph.trainer import GraphTrainer

    if not trained:
        return PassContext(reference=model)
    rng = np.random.default_rng(5)
    x = rng.normal(size=(768, 16)).astype(np.float32)
    data = from_arrays({"x": x}, np.argmax(x @ rng.normal(size=(16, 4)), axis=1).astype(np.int64))
    return PassContext(
        reference=model,
        train=data.select(np.arange(512)),
        validation=data.select(np.arange(512, 768)),
        trainer=GraphTrainer(),
        settings=TrainingSettings(batch_size=32, loss="cross_entropy"),
        seed=seed,
    )


def fold_with(step: Pass, view: ModelView) -> tuple[ModelView, PassReport]:
    """A fork, folded until nothing is left to fold."""
    from onnx_admm.contracts import PassContext

    folded, context = view.fork(), PassContext(reference=view)
    report = step.run(folded, context)
    assert report.changed == bool(report.edits)
    assert not step.run(folded, context).changed
    assert folded.signature() == view.signature()
    return folded, report


def assert_same_outputs(before: ModelView, after: ModelView, shape: tuple[int, ...]) -> None:
    """For one random ``x``, without the runtime's own folding."""
    from onnx_admm.runtime.sessions import open_session

    feeds = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    expected = open_session(before, threads=1, optimize=False).run(feeds)
    got = open_session(after, threads=1, optimize=False).run(feeds)
    assert expected
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5 * np.abs(array).max())


# -- files to compress -----------------------------------------------------------------------


@pytest.fixture
def net(tiny_conv: ModelView, tmp_path: Path) -> Path:
    """``tiny_conv`` as a file, with some metadata to lose."""
    tiny_conv.metadata["documentation"] = "A net. " * 40
    tiny_conv.save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def samples(net: Path, tmp_path: Path) -> Path:
    """300 samples labelled by ``net`` itself: it is always right."""
    from onnx_admm.runtime.sessions import open_session

    images = np.random.default_rng(0).normal(size=(300, 1, 8, 8)).astype(np.float32)
    scores = open_session(net, threads=1).run({"x": images})["scores"]
    np.savez(tmp_path / "train.npz", x=images, labels=scores.argmax(axis=1))
    return tmp_path / "train.npz"


@pytest.fixture
def scale_is_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``scale`` can be named in recipes."""
    from fake_plugins import register

    register(monkeypatch, tmp_path, {"onnx_admm.passes": {"scale": "fake_plugins:Scale"}})


@pytest.fixture
def recipe(tmp_path: Path, scale_is_registered: None) -> Path:
    """Scales by 0.9, and leaves no trace that would make the file larger."""
    (tmp_path / "recipe.toml").write_text(
        'fine_tune = false\nprovenance = false\n[[pass]]\nname = "scale"\nfactor = 0.9\n'
    )
    return tmp_path / "recipe.toml"


def running(*passes: object, **changes: object) -> dict[str, object]:
    """Keywords for ``compress``: these passes alone, without fine-tuning, on one thread."""
    from onnx_admm.config.recipe import Recipe

    return {"recipe": Recipe(passes, fine_tune=False), "threads": 1, **changes}  # type: ignore[arg-type]


# -- the command line ------------------------------------------------------------------------

RunCommand = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """``run("inspect", path)``: exit code, stdout, stderr."""

    from onnx_admm import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


# -- times -----------------------------------------------------------------------------------


@pytest.fixture
def made_up_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MadeUpTimes]:
    """The cost model ``onnxruntime`` asks no clock, and keeps nothing."""
    from made_up_times import install

    yield from install(monkeypatch, tmp_path / "cache")
