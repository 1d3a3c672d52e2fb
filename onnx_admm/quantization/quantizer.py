"""From a model and samples to the fastest model with integer activations within a tolerance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import ModelView, Skip
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model.integers.full_floats import store_as_half, with_full_floats
from onnx_admm.model.integers.prepare import matmuls_to_gemms
from onnx_admm.model.integers.write import OLDEST_OPSET
from onnx_admm.model.opsets.convert_opset import convert_opset
from onnx_admm.quantization.forms import IntegerForms
from onnx_admm.quantization.histograms import Histogram, count_into, extremes_of
from onnx_admm.quantization.placing.placement import place, roots_read
from onnx_admm.quantization.range_choice import ChosenRange, RangeChoice
from onnx_admm.quantization.ranges import RangeMethod
from onnx_admm.quantization.result import Result, nothing_to_compare
from onnx_admm.quantization.run import QuantizationRun
from onnx_admm.quantization.settings import QuantizerSettings, Samples
from onnx_admm.quantization.units import Floats, Kind, Unit, find_units

_FEW_SAMPLES, _ENOUGH_SAMPLES = 16, 48
"""Samples that ranges are compared on, where there are enough to confirm the best of them on."""

_NEGLIGIBLE, _NEGLIGIBLE_OF_SLOW = 0.1, 0.5
"""Share of the tolerance that values may take together whose ranges are not worth comparing; the same where
runs take so long that few ranges are tried at all."""


@dataclass(frozen=True, kw_only=True)
class Quantizer(QuantizerSettings):
    """Quantises the activations of models; its fields are those of `QuantizerSettings`."""

    def run(self, model: ModelView, samples: Samples) -> Result:
        """Return the fastest model found that keeps the tolerance.

        What computes in float16 computes in float32 there, as the runtime does on processors; weights that
        stay float are stored in float16 as before.

        Raises:
            UnsupportedModel: its opset cannot be raised to 13.
            DataError, WorkError: it does not run with the samples.
        """
        base = convert_opset(model, at_least=OLDEST_OPSET)
        halves = [site.name for site in base.sites() if site.dtype == "float16"]
        if not halves:
            return self._quantized(base, model, samples)
        found = self._quantized(with_full_floats(base), model, samples)
        if found.model is not None:
            store_as_half(found.model, [name for name in halves if not _is_on_grid(found.model, name)])
        return found

    def _quantized(self, base: ModelView, model: ModelView, samples: Samples) -> Result:
        units, skipped = self._units(base)
        left = {skip.layer: skip.why for skip in skipped}
        if not any(unit.kind is Kind.PRODUCT for unit in units):
            return Result(left=left, why="no layer has an integer kernel")
        histograms = self._histograms(base, units, samples)
        if matmuls_to_gemms(base, {name: found.rank for name, found in histograms.items()}):
            units, _ = self._units(base)
            histograms = self._histograms(base, units, samples)
        threads = self.context.settings.threads
        probe = OutputProbe(base, [], samples.measured, threads=threads)
        if not probe.is_comparable:
            return nothing_to_compare(units, left)
        forms = IntegerForms(base, units, histograms, len(samples.calibration), self.steps)
        run = QuantizationRun(self, model, forms, samples)
        stopped = run.without_gain(left)
        if stopped is None:
            run.ranges = self._ranges(base, probe, samples, {name: histograms[name] for name in run.roots})
            run.weight_errors = self._weight_errors(base, samples, run.rounded_weights)
        return run.result(left, stopped)

    def _ranges(
        self, base: ModelView, probe: OutputProbe, samples: Samples, histograms: Mapping[str, Histogram]
    ) -> dict[str, ChosenRange]:
        """Return the range of each value; count their histograms first."""
        memory, threads = self.context.memory_bytes, self.context.settings.threads
        count_into(histograms, base, samples.calibration, memory_bytes=memory, threads=threads)
        count, few = len(samples.measured), None
        if count >= _ENOUGH_SAMPLES:
            few = probe.on(samples.measured.select(np.linspace(0, count - 1, _FEW_SAMPLES).astype(np.int64)))
        share = _NEGLIGIBLE if self.methods >= frozenset(RangeMethod) else _NEGLIGIBLE_OF_SLOW
        choice = RangeChoice(
            probe=probe,
            steps=self.steps,
            methods=self.methods,
            few=few,
            negligible=share * self.first_limit / max(1, len(histograms)),
        )
        with self.context.progress.task("activation ranges", len(histograms)) as task:
            return choice.of(histograms, task)

    def _weight_errors(
        self, base: ModelView, samples: Samples, weights: Mapping[int, tuple[str, Floats]]
    ) -> dict[int, float]:
        """Return the relative error of the outputs for each of these weights, exchanged alone."""
        if not weights:
            return {}
        distinct = dict(weights.values())
        readers = Counter(name for name, _ in weights.values())  # several share the error of one weight
        probe = OutputProbe(base, distinct, samples.measured, threads=self.context.settings.threads)
        errors: dict[str, float] = {}
        with self.context.progress.task("weights in 8 bits", len(distinct)) as task:
            for name, values in distinct.items():
                errors[name] = probe.effect({name: values}).score_error / readers[name]
                task.advance(note=name)
        return {node: errors[name] for node, (name, _) in weights.items()}

    def _units(self, base: ModelView) -> tuple[tuple[Unit, ...], tuple[Skip, ...]]:
        """Return the units that may be integer at all, and why further products are none.

        Where not even all others being integer makes a unit one, it never is: an addition far from any
        product is not measured.
        """
        units, skipped = find_units(base)
        kept = [unit for unit in units if unit.weight is None or unit.weight_name in self.layers]
        possible = place(kept, {unit.node for unit in kept}).units
        return possible, tuple(skip for skip in skipped if skip.layer in self.layers)

    def _histograms(self, base: ModelView, units: Sequence[Unit], samples: Samples) -> dict[str, Histogram]:
        """Return the extremes of all roots, and of what products read."""
        names = {root for reads in roots_read(units).values() for root in reads}
        names |= {unit.inputs[0] for unit in units if unit.kind is Kind.PRODUCT}
        memory, threads = self.context.memory_bytes, self.context.settings.threads
        return extremes_of(base, sorted(names), samples.calibration, memory_bytes=memory, threads=threads)


def _is_on_grid(model: ModelView, name: str) -> bool:
    """Return whether a weight lies on a grid of bytes, in which it will be stored."""
    site = next((site for site in model.sites() if site.name == name), None)
    return site is not None and Weight(name, model.read(site)).channel_grid is not None
