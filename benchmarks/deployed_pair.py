"""Two model files side by side in the onnxruntime of the Python that runs this; needs nothing of onnx-admm.

    python benchmarks/deployed_pair.py BEFORE.onnx AFTER.onnx FEEDS.npz [TEST.npz]

Prints JSON: on FEEDS (samples by input name) the signal-to-noise ratio of each output, its root mean square
before, and the share of equal top-1 predictions; on TEST (with ``labels``) both accuracies; latency at batch
1 on one thread, in turns, as the median ratio of a round; milliseconds to load; whether either file needs
``enable_mem_reuse`` off.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]
Samples = dict[str, Array]

_STATES = onnxruntime.capi.onnxruntime_pybind11_state
_LOADS, _WARM_UPS, _ROUNDS, _MOST_SECONDS = 4, 3, 151, 6.0
_ROUND_SECONDS = 5e-4
_BYTES_AT_ONCE = 1 << 22


class Model:
    """One file, open; opened again without buffer reuse where stored shapes mislead the runtime."""

    def __init__(self, path: str) -> None:
        self.path, self.reuse = path, True
        self.session = self._open()
        self.names = [port.name for port in self.session.get_outputs()]

    def _open(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_mem_reuse = self.reuse
        # Without it, weights behind DequantizeLinear also quantise the activations they meet.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        return onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def run(self, feed: Samples) -> list[Array]:
        """All outputs."""
        try:
            outputs: list[Array] = self.session.run(None, feed)
        except (_STATES.Fail, _STATES.RuntimeException) as error:
            if not self.reuse or "re-use buffer" not in str(error):
                raise
            self.reuse = False
            self.session = self._open()
            return self.run(feed)
        return outputs

    def feeds(self, samples: Samples) -> Iterator[Samples]:
        """Samples cut into what one run takes."""
        ports = {port.name: port.shape for port in self.session.get_inputs()}
        count = len(next(iter(samples.values())))
        whole = {name for name, array in samples.items() if array.ndim > len(ports[name])}
        fixed = [shape[0] for shape in ports.values() if shape and isinstance(shape[0], int)]
        bytes_each = sum(array.nbytes for array in samples.values()) // count
        step = 1 if whole or fixed else max(1, _BYTES_AT_ONCE // bytes_each)
        for start in range(0, count, step):
            yield {
                name: np.asarray(array[start]) if name in whole else array[start : start + step]
                for name, array in samples.items()
            }

    def load_ms(self) -> float:
        """Of one more opening."""
        started = time.perf_counter()
        self._open()
        return 1e3 * (time.perf_counter() - started)


def classes(output: Array) -> Array | None:
    """Top-1 of scores (n, c, 1 ...) or the integers themselves; None where the output is no classifier's."""
    while output.ndim > 2 and output.shape[-1] == 1:
        output = output[..., 0]
    if output.dtype.kind in "iu":
        return output.reshape(-1) if output.size == len(output) else None
    return output.argmax(axis=1) if output.ndim == 2 and output.shape[1] > 1 else None


def compared(before: Model, after: Model, samples: Samples) -> dict[str, Any]:
    """Ratio in decibels by float output, and agreement of the first output's classes."""
    signal, noise, sizes = (dict.fromkeys(before.names, 0.0) for _ in range(3))
    same = total = 0
    classifies, floats = True, set[str]()
    for feed in before.feeds(samples):
        expected, met = before.run(feed), after.run(feed)
        for name, one, other in zip(before.names, expected, met, strict=True):
            if one.dtype.kind == "f":
                floats.add(name)
                signal[name] += float(np.square(one, dtype=np.float64).sum())
                noise[name] += float(np.square(other.astype(np.float64) - one).sum())
                sizes[name] += one.size
        right, found = classes(expected[0]), classes(met[0])
        classifies &= right is not None and found is not None
        if right is not None and found is not None:
            same, total = same + int((right == found).sum()), total + len(right)
    ratios = {name: _decibels(signal[name], noise[name]) for name in before.names if name in floats}
    rms = {name: float(np.sqrt(signal[name] / max(sizes[name], 1))) for name in ratios}
    return {"sqnr_db": ratios, "rms": rms, "agreement": same / total if classifies else None}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return 200.0
    return float(round(10 * np.log10(max(signal, 1e-30) / noise), 2)) if np.isfinite(noise) else -200.0


def accuracy(model: Model, samples: Samples) -> float:
    """Share of samples whose class is the label."""
    labels = samples["labels"]
    found = [
        classes(model.run(feed)[0])
        for feed in model.feeds({k: v for k, v in samples.items() if k != "labels"})
    ]
    predicted = np.concatenate([each for each in found if each is not None])
    return round(float((predicted == labels).mean()), 4)


def latency(before: Model, after: Model, samples: Samples) -> dict[str, float]:
    """Of one sample, in turns, the first to go changing every round."""
    feed = next(before.feeds({name: array[:1] for name, array in samples.items()}))

    def seconds(model: Model, repeats: int) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            model.session.run(None, feed)
        return (time.perf_counter() - started) / repeats

    slowest = max(min(seconds(model, 1) for _ in range(_WARM_UPS)) for model in (before, after))
    repeats = max(1, round(_ROUND_SECONDS / slowest))
    rounds = min(_ROUNDS, max(7, round(_MOST_SECONDS / (2 * repeats * slowest))))
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        turns = (before, after) if number % 2 == 0 else (after, before)
        taken = {model.path: seconds(model, repeats) for model in turns}
        times.append((taken[before.path], taken[after.path]))
    return {
        "latency_ms_before": round(1e3 * float(np.median([one for one, _ in times])), 4),
        "latency_ms": round(1e3 * float(np.median([other for _, other in times])), 4),
        "latency_ratio": round(float(np.median([other / one for one, other in times])), 3),
    }


def main(before: str, after: str, unseen: str, test: str | None = None) -> None:
    """Print what was found."""
    models = Model(before), Model(after)
    samples = _load(unseen)
    figures = compared(*models, samples) | {"unseen": len(next(iter(samples.values())))}
    if test is not None:
        test_samples = _load(test)
        figures |= {
            "accuracy_before": accuracy(models[0], test_samples),
            "accuracy": accuracy(models[1], test_samples),
        }
        figures["tested"] = len(test_samples["labels"])
    figures |= latency(*models, samples)
    for name, model in zip(("load_ms_before", "load_ms"), models, strict=True):
        figures[name] = round(float(np.median([model.load_ms() for _ in range(_LOADS)][1:])), 1)
    figures |= {"reuses_memory_before": models[0].reuse, "reuses_memory": models[1].reuse}
    print(json.dumps(figures | {"onnxruntime": onnxruntime.__version__}))


def _load(path: str) -> Samples:
    with np.load(Path(path)) as archive:
        return {name: archive[name] for name in archive.files}


if __name__ == "__main__":
    main(*sys.argv[1:])
