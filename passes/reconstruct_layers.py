"""ReconstructLayers: rebuild each layer from fewer weights or levels so that its outputs stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from onnx_admm.admm.sets.supports import pruned_support
from onnx_admm.allocation.allocation import FLOAT_BITS, densities
from onnx_admm.calibration.layer_solver import LayerRequest, LayerSolution, solve_argmax_rows, solve_layer
from onnx_admm.calibration.moments import Moments
from onnx_admm.calibration.rates import STEPS, Trial, measured_surfaces
from onnx_admm.calibration.samples import calibration_samples
from onnx_admm.calibration.stream import CalibratedLayer, Calibration, calibrated_layer, layer_groups
from onnx_admm.contracts import Array, Edit, ModelView, PassContext, PassReport, WeightSite
from onnx_admm.errors import PassRefused
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.selection.layers import PerLayer, choose_layers, spread
from onnx_admm.selection.pruning_budget import given_budgets, global_density, parse_pattern
from onnx_admm.settings.ranges import NonNegative, PositiveShare, Ratio, Samples

_MOST_GROUPS = 32
_PROBE_SAMPLES = 128


@dataclass(frozen=True, kw_only=True)
class ReconstructLayers:
    """Prune and quantise by layer-wise ADMM: ``min ||X W' - T||^2 + ridge ||W' - W||^2  s.t.  W' in S``.

    X are the inputs of a layer that the layers compressed before give; T are the layer's outputs for the
    inputs of the uncompressed model. Support and levels are found together where both are requested. The bias
    corrects the difference of the means. Uses no labels and no training: closed forms, layer by layer.

    Without data, random inputs are used. A weight whose inputs are not available as rows (an embedding, one
    inside a subgraph) is projected on its set.

    Attributes:
        ratio: weights over nonzeros, one budget over all layers, split by measured sensitivity.
        keep: share of nonzeros, 0 to 1, one budget over all layers, split in the same way.
        pattern: ``"2:4"``: at most 2 nonzeros in 4 consecutive weights along the input channels.
        layers: share of nonzeros by layer: in graph order, or by name pattern.
        bits: bits of a weight, 1 to 8: for all layers, in graph order, or by name pattern; 32 (None: for all)
            is not quantised.
        per_channel: a scale for each output channel instead of one for each layer.
        samples: calibration samples, taken from the training data: equally many of each predicted class.
        ridge: weight of the distance to the original weights, in units of the mean energy of a layer's
            inputs; None: 0.01, and where samples are few the best value on held-out ones.
        include, exclude: patterns of layer names or operators.
    """

    name: ClassVar[str] = "reconstruct_layers"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    ratio: Ratio | None = None
    keep: PositiveShare | None = None
    pattern: str | None = None
    layers: PerLayer | None = None
    bits: PerLayer | None = None
    per_channel: bool = True
    samples: Samples = 512
    ridge: NonNegative | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if not given_budgets(self) and self.bits is None:
            expected = "one of ratio, keep, pattern, layers, or bits, or one of them and bits"
            raise PassRefused("no constraint to reconstruct for", got="none", expected=expected)
        if self.samples < 1:
            raise PassRefused("too few samples", where="samples", got=self.samples, expected="1 or more")
        sites, _ = choose_layers(model, self.include, self.exclude)
        for name, bits in ({} if self.bits is None else spread(self.bits, sites, "bits")).items():
            if bits != int(bits) or not (1 <= bits <= 8 or bits == FLOAT_BITS):
                expected = f"1 to 8, whole, or {FLOAT_BITS}"
                raise PassRefused("impossible number of bits", where=name, got=bits, expected=expected)

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        sites, skipped = choose_layers(model, self.include, self.exclude)
        calibration = Calibration(
            original=model.fork(),
            samples=calibration_samples(context, self.samples),
            ridge=self.ridge,
            seed=context.seed,
            threads=context.settings.threads,
        )
        seen = [layer for site in sites if (layer := calibrated_layer(model, site)) is not None]
        requests = self._requests(sites, seen, calibration, context)
        rows = self._reconstruct(model, seen, requests, calibration, context)
        for site in sites:
            if site.name not in rows:
                model.replace(site, requests[site.name].nearest(site, model.read(site)))
        edits = tuple(
            Edit(site.name, _what(after, rows.get(site.name)))
            for site in sites
            if not np.array_equal(calibration.original.read(site), after := model.read(site))
        )
        return PassReport(not same_model(calibration.original, model), edits, skipped, {"layers": rows})

    # -- the work ----------------------------------------------------------------------------

    def _reconstruct(
        self,
        model: ModelView,
        layers: Sequence[CalibratedLayer],
        requests: Mapping[str, LayerRequest],
        calibration: Calibration,
        context: PassContext,
    ) -> dict[str, dict[str, Any]]:
        """Solve for every layer in graph order, behind the compressed ones; return figures by layer."""
        rows: dict[str, dict[str, Any]] = {}
        with context.progress.task("reconstruct", len(layers)) as task:
            for group in layer_groups(layers, context.memory_bytes, _MOST_GROUPS):
                moments = calibration.moments(model, group)
                solvable = [layer for layer in group if layer.site.name in moments]
                answers = context.map(partial(_solve, moments, requests), solvable)
                for layer, found in zip(solvable, answers, strict=True):
                    name = layer.site.name
                    layout = layer.extractors[0].layout
                    _store(model, layer, found.weights, found.bias_shift)
                    rows[name] = {**found.figures}
                    task.advance(note=f"{name}: error {rows[name]['error']:.2g}")
                    if requests[name].is_by_row(layout) and (
                        argmax_rows := calibration.argmax_rows(model, layer, context.memory_bytes)
                    ):
                        own = solve_argmax_rows(
                            argmax_rows, moments[name], found.weights, requests[name], layout, context
                        )
                        _store(model, layer, own.weights, own.bias_shift - found.bias_shift)
                        rows[name] |= own.figures
        return rows

    # -- requests ---------------------------------------------------------------------------

    def _requests(
        self,
        sites: Sequence[WeightSite],
        seen: Sequence[CalibratedLayer],
        calibration: Calibration,
        context: PassContext,
    ) -> dict[str, LayerRequest]:
        """Return the requested set of each layer's weights."""
        bits = {} if self.bits is None else spread(self.bits, sites, "bits")
        shares = self._densities(sites, seen, calibration, context)
        pattern = None if self.pattern is None else parse_pattern(self.pattern)
        return {
            site.name: LayerRequest(
                kept=round(site.size * shares.get(site.name, 1.0)),
                mask=None if shares or pattern else pruned_support(calibration.original.read(site)),
                bits=int(bits.get(site.name, FLOAT_BITS)),
                digits=np.finfo(site.dtype).nmant + 1,
                per_channel=self.per_channel,
                pattern=pattern,
            )
            for site in sites
        }

    def _densities(
        self,
        sites: Sequence[WeightSite],
        seen: Sequence[CalibratedLayer],
        calibration: Calibration,
        context: PassContext,
    ) -> dict[str, float]:
        """Return the share of nonzeros of each layer; empty where there is no such budget."""
        if self.layers is not None:
            return spread(self.layers, sites, "layers")
        if self.ratio is None and self.keep is None:
            return {}
        density = global_density(self, sites, context.reference)
        few = np.arange(min(len(calibration.samples), _PROBE_SAMPLES))
        with context.progress.task("measure", len(sites)) as task:
            trial = Trial(calibration, calibration.samples.select(few), context, task)
            tried = tuple(sorted({min(1.0, density * step) for step in STEPS}))
            surfaces = measured_surfaces(sites, seen, trial, densities=tried)
        curves = {name: surface.pruned for name, surface in surfaces.items()}
        return densities(curves, {site.name: site.size for site in sites}, density)


def _solve(
    moments: Mapping[str, Moments], requests: Mapping[str, LayerRequest], layer: CalibratedLayer
) -> LayerSolution:
    name = layer.site.name
    return solve_layer(moments[name], requests[name], layer.extractors[0].layout)


def _store(model: ModelView, layer: CalibratedLayer, weights: Array, bias_shift: Array) -> None:
    """Write the weights (rows, d), and the bias (rows,) that corrects the difference of the means."""
    layout = layer.extractors[0].layout
    model.replace(layer.site, layout.tensor(weights))
    if layer.bias is not None:
        before = layer.bias.read(layout.rows)
        after = (before + bias_shift).astype(layer.site.dtype)
        if not np.array_equal(after, before.astype(layer.site.dtype)):
            layer.bias.store(model, after)


def _what(after: Array, row: Mapping[str, Any] | None) -> str:
    kept = f"{np.count_nonzero(after):,} of {after.size:,} weights kept"
    return f"{kept}, nearest point" if row is None else f"{kept}, output error {row['error']:.2g}"
