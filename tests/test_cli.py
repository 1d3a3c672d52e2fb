"""The command line: what it prints, what it exits with, what it says to each mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_plugins import register, scale_is_registered

from onnx_admm import cli
from onnx_admm.contracts import ModelView
from onnx_admm.model.text import parse_text
from onnx_admm.report import Report
from onnx_admm.runtime import installed
from onnx_admm.runtime.sessions import open_session

__all__ = ["scale_is_registered"]

COMMANDS = ("compress", "inspect", "annotate", "compare", "plugins")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("inspect", path)``: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


@pytest.fixture
def net(tiny_conv: ModelView, tmp_path: Path) -> Path:
    tiny_conv.metadata["documentation"] = "A net. " * 40
    tiny_conv.save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def samples(net: Path, tmp_path: Path) -> Path:
    """Labelled by the model itself: it is always right."""
    images = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32)
    scores = open_session(net, threads=1).run({"x": images})["scores"]
    np.savez(tmp_path / "train.npz", x=images, labels=scores.argmax(axis=1))
    return tmp_path / "train.npz"


@pytest.fixture
def recipe(tmp_path: Path, scale_is_registered: None) -> Path:
    """Scales by 0.9, and leaves no trace that would make the file larger."""
    (tmp_path / "recipe.toml").write_text(
        'fine_tune = false\nprovenance = false\n[[pass]]\nname = "scale"\nfactor = 0.9\n'
    )
    return tmp_path / "recipe.toml"


# -- help -------------------------------------------------------------------------------------


def test_help_teaches(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for piece in (*COMMANDS, "onnx-admm compress net.onnx small.onnx", "Exit codes: 0 done; 1 "):
        assert piece in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"\n  onnx-admm {command}" in out or f"\n    onnx-admm {command}" in out
    assert "\b" not in out


def test_every_flag_of_an_example_exists(run: Run) -> None:
    for command in COMMANDS:
        _, out, _ = run(command, "--help")
        options = out[out.index("Options:") :]
        for example in re.findall(rf"onnx-admm {command} (.*)", out):
            for flag in re.findall(r"--[a-z-]+", example):
                assert flag in options, f"{command}: {flag}"


def test_short_help_is_not_cut(run: Run) -> None:
    _, out, _ = run("--help")
    assert "..." not in out[out.index("Commands:") :]


def test_version(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert re.fullmatch(r"onnx-admm \d+\.\d+\.\d+\n", out)


def test_help_needs_no_runtime_and_is_quick() -> None:
    """Nothing heavy is imported before a command runs."""
    heavy = ["onnx", "onnx_ir", "onnxruntime", "scipy", "pydantic_core", "numpy"]
    script = (
        "import sys, onnx_admm.cli as c\n"
        "try: c.main(['compress', '--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy} if m in sys.modules and m != 'pydantic_core'], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


# -- commands ---------------------------------------------------------------------------------


def test_compress_reports_and_writes(run: Run, net: Path, samples: Path, recipe: Path) -> None:
    target, report = net.parent / "small.onnx", net.parent / "report.json"
    code, out, err = run(
        "compress", net, target, "--data", samples, "--test", samples, "--recipe", recipe, "--report", report,
        "--threads", 1, "-v",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for piece in (
        "file bytes",
        "accuracy (validation, 6 samples)",
        "accuracy (test, 60 samples)",
        "latency, us",
    ):
        assert piece in out
    assert f"{target} written in" in out
    assert ModelView.load(target).read("w1").shape == (4, 1, 3, 3)
    assert Report.from_json(report.read_text()).seed == 0


def test_quiet_says_nothing(run: Run, net: Path, recipe: Path) -> None:
    assert run("compress", net, net.parent / "small.onnx", "--recipe", recipe, "-q") == (0, "", "")


def test_dry_run_writes_nothing(run: Run, net: Path, samples: Path, recipe: Path) -> None:
    before = sorted(os.listdir(net.parent))
    code, out, _ = run(
        "compress", net, net.parent / "s.onnx", "--data", samples, "--recipe", recipe, "--dry-run"
    )
    assert code == 0
    assert "factor = 0.9" in out
    assert "train: 54 samples" in out
    assert "Dry run: nothing was run or written." in out
    assert sorted(os.listdir(net.parent)) == before


def test_over_budget_is_3(run: Run, net: Path, samples: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("0.9", "-1.0"))
    target = net.parent / "small.onnx"
    arguments = ["compress", net, target, "--data", samples, "--val", samples, "--recipe", recipe]
    code, out, err = run(*arguments, "--max-drop", 5)
    assert code == 3
    assert "file bytes" in out
    assert re.fullmatch(r"error: accuracy drops by .* over the budget of 5\. .*--keep writes it\.\n", err)
    assert not target.exists()
    assert run(*arguments, "--max-drop", 5, "--keep", "-q")[0] == 3
    assert target.exists()
    assert run(*arguments, "--max-drop", 100, "-q")[0] == 0


def test_inspect(run: Run, net: Path) -> None:
    code, out, _ = run("inspect", net)
    assert code == 0
    assert "4x1x3x3" in out
    assert "net.onnx: " in out
    code, out, _ = run("inspect", net, "--json")
    assert json.loads(out)["parameters"] == 324


def test_annotate(run: Run, net: Path) -> None:
    code, out, _ = run("annotate", net, net.parent / "noted.onnx")
    assert code == 0
    assert "3 nodes annotated by 'storage'" in out
    assert "onnx_admm.storage.bytes.total" in ModelView.load(net.parent / "noted.onnx").metadata


def test_compare_is_a_gate(run: Run, net: Path, samples: Path) -> None:
    code, out, _ = run("compare", net, net, "--data", samples, "--threads", 1, "--json")
    assert code == 0
    assert json.loads(out)["quality"][0]["samples"] == 60
    code, out, err = run("compare", net, net, "--threads", 1, "--min-ratio", 2)
    assert code == 3
    assert "file bytes" in out
    assert err == "error: the file is 1.00x smaller, under the 2x asked for\n"
    assert run("compare", net, net, "--threads", 1, "--max-drop", 0, "--min-ratio", 1)[0] == 0


def test_plugins_lists_them(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = {"onnx_admm.passes": {"scale": "fake_plugins:Scale", "gone": "no_such_module:Gone"}}
    register(monkeypatch, tmp_path, entry)
    code, out, _ = run("plugins")
    assert code == 0
    for piece in (
        "fake_plugins:Scale",
        "fake-plugins 1.2.3",
        "Multiplies every weight.",
        "storage",
        "broken: ",
    ):
        assert piece in out


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("inspect none.onnx", r"none\.onnx: no such model file"),
        ("inspect text.onnx", r"text\.onnx: not an ONNX model"),
        ("inspect .", r"a folder, not a model file"),
        ("compress none.onnx out.onnx", r"none\.onnx: no such model file"),
        ("compress net.onnx net.onnx", r"would overwrite an input"),
        ("compress net.onnx nowhere/out.onnx", r"no folder to put the result into"),
        ("compress net.onnx out.onnx --data wrong_name.npz", r"(?s)image.*"),
        ("compress net.onnx out.onnx --data short_labels.npz", r"labels"),
        ("compress net.onnx out.onnx --data none.npz", r"none\.npz: no such file or folder of data"),
        (
            "compress net.onnx out.onnx --recipe unknown_pass.toml",
            r"unknown pass 'scal'.*Did you mean 'scale'",
        ),
        ("compress net.onnx out.onnx --recipe bad_key.toml", r"unknown key 'faktor'.*Did you mean 'factor'"),
        ("compress net.onnx out.onnx --recipe none.toml", r"none\.toml: cannot read the file"),
        ("compress net.onnx out.onnx --prune 0x", r"--prune: impossible pruning target; got '0x'"),
        ("compress net.onnx out.onnx --prune 1.5", r"--prune: impossible pruning target; got '1.5'"),
        ("compress net.onnx out.onnx --prune 5:4", r"--prune: impossible pruning target; got '5:4'"),
        ("compress net.onnx out.onnx --bits 9", r"--bits: impossible number of bits; got 9"),
        ("compress net.onnx out.onnx --bits 4 --epochs -1", r"--epochs: impossible number of epochs; got -1"),
        ("compress net.onnx out.onnx --format zip", r"zip"),
        ("compress net.onnx out.onnx --max-drop 1", r"--max-drop: nothing to measure a drop on"),
        ("compress net.onnx out.onnx --preprocessing none.toml", r"none\.toml: cannot read the file"),
        (
            "annotate net.onnx out.onnx --cost-model storag",
            r"unknown cost model 'storag'.*Did you mean 'storage'",
        ),
        ("compare net.onnx net.onnx --max-drop -1", r"--max-drop: impossible budget"),
        ("compare net.onnx none.onnx", r"none\.onnx: no such model file"),
    ],
)
def test_each_mistake_has_a_sentence_and_exit_code_2(
    run: Run,
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
    np.savez("short_labels.npz", x=images, labels=np.zeros(7, np.int64))
    Path("unknown_pass.toml").write_text('[[pass]]\nname = "scal"')
    Path("bad_key.toml").write_text('[[pass]]\nname = "scale"\nfaktor = 1.0')
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
def test_wrong_usage_is_2(run: Run, arguments: str) -> None:
    code, _, err = run(*arguments.split())
    assert code == 2
    assert "Traceback" not in err


def test_no_runtime_is_a_sentence(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "installed_runtimes", dict)
    code, _, err = run("compress", net, net.parent / "out.onnx")
    assert code == 2
    assert err == (
        'error: no ONNX Runtime found: pip install "onnx-admm[training]" (everything, Python 3.11-3.12) '
        'or "onnx-admm[runtime]" (no fine-tuning)\n'
    )
    assert run("inspect", net)[0] == 0
    assert run("annotate", net, net.parent / "noted.onnx")[0] == 0


def test_two_runtimes_are_a_sentence(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.32.0", "onnxruntime-training-cpu": "1.19.2"}
    monkeypatch.setattr(installed, "installed_runtimes", lambda: both)
    code, _, err = run("compare", net, net)
    assert code == 2
    assert "onnxruntime and onnxruntime-training-cpu are both installed" in err
    assert "Repair: pip uninstall" in err


def test_disk_full_is_1(run: Run, net: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(os.listdir(net.parent))
    code, _, err = run("compress", net, net.parent / "out.onnx", "--recipe", recipe)
    assert code == 1
    assert "cannot write (No space left on device)" in err
    assert sorted(os.listdir(net.parent)) == before


def test_no_gradient_is_1(run: Run, tmp_path: Path) -> None:
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
    code, _, err = run("compress", tmp_path / "net.onnx", target, "--data", data, "--prune", "2x")
    assert code == 1
    assert err.startswith("error: pass ")
    assert "HardSwish" in err
    assert not target.exists()


def test_a_bug_is_a_sentence_and_its_traceback_on_request(
    run: Run, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise LookupError("oops")

    monkeypatch.setattr("onnx_admm.api.inspect_model", bug)
    code, _, err = run("inspect", net)
    assert code == 1
    assert err == "error: unexpected LookupError: oops (a bug; ONNX_ADMM_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("ONNX_ADMM_TRACEBACK", "1")
    assert "Traceback" in run("inspect", net)[2]


# -- signals ----------------------------------------------------------------------------------

SLOW = '''
"""A pass that takes its time."""
import time
from dataclasses import dataclass
from typing import ClassVar
from onnx_admm.contracts import PassReport

@dataclass(frozen=True)
class Slow:
    """Sleeps."""

    name: ClassVar[str] = "slow"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def requires(self, model, context): ...

    def run(self, model, context):
        print("started", flush=True)
        time.sleep(60)
        return PassReport(changed=False)
'''


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    entry = {"onnx_admm.passes": {"slow": "slow_party:Slow"}}
    register(monkeypatch, site, entry, distribution="slow-party", module=SLOW)
    (tmp_path / "recipe.toml").write_text('[[pass]]\nname = "slow"\n')
    before = sorted(os.listdir(tmp_path))
    script = "from onnx_admm.cli import main; main()"
    arguments = ["compress", "net.onnx", "out.onnx", "--recipe", "recipe.toml", "--report", "report.json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "interrupted: nothing was written" in err
    assert "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == before
