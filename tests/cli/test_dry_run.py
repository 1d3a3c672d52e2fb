"""A dry run finds what can be found without running the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import RunCommand

from onnx_admm.api import Compression, rehearsal
from onnx_admm.config.registry import cost_model
from onnx_admm.errors import RuntimeMissing

pytestmark = pytest.mark.slow

MACS = "--cost-model macs --budget macs=0.5x"


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        ("--include nothing*", 2, "pass 4 of 8, auto_quantize: no layer matches; got nothing*"),
        ("--exclude w1,w2", 2, "no layer matches; got w1,w2; expected some of w1"),
        (MACS, 2, "depend on an open axis; got N."),
        (f"{MACS} --bind N=1,M=2", 2, "M: no input has that open axis; expected one of N"),
        ("--bind M=2", 2, "M: no input has that open axis"),
        ("--test none.npz", 2, "none.npz: no such file or folder of data"),
        ("--test wrong.npz", 2, "wrong.npz"),
        ("--resume wrong.npz", 2, "--resume wrong.npz: not a folder for the results of passes"),
        ("--data plain.npz --metric miou", 2, "--metric miou: the metric needs labels, and the data"),
        ("--data few.npz --test plain.npz --metric top-5", 2, "--metric top-5: the metric needs labels"),
        ("--test many.npz", 2, "a label the model has no class for; got 7"),
        ("--data many.npz", 2, "a label the model has no class for; got 7; expected 0 to 2"),
        ("--data few.npz --val many.npz", 2, "a label the model has no class for; got 7"),
        ("--data plain.npz --metric cosine", 0, ""),
        ("--data few.npz", 0, ""),
    ],
)
def test_mistakes_are_found(
    flags: str, code: int, sentence: str, net: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(net.parent)
    Path("wrong.npz").write_bytes(b"no zip")
    x = np.zeros((20, 1, 8, 8), np.float32)
    np.savez("plain.npz", x=x)
    np.savez("few.npz", x=x, labels=np.arange(20) % 3)
    np.savez("many.npz", x=x, labels=np.arange(20) % 8)
    found = run("compress", net, "out.onnx", "--dry-run", *flags.split())
    assert found[0] == code
    assert sentence in found[2]
    assert not Path("out.onnx").exists()


def test_a_missing_runtime_is_found(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeMissing("no ONNX Runtime")

    monkeypatch.setattr(rehearsal, "require_runtime", missing)
    with pytest.raises(RuntimeMissing):
        Compression().rehearse(net)


def test_nothing_to_do_is_a_note(tmp_path: Path, run: RunCommand) -> None:
    from onnx_admm.model.analysis.text import parse_text

    parse_text("""<ir_version: 10, opset_import: ["" : 17]>
        net (float[N,3] x) => (float[N,3] y) { y = Relu (x) }""").save(tmp_path / "net.onnx")
    code, out, _ = run("compress", tmp_path / "net.onnx", tmp_path / "o.onnx", "--dry-run", "--include", "w")
    assert code == 0
    assert "Note: the model has no weights to compress" in out


def test_a_profile_stands_alone() -> None:
    assert cost_model("raspberry-pi-4") == cost_model("roofline:raspberry-pi-4")
    changed = cost_model("raspberry-pi-4,bandwidth_gb_s=1.0")
    assert changed == cost_model("roofline:raspberry-pi-4,bandwidth_gb_s=1.0") != cost_model("raspberry-pi-4")
