"""An interrupted run: its exit code, and nothing written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_plugins import register

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
