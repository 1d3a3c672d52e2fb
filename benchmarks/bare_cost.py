"""What the bare command takes, and what opening its result takes.

    python benchmarks/bare_cost.py OUT.json MODEL... [--deployment PYTHON ...] [--made-by NAME=HOW ...]

One row a model: CPU seconds (user and system) and peak memory of

    onnx-admm compress MODEL RESULT --threads 1 --keep

in a process of its own with one thread, and of opening MODEL and RESULT in ONNX Runtime with default options
and one thread, in processes of their own, by each Python of ``--deployment``. CPU seconds and not wall-clock
time, for other work on the machine does not count in them. Peak memory is the process's, Python and libraries
included; what these take alone stands in ``python_mb``. Rows of models that are not asked for again stay.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from onnx_admm.runtime.sessions import runtime_versions

OPEN = """
import sys, time
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
started = time.process_time()
if len(sys.argv) > 1:
    onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(onnxruntime.__version__, time.process_time() - started)
"""


def measured(command: list[str]) -> tuple[float, float, str]:
    """CPU seconds, peak MB and output of a command."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime, _megabytes(usage), output


def _megabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def opened(python: str, model: Path | None) -> dict[str, Any]:
    """What opening a model takes: the least of three."""
    command = [python, "-c", OPEN, *([] if model is None else [os.fspath(model)])]
    runs = [measured(command) for _ in range(3)]
    version = runs[0][2].split()[0]
    seconds = min(float(output.split()[1]) for *_, output in runs)
    return {"onnxruntime": version, "cpu_s": round(seconds, 3), "peak_mb": round(min(r[1] for r in runs))}


def row(model: Path, pythons: list[str], made_by: str | None) -> dict[str, Any]:
    """One model, compressed and opened."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.onnx")
        program = os.fspath(Path(sys.executable).with_name("onnx-admm"))
        command = [program, "compress", os.fspath(model), os.fspath(result), "--threads", "1", "--keep"]
        seconds, peak, _ = measured(command)
        size = model.stat().st_size
        found: dict[str, Any] = {
            "model": model.stem,
            **({} if made_by is None else {"made_by": made_by}),
            "bytes": size,
            "result_bytes": result.stat().st_size,
            "cpu_s": round(seconds, 1),
            "peak_mb": round(peak),
            "peak_over_4_files_mb": round(peak - 4 * size / (1 << 20)),
            "opening": [],
        }
        for python in pythons:
            alone, before, after = (opened(python, each) for each in (None, model, result))
            found["opening"].append(
                {
                    "onnxruntime": after["onnxruntime"],
                    "python_mb": alone["peak_mb"],
                    "cpu_s_before": before["cpu_s"],
                    "cpu_s": after["cpu_s"],
                    "peak_mb_before": before["peak_mb"],
                    "peak_mb": after["peak_mb"],
                }
            )
    return found


def main() -> None:
    """Run the models and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--deployment", nargs="*", default=[sys.executable])
    parser.add_argument("--made-by", nargs="*", default=[], metavar="NAME=HOW")
    given = parser.parse_args()
    made_by = dict(entry.split("=", 1) for entry in given.made_by)
    report = json.loads(given.out.read_text()) if given.out.exists() else {"rows": []}
    for model in given.models:
        new = row(model, given.deployment, made_by.get(model.stem))
        print(json.dumps(new))
        report["rows"] = sorted(
            [*(old for old in report["rows"] if old["model"] != new["model"]), new], key=lambda r: r["model"]
        )
        report["command"] = "onnx-admm compress MODEL RESULT --threads 1 --keep (OMP_NUM_THREADS=1)"
        report["versions"] = {**runtime_versions(), "python": platform.python_version()}
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
