"""What a run says at its end: where most bytes were left and why, and what would have been better."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnx_admm.api import compare, compress
from onnx_admm.api.notes import BYTES_OF_INTEGERS, INSTEAD, _left_note, outcome_notes
from onnx_admm.calibration.four_bits import four_bits_instead
from onnx_admm.calibration.roundings import RoundedLayer
from onnx_admm.contracts import Edit, PassReport, Skip
from onnx_admm.data import from_arrays
from onnx_admm.encoding.compression_options import Treated
from onnx_admm.model import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pipeline import PipelineResult, StepReport

RNG = np.random.default_rng(0)
NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,48] x) => (float[N,32] y) { h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"""

TWO_LEFT = PassReport(
    False,
    skipped=tuple(
        Skip(name, f"half floats alone would leave the outputs {left} dB")
        for name, left in {"v": 9.1, "w": 12.5}.items()
    ),
)


def net() -> ModelView:
    weights = {"w": (48, 64), "v": (64, 32)}
    arrays = {name: RNG.normal(0, 0.2, shape).astype(np.float32) for name, shape in weights.items()}
    return parse_text(NET, constants=arrays)


def test_what_was_left_is_said_with_its_reason(tmp_path: Path) -> None:
    net().save(tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1, exclude=["w"])
    (note,) = [line for line in report.notes if "left as they are" in line]
    assert note.startswith(f"{48 * 64 * 4:,} bytes were left as they are, most of them in one weight: ")
    assert "exclude" in note
    all_done = compress(tmp_path / "in.onnx", tmp_path / "all.onnx", threads=1)
    assert not any("left as they are" in line for line in all_done.notes)


def test_four_bits_are_named_where_they_are_better_in_both() -> None:
    reference = net()
    pruned = reference.fork()
    for name in ("w", "v"):
        array = pruned.read(name)
        array[np.abs(array) < 0.3] = 0
        pruned.replace(name, array)
    data = from_arrays({"x": RNG.normal(size=(16, 48)).astype(np.float32)})
    found = four_bits_instead(reference, pruned, ["w", "v"], data, 9000.0)
    assert found is not None
    assert found.levels.nbytes < 48 * 64 / 2 + 64 * 32 / 2 + 600
    assert found.levels.sqnr_db > 15 > found.pruned.sqnr_db
    said = INSTEAD.format(**found.figures())
    assert "take about 9,000 bytes" in said
    assert f"{found.levels.sqnr_db:.1f} dB" in said
    assert four_bits_instead(reference, pruned, ["w", "v"], data, 1000.0) is None
    assert four_bits_instead(reference, reference, ["w", "v"], data, 9000.0) is None


def test_weights_with_one_kind_of_reason_are_counted_together(tmp_path: Path) -> None:
    """The number of decibels in the reason is another one for each weight."""
    result = PipelineResult(model=net(), reports=(StepReport("auto_quantize", TWO_LEFT, 0.0),))
    net().save(tmp_path / "in.onnx")
    (note,) = _left_note(result, compare(tmp_path / "in.onnx", tmp_path / "in.onnx", threads=1))
    assert note == (
        "20,480 bytes were left as they are, most of them in 2 weights. The largest: half floats alone would "
        "leave the outputs 12.5 dB. -v lists every layer."
    )


def test_integer_layers_are_said_to_have_bytes(tmp_path: Path) -> None:
    net().save(tmp_path / "in.onnx")
    comparison = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", threads=1).comparison
    for count, is_said in ((2, True), (0, False)):
        edits = tuple(Edit(name, "integer MatMul") for name in ("w", "v")[:count])
        step = StepReport("quantize_activations", PassReport(bool(edits), edits), 1.0)
        found = outcome_notes((), PipelineResult(net(), (step,)), comparison, changed=True, exact=())
        assert (BYTES_OF_INTEGERS.format(count=count) in found) == is_said


def test_a_layer_left_by_itself_and_one_left_beside_others_differ() -> None:
    layer = RoundedLayer(Treated(RNG.normal(size=(8, 16)).astype(np.float32), 0))
    layer.measured[layer.roundings[0]] = 1e-6  # 60 dB
    assert layer.why_left(None, 70.0).endswith("alone would leave the outputs 60.0 dB")
    assert layer.why_left(None, 22.0).endswith(
        "60.0 dB; with those of other layers the outputs were not kept"
    )
