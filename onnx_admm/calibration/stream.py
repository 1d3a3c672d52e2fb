"""Streams calibration samples through the graph, for a few layers at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.calibration.argmax_positions import ArgmaxPositions, argmax_positions_behind
from onnx_admm.calibration.argmax_rows import ArgmaxRows
from onnx_admm.calibration.biases import LayerBias, bias_behind
from onnx_admm.calibration.layer_inputs import InputExtractor, extractor_of
from onnx_admm.calibration.moments import MOST_HALVED, Moments, MomentSums
from onnx_admm.calibration.row_sampling import FixedRows, SampledRows
from onnx_admm.contracts import Array, Dataset, Feeds, ModelView, WeightSite
from onnx_admm.errors import DataError, PassRefused
from onnx_admm.model.rewrite.expose_values import WeightUse, weight_uses
from onnx_admm.runtime.inner_values import InnerValues
from onnx_admm.selection.weight_values import why_unusable

_ROWS_PER_COLUMN = 20
_PRODUCTS = 4e10
"""Multiplications one Gram matrix may take, unless twenty rows for each of its columns take more."""

_BYTES = 8  # float64
_TOO_LARGE = 1e15


@dataclass(frozen=True)
class CalibratedLayer:
    """A layer with available inputs: its uses (several where the weight is tied) and its bias."""

    site: WeightSite
    extractors: tuple[InputExtractor, ...]
    bias: LayerBias | None
    argmax_positions: ArgmaxPositions | None = None

    @property
    def exposed_values(self) -> tuple[str, ...]:
        """Values that its uses read, and the value of the maximum behind it."""
        telling = () if self.argmax_positions is None else (self.argmax_positions.value,)
        return tuple(
            dict.fromkeys(
                [*(name for extractor in self.extractors for name in extractor.exposed_values), *telling]
            )
        )

    @property
    def moment_bytes(self) -> int:
        """Bytes of memory of its moments while they are summed and solved for."""
        layout = self.extractors[0].layout
        d = layout.columns
        copies = 6 if d <= MOST_HALVED else 4
        return copies * _BYTES * d * (layout.group * d + layout.rows)

    @property
    def rows_requested(self) -> int:
        """Number of rows of X that determine its moments well."""
        layout = self.extractors[0].layout
        d = layout.columns
        return int(max(_PRODUCTS / (layout.group * d * d), _ROWS_PER_COLUMN * d))


@dataclass(frozen=True, eq=False)
class LayerTarget:
    """What a layer should compute that the original does not have.

    Attributes:
        value: the value of the original, of the shape of the layer's outputs.
        weights: stored tensor that the ridge pulls the layer's weights to.
    """

    value: str
    weights: Array


def calibrated_layer(view: ModelView, site: WeightSite) -> CalibratedLayer | None:
    """Return the layer for calibration; None where inputs of some use of its weight are not available.

    That is also the case where the uses of one weight are not products with the same matrix: an embedding
    that is a classifier's weight too.
    """
    uses = weight_uses(view, site)
    extractors = [extractor for use in uses if (extractor := extractor_of(site, use)) is not None]
    if len(extractors) < len(uses) or len({extractor.layout for extractor in extractors}) != 1:
        return None
    if len(uses) > 1:
        return CalibratedLayer(site, tuple(extractors), None)
    bias = bias_behind(uses[0], extractors[0].layout.rows)
    return CalibratedLayer(site, tuple(extractors), bias, _argmax_positions(uses[0]))


def _argmax_positions(use: WeightUse) -> ArgmaxPositions | None:
    """Return the maximum over the node's outputs, with channels on the axis that ONNX gives them."""
    if use.node.op_type in ("Conv", "ConvTranspose"):
        return argmax_positions_behind(use.node, 1)
    return argmax_positions_behind(use.node, -1) if use.node.op_type == "MatMul" and use.index == 1 else None


def _is_usable(x: Array) -> bool:
    """Return whether all values are finite, and sums of their squares too."""
    largest = float(np.abs(x).max(initial=0.0))
    return largest < _TOO_LARGE  # not so for NaN either


def _not_finite(layer: CalibratedLayer) -> DataError:
    return DataError(
        "the inputs of this layer are not finite on the samples, or too large to square",
        where=layer.site.name,
        hint="Look for values far out of the usual range in the data, or leave the layer out with --exclude.",
    )


def layer_groups(
    layers: Sequence[CalibratedLayer], memory_bytes: int, most: int
) -> list[list[CalibratedLayer]]:
    """Return groups of consecutive layers that are calibrated in one run.

    Each group costs a run of the samples through everything before it, so there are at most about ``most``;
    the moments of one group fit ``memory_bytes``.

    Raises:
        PassRefused: the moments of one layer do not fit.
    """
    largest = max(layers, key=lambda layer: layer.moment_bytes, default=None)
    if largest is not None and largest.moment_bytes > memory_bytes:
        raise PassRefused(
            "its statistics do not fit into the allowed memory",
            where=largest.site.name,
            got=f"{memory_bytes >> 20:,} MiB",
            expected=f"{-(-largest.moment_bytes >> 20):,} MiB or more",
            hint="Allow more with --memory, or leave the layer out with --exclude.",
        )
    groups: list[list[CalibratedLayer]] = []
    length = -(-len(layers) // most)
    for layer in layers:
        last = groups[-1] if groups else None
        available = memory_bytes - sum(other.moment_bytes for other in last or ())
        if last is None or len(last) >= length or layer.moment_bytes > available:
            groups.append([layer])
        else:
            last.append(layer)
    return groups


@dataclass(frozen=True)
class Calibration:
    """Computes moments of layers from samples.

    Attributes:
        original: the model whose outputs each layer should keep.
        samples: calibration data.
        ridge: ridge of every problem, in units of its mean input energy; None: by its inputs and samples.
        seed: seed for drawing rows where there are more than needed.
        threads: intra-op threads; 0 lets the runtime choose.
        batch_size: samples in a run through the graph.
    """

    original: ModelView
    samples: Dataset
    ridge: float | None = None
    seed: int = 0
    threads: int = 0
    batch_size: int = 32

    def moments(
        self,
        compressed: ModelView,
        layers: Sequence[CalibratedLayer],
        *,
        centred: bool = True,
        branches: Mapping[str, str] | None = None,
        targets: Mapping[str, LayerTarget] | None = None,
    ) -> dict[str, Moments]:
        """Return the moments of ``layers`` by site name, X being their inputs in ``compressed``.

        A layer is missing whose inputs are not finite because some weight of the model is not, or is huge.

        Args:
            compressed: the present model.
            layers: the layers.
            centred: subtract means where a layer has a bias that corrects them.
            branches: by site name, the value that is added to the layer's outputs, of their shape. The
                target is then the original's sum, less that value in the present model.
            targets: by site name, the target of a layer that the original does not have.

        Raises:
            DataError: inputs are not finite, or too large, though all weights are finite and not huge.
        """
        stated = targets or {}
        new = {name: stated[name] for name in (layer.site.name for layer in layers) if name in stated}
        sums = {
            layer.site.name: MomentSums(
                layer.extractors[0].layout.matrix(self._weights(layer.site, new)),
                layer.extractors[0].layout.group,
                centred and layer.bias is not None,
            )
            for layer in layers
        }
        batches = -(-len(self.samples) // self.batch_size)
        added = {name: value for name, value in (branches or {}).items() if name not in new}
        flows = self._flows(
            compressed, layers, tuple(added.values()), tuple(target.value for target in new.values())
        )
        for number, (before, after) in enumerate(flows):
            for layer in [each for each in layers if each.site.name in sums]:
                for place, extractor in enumerate(layer.extractors):
                    count = -(-layer.rows_requested // (batches * len(layer.extractors)))
                    shares = None if layer.argmax_positions is None else layer.argmax_positions.shares(before)
                    choice = SampledRows(count, (self.seed, number, place), shares)
                    x = extractor.input_rows(after, choice)
                    is_new = layer.site.name in new
                    x0 = x if after is before or is_new else extractor.input_rows(before, choice)
                    if not (_is_usable(x) and _is_usable(x0)):
                        if not self._holds_extremes():
                            raise _not_finite(layer)
                        del sums[layer.site.name]
                        break
                    drift = None
                    if layer.site.name in added and before is not after:
                        branch = added[layer.site.name]
                        drift = extractor.output_rows(before[branch] - after[branch], choice)
                    if is_new:  # the target is the stated value alone
                        x0, drift = (
                            np.zeros_like(x),
                            extractor.output_rows(before[new[layer.site.name].value], choice),
                        )
                    sums[layer.site.name].add(x, x0, number % 2, drift)
        return {name: total.finish(self.ridge) for name, total in sums.items()}

    def _weights(self, site: WeightSite, new: Mapping[str, LayerTarget]) -> Array:
        return new[site.name].weights if site.name in new else self.original.read(site)

    def first_values(self, names: Sequence[str]) -> Feeds:
        """Return values of the original by name, of its first run with the samples."""
        batch = next(self.samples.batches(1))
        return next(InnerValues(self.original, tuple(dict.fromkeys(names)), self.threads).runs(batch.feeds))

    def _holds_extremes(self) -> bool:
        """Return whether a weight of the original is not finite or huge, and so may be values behind it."""
        weights = (self.original.read(site) for site in self.original.sites() if site.size)
        return any(why_unusable(weight) is not None for weight in weights)

    def argmax_rows(
        self, compressed: ModelView, layer: CalibratedLayer, memory_bytes: int
    ) -> ArgmaxRows | None:
        """Return the rows at the maximum behind ``layer``, X being its inputs in ``compressed``.

        Only as many samples are used as fit the memory. None where no maximum follows, or it does not choose
        from the layer's rows as they are.

        Args:
            compressed: the present model, with the layer's own new weights.
            layer: the layer.
            memory_bytes: memory for the rows, in bytes.
        """
        if layer.argmax_positions is None:
            return None
        (extractor,) = layer.extractors
        weights = extractor.layout.matrix(self.original.read(layer.site)).astype(np.float32)
        parts: list[ArgmaxRows] = []
        for before, after in self._flows(compressed, [layer]):
            if not (layer.argmax_positions.fits(before) and layer.argmax_positions.fits(after)):
                return None
            (best, count), (hard_negatives, _) = (
                layer.argmax_positions.places(before),
                layer.argmax_positions.places(after),
            )
            at = np.unique([best, hard_negatives])
            x, x0 = (extractor.input_rows(values, FixedRows(at, count)) for values in (after, before))
            if x.shape[1] != len(at):
                return None
            blocks = weights.reshape(len(x0), -1, weights.shape[1])
            targets = np.concatenate(list(x0.astype(np.float32) @ np.swapaxes(blocks, 1, 2)), axis=1)
            parts.append(
                ArgmaxRows(
                    x=x.astype(np.float32),
                    targets=targets,
                    best=np.searchsorted(at, best),
                    hard_negatives=np.searchsorted(at, hard_negatives),
                    is_centred=layer.bias is not None,
                    ridge=self.ridge,
                )
            )
            if sum(part.x.nbytes for part in parts) > memory_bytes:
                break
        return ArgmaxRows.joined(parts)

    def _flows(
        self,
        compressed: ModelView,
        layers: Sequence[CalibratedLayer],
        others: Sequence[str] = (),
        of_original: Sequence[str] = (),
    ) -> Iterator[tuple[Feeds, Feeds]]:
        """Yield the values in the original and in the compressed model, batch by batch."""
        read = (name for layer in layers for name in layer.exposed_values)
        exposed_values = tuple(dict.fromkeys([*read, *others]))
        original = InnerValues(
            self.original, tuple(dict.fromkeys([*exposed_values, *of_original])), self.threads
        )
        other = None if compressed is self.original else InnerValues(compressed, exposed_values, self.threads)
        for batch in self.samples.batches(self.batch_size):
            before = original.runs(batch.feeds)
            after = None if other is None else other.runs(batch.feeds)
            for values in before:
                yield values, values if after is None else next(after)
