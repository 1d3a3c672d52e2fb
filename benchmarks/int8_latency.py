"""Latency of integer activations beside onnxruntime's own quantiser, in one run; results as JSON.

    python benchmarks/int8_latency.py OUT.json --model MODEL CALIBRATION.npz TEST.npz PREPROCESSING ...
        [--made MODEL NAME FILE ...]

`--made` adds a file that was made before, by a recipe or by another tool, under a name. To be run in the
runtime that deploys. PREPROCESSING is a TOML file, or ``-``. Forms of each model:

- ``pass``: ``quantize_activations`` alone, on weights as they are.
- ``command``: the bare command with the calibration samples: weights rounded and packed too.
- ``static``: ``quantize_static``, QDQ, per channel, uint8 activations, int8 weights, extremes as ranges.
- ``by_hand``: the same with the first convolution in float; ``convolutions``: convolutions alone.

Latency: batch 1, one thread, processor time, all forms in random order in each round, after an untimed run;
the median over rounds of a form's time over the original's in the same round. Accuracy: of the written file
on the test samples, at the default session.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import onnx_admm
from onnx_admm.contracts import Dataset, PassContext
from onnx_admm.data import as_preprocessing, split_dataset
from onnx_admm.data.anything import as_dataset
from onnx_admm.model import ModelView
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.passes.exact.fold_batchnorm import FoldBatchNorm
from onnx_admm.passes.exact.fold_bias import FoldBias
from onnx_admm.passes.quantize_activations import QuantizeActivations
from onnx_admm.pipeline import Pipeline
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.runtime.feeding import feed_at
from onnx_admm.runtime.sessions import open_session, optimised_model, runtime_versions

_VALIDATION, _ROUNDS, _ROUND_S = 0.1, 151, 1e-3

Form = Callable[["Case", Path], None]


class Case:
    """One model, its samples, and files that were made of it before."""

    def __init__(
        self, model: str, calibration: str, test: str, preprocessing: str, files: Mapping[str, str]
    ) -> None:
        self.files = files
        self.path, self.calibration, self.preprocessing = Path(model), calibration, preprocessing
        self.view = ModelView.load(model)
        self.train = self._open(calibration, "train")
        self.test = self._open(test, "test")

    def _open(self, path: str, part: Any) -> Dataset:
        steps = None if self.preprocessing == "-" else as_preprocessing(self.preprocessing)
        return as_dataset(path, self.view, preprocessing=steps, part=part, label=None)


def by_pass(case: Case, target: Path) -> None:
    """``quantize_activations`` behind exact folds."""
    train, validation = split_dataset(case.train, _VALIDATION, 0)
    context = PassContext(reference=case.view, train=train, validation=validation)
    steps = [FoldBatchNorm(), FoldBias(), QuantizeActivations()]
    Pipeline(steps).run(case.view, context).model.save(target)


def by_command(case: Case, target: Path) -> None:
    """The bare command."""
    steps = None if case.preprocessing == "-" else case.preprocessing
    onnx_admm.compress(case.path, target, data=case.calibration, preprocessing=steps, threads=1)


def static(exclude_first: bool = False, operators: list[str] | None = None) -> Form:
    """``quantize_static``."""

    def quantise(case: Case, target: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.feeds: Iterator[Any] = (batch.feeds for batch in case.train.batches(1))

            def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
                return next(self.feeds, None)

        prepared = target.with_suffix(".prepared.onnx")
        quant_pre_process(str(case.path), str(prepared), skip_symbolic_shape=True)
        proto = onnx.load(prepared)
        for number, node in enumerate(proto.graph.node):
            node.name = node.name or f"node_{number}"
        onnx.save(proto, prepared)
        first = next(node.name for node in proto.graph.node if node.op_type == "Conv")
        quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[first] if exclude_first else [],
            op_types_to_quantize=operators,
        )
        prepared.unlink()

    return quantise


FORMS: Mapping[str, Form] = {
    "pass": by_pass,
    "command": by_command,
    "static": static(),
    "by_hand": static(exclude_first=True),
    "convolutions": static(operators=["Conv"]),
}


def measure(case: Case) -> dict[str, Any]:
    """Make all forms of a model, and measure them together."""
    with tempfile.TemporaryDirectory() as folder:
        made, seconds = {"original": case.path}, dict[str, float]()
        failed: dict[str, str] = {}
        for name, file in case.files.items():
            made[name] = Path(file)
        for name, form in FORMS.items():
            target = Path(folder) / f"{name}.onnx"
            started = time.perf_counter()
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    form(case, target)
                open_session(target, threads=1)
            except Exception as error:  # noqa: BLE001 (another tool's failure is a result)
                failed[name] = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            made[name], seconds[name] = target, time.perf_counter() - started
        ratios, times = latencies(case, made)
        rows = {}
        for name, path in made.items():
            quality = evaluate(path, case.test, reference=case.path, threads=1)
            rows[name] = {
                "latency_ratio": round(ratios[name], 4),
                "latency_us": round(times[name], 1),
                "accuracy": quality.accuracy,
                "agreement": quality.agreement,
                "sqnr_db": quality.sqnr_db,
                "file_bytes": path.stat().st_size,
                "kernels": kernel_counts(optimised_model(path.read_bytes())),
                **({"seconds": round(seconds[name], 1)} if name in seconds else {}),
            }
    return {"forms": rows, "failed": failed, "test_samples": len(case.test)}


def latencies(case: Case, made: Mapping[str, Path]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the ratio to the original, and microseconds, of each form."""
    first = next(case.test.select(np.arange(1)).batches(1)).feeds
    sessions = {name: open_session(path, threads=1) for name, path in made.items()}
    feeds = {name: feed_at(session, first) for name, session in sessions.items()}
    spent: dict[str, list[float]] = {name: [] for name in made}
    order, names = np.random.default_rng(0), list(made)

    def run(name: str, repeats: int) -> float:
        sessions[name].run(feeds[name])
        started = time.thread_time()
        for _ in range(repeats):
            sessions[name].run(feeds[name])
        return (time.thread_time() - started) / repeats

    slowest = max(min(run(name, 1) for _ in range(3)) for name in names)
    repeats = max(1, round(_ROUND_S / slowest))
    for _ in range(_ROUNDS):
        for index in order.permutation(len(names)):
            spent[names[index]].append(run(names[index], repeats))
    ratios = {
        name: statistics.median(a / b for a, b in zip(spent[name], spent["original"], strict=True))
        for name in names
    }
    return ratios, {name: 1e6 * statistics.median(spent[name]) for name in names}


def main() -> None:
    """Write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    columns = ("MODEL", "CALIBRATION", "TEST", "PREPROCESSING")
    parser.add_argument("--model", nargs=4, action="append", required=True, metavar=columns)
    parser.add_argument("--made", nargs=3, action="append", default=[], metavar=("MODEL", "NAME", "FILE"))
    arguments = parser.parse_args()
    files: dict[str, dict[str, str]] = {}
    for model, name, file in arguments.made:
        files.setdefault(Path(model).stem, {})[name] = file
    names = [Path(each[0]).stem for each in arguments.model]
    shown = [
        part
        for flag, given in (("--model", arguments.model), ("--made", arguments.made))
        for each in given
        for part in (flag, *(Path(item).name for item in each))
    ]
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/int8_latency.py", arguments.out.name, *shown]),
        "versions": runtime_versions(),
        "machine": platform.machine(),
        "models": {},
    }
    for name, each in zip(names, arguments.model, strict=True):
        result["models"][name] = measure(Case(*each, files.get(name, {})))
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for form, row in result["models"][name]["forms"].items():
            sys.stderr.write(f"{name} {form}: {row['latency_ratio']}, {row['accuracy']}\n")


if __name__ == "__main__":
    main()
