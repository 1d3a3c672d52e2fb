"""Targets of the cost model ``onnxruntime``: what is known of a processor, and what is only predicted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import RunCommand
from made_up_times import MadeUpTimes

from onnx_admm.config.registry import cost_model, shipped_profiles
from onnx_admm.contracts import CompressionOption, PassContext
from onnx_admm.cost_models import onnxruntime
from onnx_admm.cost_models.macs import MacsCostModel
from onnx_admm.cost_models.onnxruntime import OnnxRuntimeCostModel
from onnx_admm.errors import UsageError
from onnx_admm.model import layer_profiles
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pricing import processors
from onnx_admm.pricing.pricing import basis_of
from onnx_admm.pricing.processors import TARGETS
from onnx_admm.quantization.saturation import steps_on
from onnx_admm.testing import model_family

CONV = """
    <ir_version: 10, opset_import: ["" : 17]>
    narrow (float[1,IN,8,8] x) => (float[1,OUT,8,8] y) <float[OUT,IN,1,1] w>
    { y = Conv (x, w) }"""


@pytest.fixture(autouse=True)
def on_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run as on x86 with VNNI, whose blocks have 16 channels."""
    for module in (onnxruntime, processors):
        monkeypatch.setattr(module, "own_processor", lambda: TARGETS["x86-vnni"])


def latency(target: str, reads: int, writes: int, left: float = 1.0) -> float:
    text = CONV.replace("IN", str(reads)).replace("OUT", str(writes))
    layer = layer_profiles(parse_text(text))[0]
    option = CompressionOption(density=left, structure="channel")
    found = OnnxRuntimeCostModel(processor=target).estimate(layer, option).latency_s
    assert found is not None
    return found


def test_every_target_has_a_profile_of_its_name() -> None:
    assert set(shipped_profiles(OnnxRuntimeCostModel)) == TARGETS.keys()
    for name, target in TARGETS.items():
        found = cost_model(f"onnxruntime:{name}")
        assert isinstance(found, OnnxRuntimeCostModel)
        assert found.target is target
        assert found.is_this_machine is (name == "x86-vnni")


@pytest.mark.parametrize(
    ("target", "reads", "writes", "factor"),
    [
        ("x86-vnni", 24, 24, 1.0),
        ("x86-avx512", 24, 24, 1.0),
        ("x86-avx2", 24, 24, (24 / 32) ** 2),
        ("arm64", 20, 24, (20 / 32) * (24 / 32)),
        ("arm64", 32, 64, 1.0),
        ("arm64", 3, 20, 20 / 32),
    ],
)
def test_convolutions_are_scaled_to_the_blocks_of_the_target(
    target: str, reads: int, writes: int, factor: float, made_up_times: MadeUpTimes
) -> None:
    assert latency(target, reads, writes) == pytest.approx(factor * latency("this", reads, writes))


def test_removed_channels_are_priced_by_the_blocks_of_the_target(made_up_times: MadeUpTimes) -> None:
    here = latency("this", 32, 32, 0.5)
    assert latency("arm64", 32, 32, 0.5) == pytest.approx(here)
    here = latency("this", 32, 32, 0.625)
    assert latency("arm64", 32, 32, 0.625) == pytest.approx(here * 20 / 32)


def test_what_was_not_timed_here_is_predicted(made_up_times: MadeUpTimes) -> None:
    arm = OnnxRuntimeCostModel(processor="arm64")
    assert (basis_of(OnnxRuntimeCostModel()), basis_of(arm), basis_of(MacsCostModel())) == (
        "measured",
        "predicted",
        "counted",
    )
    layer = layer_profiles(parse_text(CONV.replace("IN", "8").replace("OUT", "8")))[0]
    assert arm.estimate(layer, CompressionOption()).uncertainty == 0.5
    assert "on arm64, predicted: times of this machine (x86-vnni)" in arm.assumes
    assert "predicted" not in OnnxRuntimeCostModel().assumes


def test_passes_learn_the_processor_of_the_target() -> None:
    reference = model_family()["conv_net"]
    plain = PassContext(reference=reference)
    here = PassContext(reference=reference, cost_model=OnnxRuntimeCostModel())
    other = PassContext(reference=reference, cost_model=OnnxRuntimeCostModel(processor="x86-avx2"))
    assert [each.is_timed_here for each in (plain, here, other)] == [True, True, False]
    assert plain.processor is None
    assert steps_on(other.processor) == 127


def test_an_unknown_processor_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown target 'sparc'; expected one of this, x86-avx2"):
        cost_model("onnxruntime,processor=sparc")


def test_the_command_says_predicted(net: Path, run: RunCommand, made_up_times: MadeUpTimes) -> None:
    code, text, errors = run("inspect", net, "--target", "arm64", "--bind", "N=1", "--json")
    assert (code, errors) == (0, "")
    assert json.loads(text)["basis"] == "predicted"
    code, text, _ = run("inspect", net, "--target", "this", "--bind", "N=1")
    assert code == 0
    assert "the costs are measured" in text
    noted = net.with_name("noted.onnx")
    assert run("annotate", net, noted, "--target", "arm64", "--bind", "N=1")[0] == 0
    code, text, _ = run("compress", net, net.with_name("out.onnx"), "--target", "arm64", "--dry-run")
    assert code == 0
    assert "The target is arm64, and this machine is another one. Costs for it are predicted." in text
    assert 'cost_model = "onnxruntime:arm64"' in text


def test_a_target_and_a_cost_model_contradict_one_another(net: Path, run: RunCommand) -> None:
    code, _, errors = run("inspect", net, "--target", "this", "--cost-model", "macs")
    assert code == 2
    assert "a target and a cost model both set the costs; got --target this, --cost-model macs" in errors
