"""What lint finds in files that other tools write, and what mending them gains.

    python benchmarks/lint_rivals.py OUT.json MODEL.onnx... --makers PYTHON

PYTHON has onnxruntime, and nncf and onnxsim where their files are wanted; a maker that fails is listed with
its reason. Calibration samples are made up: accuracy is no subject here, form is. Each file is linted, mended
and timed before and after in this process's onnxruntime: one thread, processor time, the two in turns; and
beside the original in fp32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = 16
MAKERS = (
    "dynamic", "dynamic-uint8", "static", "static-uint8", "static-per-channel", "static-qoperator",
    "weights-4-bits", "nncf", "onnxsim",
)  # fmt: skip


# -- in the makers' Python -------------------------------------------------------------------


def make(maker: str, source: str, target: str, samples: str) -> None:
    """Write one file by another tool."""
    feeds = dict(np.load(samples))
    rows = [{name: array[i : i + 1] for name, array in feeds.items()} for i in range(SAMPLES)]
    if maker == "nncf":
        import nncf
        import onnx

        onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(rows), subset_size=SAMPLES), target)
    elif maker == "onnxsim":
        import onnx
        import onnxsim

        onnx.save(onnxsim.simplify(onnx.load(source))[0], target)
    elif maker == "weights-4-bits":
        import onnx
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits
        from onnxruntime.quantization.quant_utils import QuantFormat

        job = nbits.MatMulNBitsQuantizer(
            onnx.load(source), block_size=32, is_symmetric=True, quant_format=QuantFormat.QDQ
        )
        job.process()
        job.model.save_model_to_file(target)
    else:
        _quantise(maker, source, target, rows)


def _quantise(maker: str, source: str, target: str, rows: list[dict[str, Any]]) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(rows)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rows, None)

    if maker.startswith("dynamic"):
        kind = QuantType.QUInt8 if maker.endswith("uint8") else QuantType.QInt8
        quantize_dynamic(source, target, weight_type=kind)
        return
    uint8 = QuantType.QUInt8
    settings: dict[str, Any] = {
        "static": {},
        "static-uint8": {"activation_type": uint8, "weight_type": uint8},
        "static-per-channel": {"activation_type": uint8, "per_channel": True},
        "static-qoperator": {
            "activation_type": uint8,
            "weight_type": uint8,
            "quant_format": QuantFormat.QOperator,
        },
    }[maker]
    quantize_static(source, target, Reader(), **settings)


# -- here ------------------------------------------------------------------------------------


def row(model: Path, maker: str, python: str, folder: Path) -> dict[str, Any]:
    """Make one file, lint and mend it, and time all three."""
    import onnx_admm

    target, mended = folder / f"{model.stem}-{maker}.onnx", folder / f"{model.stem}-{maker}-mended.onnx"
    command = [python, __file__, "--make", maker, str(model), str(target), str(folder / f"{model.stem}.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    told = {"model": model.stem, "maker": maker}
    if done.returncode or not target.exists():
        return {**told, "not_made": (done.stderr.strip().splitlines() or ["no reason"])[-1][:300]}
    try:
        report = onnx_admm.lint(target, fix=mended, measure=True)
    except onnx_admm_error() as error:
        return {**told, "bytes": target.stat().st_size, "refused": str(error)}
    fix = report.fix
    return {
        **told,
        "bytes": target.stat().st_size,
        "findings": dict(Counter(one.rule for one in report.findings)),
        "levels": report.counts,
        "mended": {} if fix is None else dict(fix.rules),
        "left": [] if fix is None else list(fix.left),
        "remaining": {} if fix is None else dict(Counter(one.rule for one in fix.findings)),
        "compared": "" if fix is None else fix.compared,
        "unchecked": dict(report.unchecked),
        "bytes_mended": None if fix is None else fix.bytes_after,
        "latency": None if report.measured is None else round(report.measured.ratio, 3),
        **beside_float(model, target, mended),
    }


def onnx_admm_error() -> type[Exception]:
    from onnx_admm.errors import OnnxAdmmError

    return OnnxAdmmError


def beside_float(model: Path, made: Path, mended: Path) -> dict[str, Any]:
    """Latency of the made and of the mended file over that of the original in fp32."""
    from onnx_admm.contracts import ModelView
    from onnx_admm.data import synthetic_dataset
    from onnx_admm.runtime.latency import compare_latency

    feeds = next(iter(synthetic_dataset(ModelView.load(model), 1, 0).batches(1))).feeds
    told = {}
    for name, file in (("over_float", made), ("mended_over_float", mended)):
        if file.exists():
            try:
                told[name] = round(compare_latency(model, file, feeds, threads=1).ratio, 3)
            except onnx_admm_error() as error:
                told[name] = str(error)[:200]
    return told


def calibrate(model: Path, folder: Path) -> None:
    """Write made-up samples of a model."""
    from onnx_admm.contracts import ModelView
    from onnx_admm.data import synthetic_dataset
    from onnx_admm.local_files.named_arrays import write_npz

    data = synthetic_dataset(ModelView.load(model), SAMPLES, 1)
    batches = [batch.feeds for batch in data.batches(1)]
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    write_npz(folder / f"{model.stem}.npz", arrays)


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--makers", required=True, help="Python of the other tools")
    parser.add_argument("--only", nargs="+", default=MAKERS, choices=MAKERS)
    arguments = parser.parse_args()
    from onnx_admm.runtime.sessions import runtime_versions

    versions = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in " + (
        "('onnxruntime', 'onnx', 'nncf', 'onnxsim') if any(d.name == n for d in m.distributions())}))"
    )
    made_by = json.loads(
        subprocess.run([arguments.makers, "-c", versions], capture_output=True, text=True, check=True).stdout
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            calibrate(model, Path(folder))
            for maker in arguments.only:
                rows.append(row(model, maker, arguments.makers, Path(folder)))
                print(json.dumps(rows[-1]), flush=True)
                content = {
                    "command": f"python benchmarks/lint_rivals.py OUT.json "
                    f"{' '.join(one.name for one in arguments.models)} --makers PYTHON",
                    "versions": runtime_versions(),
                    "makers": made_by,
                    "rows": rows,
                }
                arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
