"""The bare command on every model of a folder, with and without calibration samples.

    python benchmarks/bare.py MODELS SETS PREPARED OUT.json [--only NAME ...] [--ways bare calibrated]
        [--deployment PYTHON] [--once]

MODELS holds ``.onnx`` files, SETS small labelled sets (``magika.npz``, ``hand_keypoint.npz``,
``iris_winml.npz``), PREPARED what ``prepare.py`` and ``prepare_files.py`` write (``mnist-*.npz``,
``cifar10-*.npz``, ``magika-calib.npz``). Each row is one run of

    onnx-admm compress IN OUT --threads 1                    (bare)
    onnx-admm compress IN OUT --threads 1 --data CALIB       (calibrated: unlabelled samples)

in a process of its own, or the sentence it was refused with. CALIB holds real samples where the model's are
known (``real_samples.py``), else made-up ones with a seed that the command does not use. The written file is
judged by ``--deployment``, a Python with a current onnxruntime, on made-up inputs with a third seed and on
labelled samples where there are any (models that draw random numbers or choose rows by scores in the form in
which they do so alike in every run); then it is compressed again the same way, which must change nothing
(left out with ``--once``).

A row is held to what the command promises: ``short`` names what it misses. Probabilities that are all but
zero whatever the input tell nothing: what goes into the Sigmoid counts then (``scores_db``, of both files
with that as another output). A model whose stored shapes contradict its graph is compared without them: the
runtime believes them, and computes something else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from real_samples import Samples, real_samples

from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.data import limit_samples, synthetic_dataset
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.local_files.named_arrays import write_npz
from onnx_admm.model.analysis.shapes import forget_wrong_shapes
from onnx_admm.model.rewrite.comparing.fixed_choices import choosing_operators, with_fixed_choices
from onnx_admm.model.rewrite.comparing.fixed_draws import random_operators, with_fixed_draws
from onnx_admm.model.rewrite.expose_logits import counting_outputs, score_name, with_scores
from onnx_admm.runtime.sessions import runtime_versions
from onnx_admm.selection.layers import usable_layers

SEED_CALIBRATION, SEED_UNSEEN = 1001, 2002
MOST_SAMPLES, LEAST_SAMPLES, MOST_MACS = 256, 4, 1 << 37
ALL_BUT_ZERO = 1e-6
SMALL_FILE, MOSTLY_WEIGHTS = 200_000, 0.9
LEAST_RATIO, LEAST_SQNR_DB, LEAST_AGREEMENT, SLOWER = 3.0, 20.0, 0.99, 1.05


def made_up(model: ModelView, seed: int, most: int = MOST_SAMPLES) -> Samples:
    """Random samples as the command makes them; fewer where a run is expensive."""
    return arrays(limit_samples(model, synthetic_dataset(model, most, seed), MOST_MACS, LEAST_SAMPLES))


def arrays(data: Dataset) -> Samples:
    """Everything a data set holds."""
    return dict(next(data.batches(len(data))).feeds)


def compress(source: Path, target: Path, calib: Path | None) -> dict[str, Any]:
    """One command: seconds, peak memory and the report, or the sentence it was refused with."""
    report = target.with_suffix(".json")
    for old in (target, report):
        old.unlink(missing_ok=True)
    tool = str(Path(sys.executable).with_name("onnx-admm"))
    command = [tool, "compress", str(source), str(target), "--threads", "1", "-q", "--report", str(report)]
    command += [] if calib is None else ["--data", str(calib)]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        said = " ".join(stderr.read().split())
    row: dict[str, Any] = {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": usage.ru_maxrss // 1024,
        "exit_code": process.returncode,
    }
    if process.returncode:
        return row | {"refused": said.replace(str(source.parent) + "/", "")}
    return row | _said(json.loads(report.read_text()))


def _said(report: dict[str, Any]) -> dict[str, Any]:
    """What the report says of the layers."""
    chosen = next(step for step in report["steps"] if step["name"] == "auto_quantize")
    shared = next(step for step in report["steps"] if step["name"] == "share_constants")
    lines = {**shared["edits"], **chosen["edits"], **chosen["skipped"]}
    integers = [step["edits"] for step in report["steps"] if step["name"] == "quantize_activations"]
    return {
        "format": next(step for step in report["steps"] if step["name"] == "encode")["figures"].get("format"),
        "layers": len(lines),
        "rounded": len(chosen["edits"]),
        "integers": sum(len(edits) for edits in integers),
        "roundings": dict(Counter(line.split(":")[0] for line in chosen["edits"].values()).most_common()),
        "left": dict(Counter(_plain(line) for line in chosen["skipped"].values()).most_common()),
    }


def _plain(line: str) -> str:
    """A sentence without its figures, so that equal ones count together."""
    return " ".join("N" if any(map(str.isdigit, word)) else word for word in line.split())


def judge(
    source: Path, target: Path, unseen: Path, test: Path | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The file in the deployment runtime."""
    done = compared(arguments, source, target, unseen, *([] if test is None else [test]))
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"loads": False, "why": said[-1]}
    figures: dict[str, Any] = json.loads(done.stdout)
    if counting_outputs(ModelView.load(source)):
        figures["scores_db"] = scores_db(source, target, unseen, arguments)
        figures["sqnr_db"] = {}  # a count tells little
    elif min(figures["rms"].values(), default=0.0) < ALL_BUT_ZERO:
        figures["scores_db"] = scores_db(source, target, unseen, arguments)
    return {"loads": True, **figures}


def judged(
    source: Path, target: Path, unseen: Path, test: Path | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The file in the deployment runtime; errors of the form in which models draw and choose alike."""
    row, pair = judge(source, target, unseen, test, arguments), steady(source, target)
    if pair == (source, target) or not row["loads"]:
        return row
    found = judge(*pair, unseen, None, arguments)
    return row | {key: found[key] for key in ("sqnr_db", "rms", "agreement", "scores_db") if key in found}


def steady(source: Path, target: Path) -> tuple[Path, Path]:
    """Both files, or copies that draw the same numbers and choose the same rows in every run."""
    first, second = ModelView.load(source), ModelView.load(target)
    if not random_operators(first) and not choosing_operators(first, second):
        return source, target
    pair = target.with_name("steady-before.onnx"), target.with_name("steady-after.onnx")
    for path, own, other in zip(pair, (first, second), (second, first), strict=True):
        path.write_bytes(with_fixed_draws(with_fixed_choices(own, other)).to_bytes())
    return pair


def scores_db(source: Path, target: Path, unseen: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Ratios of what goes into closing Sigmoids and the like."""
    pair = target.with_name("scores-before.onnx"), target.with_name("scores-after.onnx")
    for path, written in zip((source, target), pair, strict=True):
        written.write_bytes(with_scores(ModelView.load(path)).to_bytes())
    done = compared(arguments, *pair, unseen)
    done.check_returncode()
    ratios: dict[str, float] = json.loads(done.stdout)["sqnr_db"]
    return {name: ratio for name, ratio in ratios.items() if score_name("") in name}


def compared(arguments: argparse.Namespace, *paths: Path) -> subprocess.CompletedProcess[str]:
    """``deployed_pair.py`` in the deployment runtime."""
    script = Path(__file__).with_name("deployed_pair.py")
    return subprocess.run(
        [arguments.deployment, str(script), *map(str, paths)], capture_output=True, text=True
    )


def facts(path: Path) -> dict[str, Any]:
    """The original's bytes, and how many of them are learned weights: transforms stay as they are."""
    row: dict[str, Any] = {"bytes": path.stat().st_size}
    try:
        view = ModelView.load(path)
    except OnnxAdmmError:
        return row
    learned, transforms = usable_layers(view, view.sites())
    stored = Counter[str]()
    for site in learned:
        stored[site.dtype] += site.size * np.dtype(site.dtype).itemsize
    return row | {"weight_bytes": dict(stored), "layers": len(learned) + len(transforms)}


def shortfalls(before: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """What a row misses of what the command promises."""
    if "refused" in row:
        return []
    if not row["loads"]:
        return ["does not load"]
    must = before["weight_bytes"].get("float32", 0) >= MOSTLY_WEIGHTS * before["bytes"] > SMALL_FILE
    told = [ratio for name, ratio in row["sqnr_db"].items() if row["rms"][name] >= ALL_BUT_ZERO]
    told += row.get("scores_db", {}).values()
    keeps = bool(told) and min(told) >= LEAST_SQNR_DB
    agrees = row["agreement"] is not None and row["agreement"] >= LEAST_AGREEMENT
    found = {
        f"under {LEAST_RATIO}x": must and row["ratio"] < LEAST_RATIO,
        "outputs change": not (keeps or agrees),
        "larger": row["bytes"] > before["bytes"],
        "slower": row["latency_ratio"] > SLOWER,
        "a second run changes it": not row.get("second_run_same", True),
        "layers without a line": row["layers"] < before["layers"],
    }
    return [what for what, missed in found.items() if missed]


def rows_of(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both ways for one model."""
    result: dict[str, Any] = {"original": facts(path)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = real_samples(path.stem, arguments.sets, arguments.prepared)
        unseen, calib, test = folder / "unseen.npz", folder / "calib.npz", None
        try:
            model = ModelView.load(path)
            write_npz(unseen, made_up(model, SEED_UNSEEN))
            write_npz(calib, real.calibration if real else made_up(model, SEED_CALIBRATION))
            before = path
            if forget_wrong_shapes(model):
                model.save(before := folder / f"{path.stem}-right.onnx")
            result["stored_shapes"] = "right or none" if before is path else "wrong, left out to compare"
        except OnnxAdmmError:
            return result | {"bare": compress(path, folder / path.name, None)}
        if real:
            write_npz(test := folder / "test.npz", real.test)
        for way in arguments.ways:
            data = calib if way == "calibrated" else None
            row = compress(path, out := folder / f"{path.stem}-{way}.onnx", data)
            if "refused" not in row:
                row["bytes"] = out.stat().st_size
                row["ratio"] = round(result["original"]["bytes"] / row["bytes"], 2)
                row |= judged(before, out, unseen, test, arguments)
                if not arguments.once:
                    again = folder / f"{out.stem}-again.onnx"
                    second = compress(out, again, data)
                    same = not second["exit_code"] and again.read_bytes() == out.read_bytes()
                    row["second_run_same"] = same
            row["short"] = shortfalls(result["original"], row)
            result[way] = row
    return result | ({"calibrated_on": "real" if real else "made up"} if "calibrated" in result else {})


def main() -> None:
    """Run what was asked; results are written after each model, so that none is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("models", "sets", "prepared", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--ways", nargs="*", default=["bare", "calibrated"])
    parser.add_argument("--deployment", default=sys.executable)
    parser.add_argument("--once", action="store_true", help="do not compress results again")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results |= {"versions": runtime_versions(), "machine": platform.machine()}
    results["command"] = "onnx-admm compress IN OUT --threads 1 [--data CALIB]"
    models = results.setdefault("models", {})
    for path in sorted(arguments.models.glob("*.onnx")):
        if arguments.only and path.stem not in arguments.only:
            continue
        models[path.stem] = models.get(path.stem, {}) | rows_of(path, arguments)
        print(path.stem, json.dumps(models[path.stem]), flush=True)
        results["models"] = dict(sorted(models.items()))
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
