"""Every mistake a user can make: its sentence and its exit code, and nothing written."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import RunCommand
from training_models import needs_training_build

from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime import installed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("inspect none.onnx", r"none\.onnx: no such model file"),
        ("inspect text.onnx", r"text\.onnx: not an ONNX model"),
        ("inspect .", r"a folder, not a model file"),
        ("compress none.onnx out.onnx", r"none\.onnx: no such model file"),
        ("compress net.onnx net.onnx", r"the result would overwrite the model"),
        ("compress net.onnx nowhere/out.onnx", r"the folder for the result does not exist"),
        ("compress net.onnx out.onnx --data wrong_name.npz", r"(?s)image.*"),
        ("compress net.onnx out.onnx --data short_labels.npz", r"labels"),
        ("compress net.onnx out.onnx --data none.npz", r"none\.npz: no such file or folder of data"),
        (
            "compress net.onnx out.onnx --recipe unknown_pass.toml",
            r"unknown pass 'scal'.*Did you mean 'scale'",
        ),
        ("compress net.onnx out.onnx --recipe bad_key.toml", r"unknown key 'faktor'.*Did you mean 'factor'"),
        ("compress net.onnx out.onnx --recipe none.toml", r"none\.toml: cannot read the file"),
        (
            "compress net.onnx out.onnx --data wrong_shape.npz",
            r"x: data of another shape than the input; got \[n, 1, 9, 8\]; expected \[N, 1, 8, 8\]",
        ),
        (
            "compress net.onnx out.onnx --data not_finite.npz",
            r"x, sample 3: a value that is not finite",
        ),
        ("compress net.onnx out.onnx --bits 4 --memory 0", r"--memory: a number out of range; got 0"),
        ("compress net.onnx out.onnx --prune 0x", r"--prune: impossible pruning target; got '0x'"),
        ("compress net.onnx out.onnx --prune 1.5", r"--prune: impossible pruning target; got '1.5'"),
        ("compress net.onnx out.onnx --prune 5:4", r"--prune: impossible pruning target; got '5:4'"),
        ("compress net.onnx out.onnx --bits 9", r"--bits: impossible number of bits; got 9"),
        ("compress net.onnx out.onnx --bits 4 --epochs -1", r"--epochs: impossible number of epochs; got -1"),
        ("compress net.onnx out.onnx --format zip", r"zip"),
        ("compress net.onnx out.onnx --max-drop 1", r"--max-drop: no samples to measure a drop on"),
        ("compress net.onnx out.onnx --preprocessing none.toml", r"none\.toml: cannot read the file"),
        (
            "annotate net.onnx out.onnx --cost-model storag",
            r"unknown cost model 'storag'.*Did you mean 'storage'",
        ),
        ("annotate net.onnx out.onnx --cost-model macs", r"depend on an open axis; got N\..* --bind N=1\."),
        ("inspect net.onnx --cost-model macs", r"depend on an open axis; got N\..* --bind N=1\."),
        ("inspect net.onnx --cost-model macs --bind M=1", r"M: no input has that open axis; expected .* N"),
        (
            "inspect net.onnx --cost-model macs --bind N",
            r"--bind: not a binding; got 'N'",
        ),
        ("inspect net.onnx --cost-model macs --bind N=0", r"N: an axis needs a positive extent; got 0"),
        ("inspect net.onnx --bind N=1", r"--bind and --quantity need --cost-model"),
        (
            "inspect net.onnx --cost-model macs --bind N=1 --quantity latency_s",
            r"the cost model does not give that quantity; got latency_s; expected one of macs, mac_bits",
        ),
        (
            "inspect net.onnx --cost-model macs --figure macs",
            r"unknown flag '--figure'. It is called '--quantity'",
        ),
        (
            "inspect net.onnx --cost-model macs --figure=macs",
            r"unknown flag '--figure'. It is called '--quantity'",
        ),
        ("inspect net.onnx --cost-model roofline", r"'roofline' needs a profile; .* raspberry-pi-4"),
        (
            "inspect net.onnx --cost-model roofline:raspbery-pi-4",
            r"unknown profile 'raspbery-pi-4' of the cost model 'roofline'.*Did you mean 'raspberry-pi-4'",
        ),
        ("inspect net.onnx --cost-model roofline:none.toml", r"none\.toml: cannot read the file"),
        ("inspect net.onnx --cost-model roofline:text.onnx", r"unknown profile 'text\.onnx'"),
        ("inspect net.onnx --cost-model roofline:board.toml", r"the key 'bandwidth_gb_s' is missing"),
        (
            "compress net.onnx out.onnx --cost-model admm-nn,curv=analytic",
            r"unknown key 'curv'.*Did you mean 'curve'",
        ),
        (
            "compress net.onnx out.onnx --recipe bad_target.toml",
            r"key 'cost_model': unknown cost model",
        ),
        ("compare net.onnx net.onnx --max-drop -1", r"--max-drop: a number out of range; got -1.0"),
        ("compare net.onnx none.onnx", r"none\.onnx: no such model file"),
    ],
)
def test_each_mistake_has_a_sentence_and_exit_code_2(
    run: RunCommand,
    net: Path,
    samples: Path,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(net.parent)
    Path("text.onnx").write_text("I am no model.")
    images = np.load(samples)["x"]
    np.savez("wrong_name.npz", image=images)
    np.savez("wrong_shape.npz", x=images.repeat(2, axis=2)[:, :, :9])
    np.savez("not_finite.npz", x=np.where(np.arange(len(images))[:, None, None, None] == 3, np.nan, images))
    np.savez("short_labels.npz", x=images, labels=np.zeros(7, np.int64))
    Path("unknown_pass.toml").write_text('[[pass]]\nname = "scal"')
    Path("bad_key.toml").write_text('[[pass]]\nname = "scale"\nfaktor = 1.0')
    Path("bad_target.toml").write_text('cost_model = "storag"')
    Path("board.toml").write_text('device = "a board"\npeak_gmac_s = { float32 = 1 }')
    before = sorted(os.listdir())
    code, out, err = run(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(sentence, err), err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "arguments", ["", "compres", "compress net.onnx", "compress a b --prun 2x", "compress a b --seed x"]
)
def test_wrong_usage_is_2(run: RunCommand, arguments: str) -> None:
    code, _, err = run(*arguments.split())
    assert code == 2
    assert "Traceback" not in err


def test_no_runtime_is_a_sentence(run: RunCommand, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "installed_runtimes", dict)
    code, _, err = run("compress", net, net.parent / "out.onnx")
    assert code == 2
    assert err == (
        'error: no ONNX Runtime found: pip install "onnx-admm[runtime]" (or, on Python 3.11-3.12 and for '
        '--trainer onnxruntime-training, "onnx-admm[training]")\n'
    )
    assert run("inspect", net)[0] == 0
    assert run("annotate", net, net.parent / "noted.onnx")[0] == 0


def test_two_runtimes_are_a_sentence(run: RunCommand, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.32.0", "onnxruntime-training-cpu": "1.19.2"}
    monkeypatch.setattr(installed, "installed_runtimes", lambda: both)
    code, _, err = run("compare", net, net)
    assert code == 2
    assert "onnxruntime and onnxruntime-training-cpu are both installed" in err
    assert "Repair: pip uninstall" in err


def test_disk_full_is_1(run: RunCommand, net: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(os.listdir(net.parent))
    code, _, err = run("compress", net, net.parent / "out.onnx", "--recipe", recipe)
    assert code == 1
    assert "cannot write (No space left on device)" in err
    assert sorted(os.listdir(net.parent)) == before


@pytest.mark.parametrize("asked", [(), ("--bits", "4"), ("--prune", "2x", "--no-fine-tune")])
@pytest.mark.parametrize("flag", ["--include", "--exclude"])
def test_no_such_layer_is_2(run: RunCommand, net: Path, flag: str, asked: tuple[str, ...]) -> None:
    target = net.parent / "out.onnx"
    code, _, err = run("compress", net, target, *asked, flag, "conv*")
    assert code == 2
    sentence = r"error: pass .*: no layer matches; got conv\*; expected some of w1, w2, w3\n"
    assert re.fullmatch(sentence, err), err
    assert not target.exists()


WIDE = """
    <ir_version: 10, opset_import: ["" : 17]>
    wide (float[N,8] x) => (float[N,3] y) <float[8,256] w1, float[256,3] w2>
    {
        a = MatMul (x, w1)
        b = Exp (a)
        y = MatMul (b, w2)
    }"""


@pytest.mark.parametrize(
    ("largest", "flags", "code", "sentence"),
    [
        (
            1e4,
            (),
            2,
            "w2: the inputs of this layer are not finite on the samples, or too",
        ),
        (
            1.0,
            ("--memory", "1"),
            1,
            "w2: its statistics do not fit into the allowed memory; got 1 MiB; expected 4",
        ),
    ],
)
def test_a_layer_that_cannot_be_rebuilt_is_named(
    run: RunCommand, tmp_path: Path, largest: float, flags: tuple[str, ...], code: int, sentence: str
) -> None:
    parse_text(WIDE).save(tmp_path / "wide.onnx")
    x = np.random.default_rng(0).uniform(-largest, largest, (64, 8)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)
    target = tmp_path / "out.onnx"
    asked = ("--data", tmp_path / "calib.npz", "--bits", "4", "--no-fine-tune", *flags)
    found, _, err = run("compress", tmp_path / "wide.onnx", target, *asked)
    assert (found, err.count("\n")) == (code, 1), err
    assert sentence in err
    assert not target.exists()


@needs_training_build
def test_no_gradient_is_1(run: RunCommand, tmp_path: Path) -> None:
    parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[N,8] x) => (float[N,3] y) <float[8,6] w1, float[6,3] w2>
        {
            a = MatMul (x, w1)
            r = HardSwish (a)
            y = MatMul (r, w2)
        }""").save(tmp_path / "net.onnx")
    data, target = tmp_path / "train.npz", tmp_path / "out.onnx"
    np.savez(data, x=np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    asked = ("--data", data, "--prune", "2x", "--fine-tune", "--trainer", "onnxruntime-training")
    code, _, err = run("compress", tmp_path / "net.onnx", target, *asked)
    assert code == 1
    assert err.startswith("error: pass ")
    assert "HardSwish" in err
    assert not target.exists()


def test_a_bug_is_a_sentence_and_its_traceback_on_request(
    run: RunCommand, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise LookupError("oops")

    monkeypatch.setattr("onnx_admm.api.inspect_model", bug)
    code, _, err = run("inspect", net)
    assert code == 1
    assert err == "error: unexpected LookupError: oops (a bug; ONNX_ADMM_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("ONNX_ADMM_TRACEBACK", "1")
    assert "Traceback" in run("inspect", net)[2]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--prune abc", "impossible pruning target"),
        ("--metric top-0 --data train.npz", "no such metric"),
        ("--seed -1", "--seed"),
        ("--max-drop 1", "no samples to measure a drop on"),
    ],
)
def test_flags_are_checked_before_the_runtime_is_looked_for(
    flags: str, sentence: str, net: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing the runtime takes as long as all that comes before."""
    monkeypatch.setattr(
        importlib.import_module("onnx_admm.api.compress"),
        "require_runtime",
        lambda: pytest.fail("looked for"),
    )
    code, _, error = run("compress", net, net.parent / "out.onnx", *flags.split())
    assert code == 2
    assert sentence in error
