"""Large tables are decoded behind the lookup of their rows: a runtime never holds them as floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import KeepForDeployment

from onnx_admm.contracts import ModelView, PassContext
from onnx_admm.encoding.packed import encode_packed
from onnx_admm.model.analysis.stored_sizes import stored_constants
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.analysis.unsupported_weights import unsupported_weights
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.encode import Encode
from onnx_admm.runtime.sessions import open_session

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
ROWS, WIDTH = 2048, 66
LOOKUP = f"(int64[N,K] i) => (float[N,K,{WIDTH}] y) {{ y = Gather (w, i) }}"


def encoded(text: str, bits: int = 8, dtype: str = "float32") -> tuple[ModelView, ModelView]:
    """The model on levels, and the same encoded."""
    constants = {"w": np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(dtype)}
    model = parse_text(HEAD + text, constants=constants)
    AdmmQuantize(bits=bits, per_channel=True).run(model, PassContext(reference=model))
    packed = model.fork()
    encode_packed(packed)
    return model, packed


def run(model: ModelView, **feeds: np.ndarray) -> np.ndarray:
    (output,) = open_session(model).run(feeds).values()
    return output


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_are_decoded_as_they_are_looked_up(
    bits: int, dtype: str, tmp_path: Path, keep_for_deployment: KeepForDeployment
) -> None:
    kind = {"float16": "float16", "float32": "float", "float64": "double"}[dtype]
    text = f"(int64[N,K] i) => ({kind}[N,K,{WIDTH}] y) {{ y = Gather (w, i) }}"
    model, packed = encoded(text, bits, dtype)
    looked_up = [node for node in packed.nodes("Gather") if node.inputs[1].name == "i"]
    assert [node.outputs[0].uses()[0].op_type for node in looked_up] == ["Cast", "Mul"]
    indices = np.array([[0, 5, -1], [7, 7, ROWS - 1]])
    expected = run(model, i=indices)
    np.testing.assert_array_equal(run(packed, i=indices), expected)
    packed.save(tmp_path / "m.onnx")
    keep_for_deployment(tmp_path / "m.onnx", {"i": indices}, {"y": expected}, tolerance=0.0)
    (site,) = packed.sites()
    assert (site.name, site.shape, site.dtype, site.editable) == ("w", (ROWS, WIDTH), dtype, False)
    np.testing.assert_array_equal(packed.read("w"), model.read("w"))
    assert packed.decoded("w").stored_bytes <= ROWS * WIDTH * bits / 8 * 1.1 + 2 * ROWS + 600


def test_the_form_is_kept_by_later_runs_and_sizes_are_told(tmp_path: Path) -> None:
    _, packed = encoded(LOOKUP)
    packed.save(tmp_path / "m.onnx")
    loaded = ModelView.load(tmp_path / "m.onnx")
    again = Encode("packed").run(loaded, PassContext(reference=loaded))
    assert not again.changed
    assert [skip.why.split(" and")[0] for skip in again.skipped] == [
        "already encoded",
        "every weight is encoded already",
    ]
    fed = {name for constant in stored_constants(loaded) for name in constant.weights}
    assert fed == {"w"}
    assert not any(constant.is_weight for constant in stored_constants(loaded))
    assert not unsupported_weights(loaded)


def test_a_table_with_other_readers_is_decoded_at_load() -> None:
    text = f"(int64[N,K] i) => (float[N,K,{ROWS}] y)"
    text += " { e = Gather (w, i) t = Transpose <perm = [1, 0]> (w) y = MatMul (e, t) }"
    model, _ = encoded(text)
    packed = model.fork()
    assert not encode_packed(packed).looked_up
    indices = np.array([[0, 5, -1]])
    np.testing.assert_array_equal(run(packed, i=indices), run(model, i=indices))


def test_two_lookups_of_one_table_share_its_codes() -> None:
    text = f"(int64[N] i, int64[N] j) => (float[N,{WIDTH}] y)"
    model, packed = encoded(text + " { a = Gather (w, i) b = Gather (w, j) y = Sub (a, b) }")
    (site,) = packed.sites()
    assert len(site.users) == 2
    feeds = {"i": np.array([0, 5, -1]), "j": np.array([7, 0, 2])}
    np.testing.assert_array_equal(run(packed, **feeds), run(model, **feeds))


def test_scales_along_columns_are_decoded_at_load() -> None:
    weights = np.random.default_rng(0).integers(-127, 128, size=(ROWS, WIDTH)) * (1 + np.arange(WIDTH)) / 256
    columns = parse_text(HEAD + LOOKUP, constants={"w": weights.astype(np.float32)})
    assert not encode_packed(columns).looked_up


def test_auto_decodes_at_load_where_lookups_make_the_model_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = encoded(LOOKUP)
    context = PassContext(reference=model)

    def timed(self: Encode, before: ModelView, candidate: Any, data: object) -> dict[str, str]:
        return {"verdict": "slower" if candidate.outcome.looked_up and not fast else "taken"}

    monkeypatch.setattr(Encode, "_time", timed)
    fast = True
    report = Encode().run(model.fork(), context)
    assert [trial["verdict"] for trial in report.figures["trials"]] == ["taken"]
    assert report.figures["decoded_at_lookup"] == ["w"]
    fast = False
    report = Encode().run(model.fork(), context)
    assert [trial["verdict"] for trial in report.figures["trials"]] == ["slower", "taken"]
    assert report.figures["decoded_at_lookup"] == []
