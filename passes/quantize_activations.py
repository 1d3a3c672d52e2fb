"""QuantizeActivations: 8-bit activations where they make the model faster, by measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnx_admm.calibration.samples import calibration_samples
from onnx_admm.contracts import Dataset, Edit, ModelView, PassContext, PassReport, Skip
from onnx_admm.data import cost_of_sample
from onnx_admm.errors import NothingToDo, PassRefused, UnsupportedModel
from onnx_admm.model.integers.prepare import is_integer
from onnx_admm.model.runtimes import WEIGHT_ONLY
from onnx_admm.quantization.linear.forms import LinearForm
from onnx_admm.quantization.quantizer import Quantizer
from onnx_admm.quantization.ranges import RangeMethod
from onnx_admm.quantization.result import Result
from onnx_admm.quantization.saturation import steps_on
from onnx_admm.quantization.settings import Samples, Tolerance
from onnx_admm.selection.layers import choose_sites, without_transforms
from onnx_admm.settings.ranges import Positive, PositiveShare, Rounds, Share
from onnx_admm.settings.ranges import Samples as SampleCount

_MOST_MACS = 1 << 41
"""Multiply-accumulates that trials of single values may take: about a minute on one core."""

_RUNS_PER_VALUE = 20
_LEAST_MEASURED = 16
"""Fewest samples to measure ranges on: with fewer, single outliers determine the range.

If trials of all ranges would take too long on so many samples, fewer ranges are tried.
"""

_LEAST_OF_FEW = 6
"""Samples that do where only two ranges of a value are compared, both found on all calibration samples."""

_FEW = frozenset({RangeMethod.MIN_MAX, RangeMethod.MSE})
_MOST_CONFIRMING = 1000
_LEAST_SAMPLES = 16
_SET_ASIDE, _LEAST_SET_ASIDE = 8, 8
"""Without validation samples: one in so many is set aside to confirm the whole model on, at least so many."""

_RANGES = ("best", "min_max", "percentile", "mse", "entropy")
_STEPS = ("here", "255", "127")
_LINEAR = {
    "best": frozenset(LinearForm),
    "dynamic": frozenset({LinearForm.DYNAMIC}),
    "weight_only": frozenset({LinearForm.WEIGHT_ONLY}),
    "static": frozenset[LinearForm](),
}


@dataclass(frozen=True, kw_only=True)
class QuantizeActivations:
    """Compute layers with 8-bit integers where that is faster and the outputs allow it, by measurement.

    Each layer that the runtime may compute with integers is timed within the model, and the error of the
    outputs measured. The set of layers of least latency is taken whose errors add up to the tolerance. The
    whole model is confirmed on samples that were not used. Weights keep the grid that they lie on; a weight
    on no grid of 8 bits gets one. The model is written with QuantizeLinear and DequantizeLinear (opset 13).

    The model stays unchanged without samples, and where the result would not be faster on this machine.

    Attributes:
        least_sqnr_db: signal-to-noise ratio that the outputs keep, in dB.
        least_agreement: share of the samples whose top-1 prediction stays, 0 to 1; of a classifier.
        blind_sqnr_db: ratio of a classifier's scores, in dB, above which predictions may change: two scores
            that are nearly equal change their order easily.
        least_alone_db: a value that alone leaves the outputs below this ratio stays float, in dB.
        most_latency: share of the latency before that the result may take, at most.
        ranges: method of the activation ranges; ``best`` takes the one of least error of the outputs, value
            by value.
        steps: steps of an activation's grid: 255; 127 for x86 processors without VNNI; ``here``: the one for
            the target, which is this machine unless the cost model names another processor.
        linear: forms of Gemm and MatMul that stay float with static ranges: ``best`` of all, ``dynamic``
            int8, whose range is found at each run over the whole batch, ``weight_only`` int8, or ``static``:
            none.
        calibration: samples that ranges are found on, at most.
        samples: samples that errors are measured on, at most.
        trials: placements that are timed, at most.
        against: reference of the comparison: the ``original``, or the model ``before`` this pass, which the
            removal of channels may have moved far from the original.
        include, exclude: patterns of layer names or operators; other layers stay float. Fixed transforms do
            unless ``include`` names them.
    """

    name: ClassVar[str] = "quantize_activations"
    exact: ClassVar[bool] = False
    idempotent: ClassVar[bool] = True

    least_sqnr_db: Positive = 22.0
    least_agreement: Share = 0.99
    blind_sqnr_db: Positive = 22.0
    least_alone_db: Positive = 22.0
    most_latency: PositiveShare = 0.97
    ranges: Literal["best", "min_max", "percentile", "mse", "entropy"] = "best"
    steps: Literal["here", "255", "127"] = "here"
    linear: Literal["best", "dynamic", "weight_only", "static"] = "best"
    calibration: SampleCount = 256
    samples: SampleCount = 96
    trials: Rounds = 96
    against: Literal["original", "before"] = "original"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if not model.sites():
            raise NothingToDo("the model has no weights that integer kernels could use")
        for key in ("least_sqnr_db", "blind_sqnr_db", "least_alone_db"):
            if not (got := getattr(self, key)) > 0:
                raise PassRefused("impossible tolerance", where=key, got=got, expected="over 0")
        known = {"ranges": _RANGES, "steps": _STEPS, "linear": tuple(_LINEAR)}
        for key, expected in known.items():
            if (got := getattr(self, key)) not in expected:
                listed = ", ".join(expected)
                raise PassRefused("unknown setting", where=key, got=got, expected=f"one of {listed}")

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        if is_integer(model):
            return _left("it computes activations as integers already")
        if context.train is None:
            return _left("no samples are given, and ranges of activations need some (--data)")
        if len(context.train) < _LEAST_SAMPLES:
            few = f"{len(context.train)} samples are too few for ranges of activations"
            return _left(f"{few}: {_LEAST_SAMPLES} or more are needed")
        try:
            chosen, skipped = choose_sites(model.sites(), self.include, self.exclude, keeps_values=True)
        except PassRefused as reason:  # all weights are in subgraphs
            if self.include or self.exclude:
                raise
            return _left(str(reason))
        if not self.include:
            chosen, transforms = without_transforms(chosen, context.reference)
            skipped = (*skipped, *transforms)
            if not chosen:
                return PassReport(False, (), skipped)
        samples, runs = self._data(model, context)
        quantizer = Quantizer(
            tolerance=Tolerance(
                least_sqnr_db=self.least_sqnr_db,
                least_agreement=self.least_agreement,
                blind_sqnr_db=self.blind_sqnr_db,
                least_alone_db=self.least_alone_db,
            ),
            methods=self._methods(runs),
            steps=steps_on(context.processor) if self.steps == "here" else int(self.steps),
            linear_forms=self._linear_forms(model),
            trials=self.trials,
            layers={site.name for site in chosen},
            reference=context.reference if self.against == "original" else model,
            context=context,
            most_latency=self.most_latency,
        )
        try:
            result = quantizer.run(model, samples)
        except UnsupportedModel as error:  # its opset cannot be raised
            return _left(str(error))
        basis = "measured" if context.is_timed_here else "predicted"
        figures = {**result.figures(), "confirmed_on": samples.confirmed_on, "latency_basis": basis}
        by_batch = [
            layer for layer, what in result.integer.items() if what.startswith(LinearForm.DYNAMIC.value)
        ]
        figures |= {"by_batch": by_batch} if by_batch else {}
        if result.model is None or result.latency_ratio > self.most_latency:
            return PassReport(False, (), (*skipped, *self._skipped(result)), figures)
        model.become(result.model)
        edits = tuple(Edit(layer, what) for layer, what in result.integer.items())
        return PassReport(True, edits, (*skipped, *self._skipped(result)), figures)

    def _skipped(self, result: Result) -> tuple[Skip, ...]:
        skipped = tuple(Skip(layer, why) for layer, why in result.left.items())
        if result.model is None:
            return (*skipped, Skip("model", result.why or "no layer is faster with integers here"))
        if result.latency_ratio > self.most_latency:
            takes = f"with integers it would take {result.latency_ratio:.3g} of its latency"
            why = f"{takes}, over {self.most_latency:g} (most_latency): left as it is"
            layers = [Skip(layer, "the model as a whole gains too little") for layer in result.integer]
            return (*skipped, *layers, Skip("model", why))
        return skipped

    def _linear_forms(self, model: ModelView) -> frozenset[LinearForm]:
        """Return the forms on offer to linear layers that stay float, in the oldest runtime that counts."""
        runtime = model.conditions.runtime
        slow = runtime is not None and runtime.why_slow(WEIGHT_ONLY) is not None
        return _LINEAR[self.linear] - ({LinearForm.WEIGHT_ONLY} if slow else set())

    def _methods(self, runs: int) -> frozenset[RangeMethod]:
        """Return the methods to choose among, where each value may take so many runs of each range."""
        if self.ranges != "best":
            return frozenset({RangeMethod(self.ranges)})
        return frozenset(RangeMethod) if runs >= _LEAST_MEASURED else _FEW

    def _data(self, model: ModelView, context: PassContext) -> tuple[Samples, int]:
        """Return the samples, and the number of them that all ranges of all values may be tried on."""
        calibration, unseen, confirmed_on = _parts(context, calibration_samples(context, self.calibration))
        cost = cost_of_sample(model, calibration)
        values = max(1, len(model.sites()) * 2)
        most_runs = max(1, _MOST_MACS // (cost.macs * _RUNS_PER_VALUE * values))
        count = min(self.samples, max(most_runs, _LEAST_OF_FEW), cost.most_samples)
        measured = _spread(calibration, count)
        confirming = _spread(unseen, min(_MOST_CONFIRMING, 20 * most_runs, cost.most_samples))
        return Samples(calibration, measured, confirming, confirmed_on), most_runs


def _left(why: str) -> PassReport:
    return PassReport(False, (), (Skip("model", why),))


def _parts(context: PassContext, samples: Dataset) -> tuple[Dataset, Dataset, str]:
    """Return the samples to calibrate on, those to confirm on, and what the latter are.

    Without validation samples, a part is set aside; if too few would be left, all are used for both.
    """
    if context.validation is not None:
        return samples, context.validation, "validation samples"
    count = max(_LEAST_SET_ASIDE, len(samples) // _SET_ASIDE)
    if len(samples) - count < _LEAST_SAMPLES:
        return samples, samples, "calibration samples: too few to set some aside"
    set_aside = _places(len(samples), count)
    rest = np.setdiff1d(np.arange(len(samples)), set_aside)
    return samples.select(rest), samples.select(set_aside), "samples set aside"


def _spread(data: Dataset, count: int) -> Dataset:
    """Return at most ``count`` samples, evenly spread."""
    return data.select(_places(len(data), count))


def _places(length: int, count: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(np.int64))
