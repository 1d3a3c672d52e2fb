"""What opening a compressed model takes, beside the same model as floats.

    python benchmarks/loading.py OUT.json [MODEL.onnx ...] [--made resnet50] [--made-by NAME=HOW]
        [--results NAME=RESULT.onnx ...] [--deployment PYTHON ...]

Each model is stored in several forms (``FORMS``: nearest levels and largest magnitudes; what loading takes
does not depend on the values), or a result that some command wrote is taken (``--results``). Each file is
opened in ONNX Runtime with default options and one thread, in a fresh process with nothing imported but the
runtime, in turn with the float file; medians of ``ROUNDS`` rounds. Peak memory is that of the whole process
(VmHWM, Linux). Rows of models that are not asked for stay.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from onnx_admm.contracts import ModelView, Pass, PassContext
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.passes.admm_quantize import AdmmQuantize
from onnx_admm.passes.encode import Encode

ROUNDS = 5
FORMS: dict[str, tuple[Pass, ...]] = {
    "8 bits": (AdmmQuantize(bits=8, per_channel=True),),
    "4 bits": (AdmmQuantize(bits=4, per_channel=True),),
    "2 bits": (AdmmQuantize(bits=2, per_channel=True),),
    "90 % zeros, 4 bits": (AdmmPrune(keep=0.1), AdmmQuantize(bits=4, per_channel=True)),
    "90 % zeros": (AdmmPrune(keep=0.1),),
}

OPEN = """
import json, sys, time
import onnxruntime
def megabytes(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
before, wall, cpu = megabytes("VmRSS"), time.perf_counter(), time.process_time()
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"onnxruntime": onnxruntime.__version__, "s": wall, "cpu_s": cpu, "runtime_mb": before,
                  "peak_mb": megabytes("VmHWM"), "after_mb": megabytes("VmRSS")}))
"""


def opened(python: str, files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Medians of what opening each file takes, all of them in each round."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, file in files.items():
            command = [python, "-c", OPEN, os.fspath(file)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            runs[name].append(json.loads(output.stdout))
    return {name: _medians(each) for name, each in runs.items()}


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    digits = {"s": 3, "cpu_s": 3}
    keys = [key for key in runs[0] if key != "onnxruntime"]
    medians = {key: round(statistics.median(run[key] for run in runs), digits.get(key, 1)) for key in keys}
    return {"onnxruntime": runs[0]["onnxruntime"], **medians}


def stored(model: Path, folder: Path) -> dict[str, Path]:
    """The model in each form."""
    files = {}
    for number, (name, steps) in enumerate(FORMS.items()):
        view = ModelView.load(model)
        context = PassContext(reference=view.fork())
        for step in (*steps, Encode("packed")):
            step.run(view, context)
        files[name] = folder / f"{number}.onnx"
        view.save(files[name])
    return files


def rows(model: Path, files: dict[str, Path], pythons: list[str]) -> list[dict[str, Any]]:
    """One row for each form and runtime."""
    found = []
    for python in pythons:
        figures = opened(python, {"floats": model, **files})
        base = figures["floats"]
        for name, figure in figures.items():
            ratios = {f"{key}_ratio": round(figure[key] / base[key], 2) for key in ("s", "cpu_s", "peak_mb")}
            size = (model if name == "floats" else files[name]).stat().st_size
            found.append({"form": name, "bytes": size, **figure, **ratios})
            print(json.dumps({"model": model.stem, **found[-1]}), flush=True)
    return found


def made(name: str, folder: Path) -> Path:
    """A network with random weights."""
    import large_nets
    from large_packed import uneven

    path = folder / f"{name}.onnx"
    getattr(large_nets, name)(uneven).save(path)
    return path


def main() -> None:
    """Run the models and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--made", nargs="*", default=[], help="networks of large_nets.py")
    parser.add_argument("--made-by", nargs="*", default=[], metavar="NAME=HOW")
    parser.add_argument("--results", nargs="*", default=[], metavar="NAME=RESULT")
    parser.add_argument("--deployment", nargs="*", default=[sys.executable])
    given = parser.parse_args()
    results, made_by = (
        dict(entry.split("=", 1) for entry in each) for each in (given.results, given.made_by)
    )
    report = json.loads(given.out.read_text()) if given.out.exists() else {"models": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in (*given.models, *(made(net, folder) for net in given.made)):
            files = stored(model, folder)
            if model.stem in results:
                files["bare command"] = Path(results[model.stem])
            how = {"made_by": made_by[model.stem]} if model.stem in made_by else {}
            report["models"][model.stem] = {**how, "rows": rows(model, files, given.deployment)}
            report["rounds"] = ROUNDS
            given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
