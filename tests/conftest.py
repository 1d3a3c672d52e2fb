"""Shared ground of the tests: where things lie, tiny models, and the door to the deployment check."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import settings

from onnx_admm.model import ModelView

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


# -- end-to-end outputs, run again in the deployment runtime ---------------------------------


@pytest.fixture
def keep_for_deployment(request: pytest.FixtureRequest, tmp_path: Path) -> KeepForDeployment:
    """``keep(model_path, feeds, expected, tolerance=1e-4)``: hand a written model to ``deployment/check.py``.

    ``expected`` holds outputs by name, as the training runtime computed them; ``tolerance`` is the
    share of ``max |expected|`` an output may differ by.
    """
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
        np.savez(case / "inputs.npz", **feeds)
        np.savez(case / "expected.npz", **expected)
        (case / "tolerance").write_text(repr(float(tolerance)))
        return case

    return keep


# -- tiny models -----------------------------------------------------------------------------

CONV_NET = """
    <ir_version: 10, opset_import: ["" : 17]>
    conv_net (float[N,1,8,8] x) => (float[N,3] scores)
    <float[4,1,3,3] w1, float[4] b1, float[6,4,3,3] w2, float[6] b2, float[3,24] w3, float[3] b3>
    {
        a1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (a1)
        p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)
        a2 = Conv <pads = [1, 1, 1, 1]> (p1, w2, b2)
        r2 = Relu (a2)
        p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
        flat = Flatten (p2)
        scores = Gemm <transB = 1> (flat, w3, b3)
    }
"""

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


def model_from_text(text: str, seed: int = 0) -> ModelView:
    """Parse ``onnx.parser`` text; initializers declared without values get seeded random ones.

    Weights are drawn from N(0, 2 / fan-in), biases from N(0, 0.1^2).
    """
    rng = np.random.default_rng(seed)
    proto = onnx.parser.parse_model(text)
    graph = proto.graph
    drawn = []
    for value in list(graph.value_info):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        deviation = 0.1 if len(shape) < 2 else np.sqrt(2 * shape[0] / np.prod(shape))
        array = rng.normal(0, deviation, shape).astype(np.float32)
        drawn.append(onnx.numpy_helper.from_array(array, value.name))
        graph.value_info.remove(value)
    graph.initializer.extend(drawn)
    return ModelView.from_bytes(proto.SerializeToString())


@pytest.fixture
def tiny_conv() -> ModelView:
    """Two convolutions and a Gemm, 3 classes of 8x8 images, random weights."""
    return model_from_text(CONV_NET)


@pytest.fixture
def tiny_mlp() -> ModelView:
    """MatMul + Add, Relu, Gemm: 8 inputs, 3 classes, random weights."""
    return model_from_text(MLP)
