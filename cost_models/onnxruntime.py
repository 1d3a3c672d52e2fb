"""Latency in ONNX Runtime on this machine, timed kernel by kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from onnx_admm.contracts import CompressionOption, Cost, CostModel, LayerProfile, ModelView, RuntimeTarget
from onnx_admm.data.synthetic.dataset import synthetic_dataset
from onnx_admm.errors import OnnxAdmmError, RuntimeMissing, UnpricedOperator, UsageError
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.runtime_kernels import Place, kernels_of, layer_model, trace
from onnx_admm.model.analysis.shapes import bind_extents
from onnx_admm.pricing.processors import THIS, find_target, own_processor
from onnx_admm.runtime.sessions import optimised_model
from onnx_admm.runtime.timing import KernelTime, every_value
from onnx_admm.runtime.timing_cache import call_timing, kernel_timings, switch_timing
from onnx_admm.settings.ranges import Threads

_MISFIT = 0.1
"""Relative error of sums of single kernels for whole models: benchmarks/results/predicted-latency.json."""

_BLOCKED_FROM = 4
"""Channels up to which the runtime keeps no blocks: those of images."""

_PREDICTED = 0.5
"""Relative uncertainty of a time that was taken on another processor."""

_alone: dict[tuple[LayerProfile, int | None, int], KernelTime] = {}
"""Costs of single layers, by profile, output channels left, and threads."""


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeCostModel:
    """Latency of one run in the installed ONNX Runtime on this machine, from times of single kernels.

    The runtime optimises the model; each resulting kernel is timed alone, with the shapes, types and values
    that it has in the model, and assigned to the node whose work it does: the last one with a weight among
    those it fuses. A node that is merged into a neighbour costs 0. Without the model (a single layer) the
    node alone is optimised and timed, without changes of memory layout around it. Removed channels are timed
    at their real width, because the cost changes in steps. Each time is measured once and kept on disk, by
    runtime, processor, threads and kernel.

    For another processor the times of this machine are a prediction: float convolutions are scaled by the
    blocks of channels of its layout, all else is taken as it is here.

    Args:
        threads: intra-op threads.
        processor: ``this`` machine's, or one of ``pricing.processors``.
    """

    name: ClassVar[str] = "onnxruntime"
    quantities: ClassVar[tuple[str, ...]] = ("latency_s",)

    threads: Threads = 1
    processor: str = THIS

    def __post_init__(self) -> None:
        find_target(self.processor)
        if self.threads < 1:
            raise UsageError("a run needs a thread", where="threads", got=self.threads)

    @property
    def target(self) -> RuntimeTarget:
        """Facts of the processor."""
        return find_target(self.processor)

    @property
    def is_this_machine(self) -> bool:
        """Whether this machine has such a processor, so that its times are measured, and not predicted."""
        return self.target.name == own_processor().name

    @property
    def assumes(self) -> str:
        """The reason why zeros and bits change nothing, as a sentence."""
        here = "on this machine, with nothing else running"
        if not self.is_this_machine:
            here = (
                f"on {self.target.name}, predicted: times of this machine ({own_processor().name}), those of "
                f"float convolutions scaled to blocks of {self.target.block} channels"
            )
        return (
            f"stock ONNX Runtime {here}: weights are dense floats once it has loaded them, so zeros and bits "
            "change no latency, only removed channels do"
        )

    def for_model(self, view: ModelView, bindings: Mapping[str, int]) -> CostModel:
        """Return a cost model with the times of this model's kernels.

        With an open axis the model cannot run: the errors of the rows then name the axis.

        Raises:
            OnnxAdmmError: the runtime does not run the model.
        """
        fixed, left_open = bind_extents(view, bindings)
        if left_open:
            return self
        traced = trace(view)
        optimised = optimised_model(traced.model)
        batch = next(synthetic_dataset(fixed, 1, 0).batches(1))
        values = every_value(optimised, batch.feeds)
        kernels = kernels_of(optimised, values)
        rows = node_profiles(view, bindings, reads_weights=False)
        weighted = frozenset((row.scope, row.node) for row in rows if row.weight)
        owners = traced.owners(optimised, weighted)
        times: dict[Place, list[KernelTime | None]] = {place: [] for place in traced.places}
        for owner, timing in zip(owners, kernel_timings(kernels, self.threads), strict=True):
            if owner is not None:
                times[owner].append(timing)
        ports = view.signature()
        call = call_timing(
            {port.name: values[port.name] for port in ports.inputs},
            {name: values[name] for name in traced.outputs if name in values},
            self.threads,
        )
        return _OnModel(self, {place: _sum(found, self.threads) for place, found in times.items()}, call)

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the time of the layer alone; density and bits matter only for removed channels.

        Raises:
            RuntimeMissing: no runtime, or two.
            UnknownExtent: a shape depends on an open axis.
            UnpricedOperator: the runtime does not run the node alone.
        """
        channels = _left(layer, option)
        return self.on_target(_cost(self._time(layer, channels), layer), layer, channels)

    def on_target(self, cost: Cost, layer: LayerProfile, channels: int | None = None) -> Cost:
        """Return what a time of this machine predicts for the target; the same where it is this machine.

        Args:
            cost: measured cost.
            layer: the layer.
            channels: output channels that are left; None: all.
        """
        if self.is_this_machine or cost.latency_s is None:
            return cost
        factor = _blocks(layer, self.target.block, channels) / _blocks(layer, own_processor().block, channels)
        doubt = max(cost.uncertainty or 0.0, _PREDICTED)
        return replace(cost, latency_s=cost.latency_s * factor, uncertainty=doubt)

    def _time(self, layer: LayerProfile, channels: int | None) -> KernelTime:
        _refuse_inner(layer)
        layer.moved_bytes()  # raises where a shape is unknown
        # Names and values of weights do not change the time.
        plain = replace(
            layer, node="", weight=layer.weight and "w", density=1.0, nonzeros=0, bits=32, share=1.0
        )
        key = (plain, channels, self.threads)
        if key not in _alone:
            _alone[key] = self._measure(layer, channels)
        return _alone[key]

    def _measure(self, layer: LayerProfile, channels: int | None) -> KernelTime:
        where = f"{layer.node} ({layer.op_type})"
        try:
            model, feeds = layer_model(layer, channels)
            optimised = optimised_model(model)
            kernels = kernels_of(optimised, every_value(optimised, feeds))
        except RuntimeMissing:
            raise
        except OnnxAdmmError as error:
            raise UnpricedOperator(
                f"the runtime does not run it alone ({error.what})", where=where
            ) from error
        times = kernel_timings([k for k in kernels if k is None or not k.is_layout], self.threads)
        timing = _sum(times, self.threads)
        if timing is None:
            raise UnpricedOperator("the runtime does not run it alone", where=where)
        return timing


@dataclass(frozen=True)
class _OnModel:
    """The rows of one model, whose kernels have been timed.

    Attributes:
        alone: prices single layers.
        times: times of nodes; None for one with a kernel that does not run alone.
        call: time of a call beyond its kernels: passing inputs and outputs.
    """

    alone: OnnxRuntimeCostModel
    times: Mapping[Place, KernelTime | None]
    call: KernelTime

    name: ClassVar[str] = OnnxRuntimeCostModel.name
    quantities: ClassVar[tuple[str, ...]] = OnnxRuntimeCostModel.quantities

    @property
    def assumes(self) -> str:
        return self.alone.assumes

    @property
    def composition(self) -> str:
        return f"the sum of the rows and {self.call.seconds * 1e6:.1f} us for the call"

    def compose(self, rows: Sequence[Cost]) -> Cost:
        """Return the sum of the rows and the call; the uncertainty is the mean of its parts."""
        parts = [(row.latency_s or 0.0, row.uncertainty or 0.0) for row in rows]
        least = _MISFIT if self.alone.is_this_machine else _PREDICTED
        parts.append((self.call.seconds, max(least, self.call.spread)))
        total = sum(seconds for seconds, _ in parts)
        doubt = sum(seconds * uncertainty for seconds, uncertainty in parts)
        return Cost(latency_s=total, uncertainty=doubt / total if total else 0.0)

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        """Return the time of the node's kernels; less for fewer channels, as for the layer alone."""
        _refuse_inner(layer)
        place = (layer.scope, layer.node)
        if place not in self.times:
            return self.alone.estimate(layer, option)
        timing, channels = self.times[place], _left(layer, option)
        if timing is None:
            raise UnpricedOperator(
                "the runtime does not run its kernel alone", where=f"{layer.node} ({layer.op_type})"
            )
        cost = self.alone.on_target(_cost(timing, layer), layer)
        if channels is None or not cost.latency_s:
            return cost
        narrow, whole = (self.alone.estimate(layer, other) for other in (option, CompressionOption()))
        ratio = (narrow.latency_s or 0.0) / whole.latency_s if whole.latency_s else 1.0
        doubt = max(cost.uncertainty or 0.0, narrow.uncertainty or 0.0)
        return Cost(latency_s=cost.latency_s * ratio, uncertainty=doubt)


def _blocks(layer: LayerProfile, block: int, channels: int | None) -> float:
    """Return the products that a float convolution computes in whole blocks of channels, up to a constant.

    Fewer channels than a block, as in a first convolution, are not computed in blocks.
    """
    if layer.op_type != "Conv" or len(layer.weight_shape) < 3:
        return 1.0
    written, read = channels or layer.weight_shape[0], layer.weight_shape[1]
    return float(
        math.prod(-(-each // block) * block if each > _BLOCKED_FROM else each for each in (written, read))
    )


def _refuse_inner(layer: LayerProfile) -> None:
    """Refuse a layer in a branch or body: these are timed with the node around them.

    Raises:
        UnpricedOperator: the layer lies in a branch or body.
    """
    if layer.scope:
        raise UnpricedOperator("timed with the node around it", where=f"{layer.scope}/{layer.node}")


def _left(layer: LayerProfile, option: CompressionOption) -> int | None:
    """Return the number of output channels that are left; None where all are, at any density."""
    if option.structure != "channel" or layer.out_axis is None or not layer.weight:
        return None
    left = max(1, math.ceil(option.density * layer.channels - 1e-9))
    return left if left < layer.channels else None


def _sum(times: Sequence[KernelTime | None], threads: int) -> KernelTime | None:
    """Return the time of kernels among other kernels; None where one has no time."""
    known = [timing for timing in times if timing is not None]
    if len(known) < len(times):
        return None
    if not known:
        return KernelTime(0.0, 0.0)
    switch = switch_timing(threads).seconds
    seconds = sum(timing.seconds for timing in known)
    spread = sum(timing.seconds * timing.spread for timing in known) / seconds if seconds else 0.0
    return KernelTime(seconds + switch * len(known), max(_MISFIT, spread))


def _cost(timing: KernelTime, layer: LayerProfile) -> Cost:
    return Cost(latency_s=timing.seconds * layer.share, uncertainty=timing.spread)
