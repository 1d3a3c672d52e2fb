"""RemoveChannels: remove channels with the least error of the layers that read them, and refit these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from onnx_admm.calibration.samples import calibration_samples
from onnx_admm.calibration.stream import Calibration
from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport, Skip, WeightSite
from onnx_admm.errors import NothingToDo
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.channels.groups import ChannelMap, Units, channel_map
from onnx_admm.model.channels.survey import Mask
from onnx_admm.pipeline import MODEL
from onnx_admm.removal.elimination import eliminate
from onnx_admm.removal.node_costs import (
    basis_of_cost,
    check_cost,
    costs_of,
    mac_ratios,
    priced_ratios,
    require_cost,
)
from onnx_admm.removal.readers import Reader, Refitting, readers_of
from onnx_admm.removal.study import StudiedGroup, study
from onnx_admm.removal.widths import WidthOptions, Widths, choose_widths
from onnx_admm.selection.layers import choose_sites
from onnx_admm.settings.ranges import NonNegative, PositiveShare, Samples

_PROBE_SAMPLES = 128
_MOST_CORRECTIONS = 6
"""Most rounds in which the requested share is corrected by the share that is counted."""

_CLOSE, _LESS = 1.0005, 0.99
"""Shares that count as met, and the relative difference from which on a width counts as faster."""

_MAC_STEPS, _PRICED_STEPS = 64, 16
"""Approximate number of widths considered for a group: by formula, and where each is priced."""


_ALL_STAY = "all its channels stay: those of other layers cost the outputs less"


@dataclass(frozen=True, eq=False)
class ChannelStudy:
    """What the channels of a model are worth to its outputs.

    Attributes:
        calibration: samples, and the model as it was studied.
        groups: its groups that can be narrowed.
        left: reasons for the others, by group or layer.
    """

    calibration: Calibration
    groups: tuple[StudiedGroup, ...]
    left: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class PricedWidths:
    """What the widths of each group cost.

    Attributes:
        costs: present cost of every node.
        options: widths of each group, by its index.
    """

    costs: Mapping[str, float]
    options: Mapping[int, WidthOptions]


@dataclass(frozen=True, kw_only=True)
class RemoveChannels:
    """Remove output channels, neurons, heads and hidden units until a share of the cost is left.

    Channels that belong together (added branches, gates, heads) are removed together. In each group they are
    chosen one by one: each time the one whose removal adds the least error to the layers that read it, after
    their weights are refitted by least squares. The number of each group is chosen by the error of the
    outputs and the cost that it saves. Uses no labels and no training. Inputs, outputs and classes stay.

    Attributes:
        keep: share of the cost that may be left, above 0 and at most 1.
        quantity: the cost: ``"macs"`` (multiply-accumulates), or ``"latency"`` and others that the cost model
            prices. Widths that the cost model finds no faster than wider ones are not taken.
        samples: calibration samples, taken from the training data: equally many of each predicted class.
        ridge: weight of the distance to the original weights, in units of the mean energy of a layer's
            inputs; None: by the number of samples.
        include, exclude: patterns of layer names or operators; a group is narrowed if all layers that write
            it are included and none is excluded.
    """

    name: ClassVar[str] = "remove_channels"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    keep: PositiveShare = 0.5
    quantity: Literal["macs", "latency", "energy", "size"] = "macs"
    samples: Samples = 512
    ridge: NonNegative | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        check_cost(self.keep, self.quantity, context)

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        try:
            studied = self.study(model, context)
        except NothingToDo as reason:
            return PassReport(False, skipped=(Skip(MODEL, str(reason)),), unmet=f"not reachable: {reason}")
        return self.remove(model, studied, self.price(studied, context), context)

    # -- in parts: several shares of one model are tried at the price of one study ---------------

    def study(self, model: ModelView, context: PassContext) -> ChannelStudy:
        """Study what the channels of each group are worth to the outputs; the same for every ``keep``.

        Raises:
            NothingToDo: no channel can be removed.
        """
        original = model.fork()
        channels = channel_map(original)
        chosen, left = self._choose_groups(channels)
        if not chosen:
            first = next(iter(left.items()), ("the model", "no layer writes channels that another one reads"))
            raise NothingToDo("no channel can be removed", got=f"{first[0]}: {first[1]}")
        calibration = Calibration(
            original=original,
            samples=calibration_samples(context, self.samples),
            ridge=self.ridge,
            seed=context.seed,
            threads=context.settings.threads,
        )
        groups = channels.groups
        few = calibration.samples.select(np.arange(min(len(calibration.samples), _PROBE_SAMPLES)))
        with context.progress.task("study", len(chosen)) as task:
            studied, unknown = study(
                calibration, [(i, groups[i]) for i in chosen], few, lambda name: task.advance(note=name)
            )
        left |= unknown
        if not studied:
            first = next(iter(left.items()))
            raise NothingToDo("no channel can be removed", got=f"{first[0]}: {first[1]}")
        return ChannelStudy(calibration, tuple(studied), left)

    def price(self, studied: ChannelStudy, context: PassContext) -> PricedWidths:
        """Price the widths of each group; the same for every ``keep``.

        Raises:
            PassRefused: the model costs nothing.
        """
        model = studied.calibration.original
        costs = self._cost(model, context)
        require_cost(costs)
        options = {}
        with context.progress.task("prices of widths", len(studied.groups)) as task:
            for each in studied.groups:
                options[each.index] = self._options(model, each, costs, context)
                task.advance(note=each.group.name)
        return PricedWidths(costs, options)

    def remove(
        self, model: ModelView, studied: ChannelStudy, priced: PricedWidths, context: PassContext
    ) -> PassReport:
        """Remove channels until the share is left.

        Args:
            model: the studied model, changed in place.
            studied: its study.
            priced: prices of its widths.
            context: of the pass.
        """
        original = studied.calibration.original
        widths = self._widths(model, studied.groups, priced, context)
        rows = self._remove(model, studied, widths, context)
        edits = tuple(Edit(name, _what(row)) for name, row in rows.items() if row["kept"] < row["of"])
        figures = {
            "quantity": self.quantity,
            "basis": basis_of_cost(self.quantity, context),
            "asked": self.keep,
            "reached": widths.share,
            "groups": rows,
        }
        unmet = None
        if widths.share > self.keep * _CLOSE:
            unmet = f"{self.quantity} of {widths.share:.3g}x remain where {self.keep:g}x was asked for"
        left = {**studied.left, **{name: _ALL_STAY for name, row in rows.items() if row["kept"] == row["of"]}}
        skipped = tuple(Skip(name, why) for name, why in left.items())
        return PassReport(not same_model(original, model), edits, skipped, figures, unmet)

    # -- which groups ------------------------------------------------------------------------

    def _choose_groups(self, channels: ChannelMap) -> tuple[list[int], dict[str, str]]:
        """Return the indices of groups to narrow, and the reasons for the others."""
        model = channels.survey.view
        sites, skipped = choose_sites(model.sites(), self.include, self.exclude)
        named, reasons = {site.name for site in sites}, {skip.layer: skip.why for skip in skipped}
        chosen, left = [], dict[str, str]()
        for index, group in enumerate(channels.groups):
            writers = [port.weight.name for port in group.writers]
            others = [name for name in writers if name not in named]
            if group.blocked is not None:
                left[group.name] = group.blocked
            elif others:
                why = reasons.get(others[0], "its weight is computed")
                left[group.name] = why if len(set(writers)) == 1 else f"{others[0]}: {why}"
            else:
                chosen.append(index)
        return chosen, left

    # -- how many ----------------------------------------------------------------------------

    def _cost(self, model: ModelView, context: PassContext) -> dict[str, float]:
        """Return the cost of every node."""
        return costs_of(model, self.quantity, context)

    def _widths(
        self, model: ModelView, studied: Sequence[StudiedGroup], priced: PricedWidths, context: PassContext
    ) -> Widths:
        """Return the widths that meet the share, as counted on a model of these widths."""
        costs, options, share = priced.costs, priced.options, self.keep
        for _ in range(_MOST_CORRECTIONS):
            widths = choose_widths(options, costs, share)
            narrow = model.fork()
            channels = channel_map(narrow)
            removed = {
                each.index: _mask(each.group.units, each.order[: each.group.units - widths.kept[each.index]])
                for each in studied
            }
            channels.remove(channels.allowed(removed))
            reached = sum(self._cost(narrow, context).values()) / sum(costs.values())
            if reached <= self.keep * _CLOSE:
                break
            share *= self.keep / reached
        return replace(widths, share=reached)

    def _options(
        self, model: ModelView, each: StudiedGroup, costs: Mapping[str, float], context: PassContext
    ) -> WidthOptions:
        """Return the widths of a group that cost less than the wider ones."""
        if self.quantity == "macs":
            widths = each.widths(_MAC_STEPS)
            return WidthOptions(widths, each.errors(widths), mac_ratios(each.group, each.order, widths))
        widths = each.widths(_PRICED_STEPS)
        priced = partial(self._cost, context=context)
        ratios = priced_ratios(model, each.index, each.order, widths, priced, costs)
        totals = np.zeros(len(widths))
        for node, cost in costs.items():
            totals += cost * ratios.get(node, np.ones(len(widths)))
        lowest = np.minimum.accumulate(np.concatenate([[np.inf], totals[:-1]]))
        worth = [place for place in range(len(widths)) if place == 0 or totals[place] < lowest[place] * _LESS]
        kept = tuple(widths[place] for place in worth)
        return WidthOptions(kept, each.errors(kept), {node: ratio[worth] for node, ratio in ratios.items()})

    # -- removing ----------------------------------------------------------------------------

    def _remove(
        self,
        model: ModelView,
        studied: ChannelStudy,
        widths: Widths,
        context: PassContext,
    ) -> dict[str, dict[str, Any]]:
        """Choose and refit group by group, in graph order, then cut; return report rows."""
        channels = channel_map(model)
        sites = {site.name: site for site in model.sites()}
        refitting = Refitting(studied.calibration, model)
        keep: dict[int, Mask] = {}
        rows: dict[str, dict[str, Any]] = {}
        with context.progress.task("remove", len(studied.groups)) as task:
            for each in studied.groups:
                group = channels.groups[each.index]
                count = group.units - widths.kept[each.index]
                readers = readers_of(model, group, sites)
                task.advance(note=group.name)
                if isinstance(readers, str):
                    continue
                if not (count or keep):
                    whole = {"kept": group.units, "of": group.units, "errors": {}, "expected_error": 0.0}
                    rows[group.name] = whole
                    continue
                problems, moments = refitting.problems(readers)
                found = eliminate(problems, group.units, group.stays, count)
                mask = _mask(group.units, np.array(found.order, np.int64))
                mask = channels.allowed({**keep, each.index: mask})[each.index]
                errors = refitting.refit(readers, problems, moments, np.flatnonzero(~mask))
                if not mask.all():
                    keep[each.index] = mask
                rows[group.name] = {
                    "kept": int(mask.sum()),
                    "of": group.units,
                    "errors": {name: float(error) for name, error in errors.items()},
                    "expected_error": float(each.errors((int(mask.sum()),))[0]),
                }
        if any(len(group.writers) > 1 for group in channels.groups):
            self._refit_again(model, channels, refitting, sites, context)
        channels = channel_map(model)
        channels.remove(keep)
        return rows

    def _refit_again(
        self,
        model: ModelView,
        channels: ChannelMap,
        refitting: Refitting,
        sites: Mapping[str, WeightSite],
        context: PassContext,
    ) -> None:
        """Refit all layers once more in graph order: later groups change the branches added to them."""
        readers: dict[str, Reader] = {}
        for group in channels.groups:
            found = readers_of(model, group, sites) if group.blocked is None else ()
            readers |= {reader.name: reader for reader in (() if isinstance(found, str) else found)}
        again = [readers[name] for name in sites if name in readers and refitting.has(name)]
        with context.progress.task("refit", len(again)) as task:
            for reader in again:
                problems, moments = refitting.problems([reader])
                refitting.refit([reader], problems, moments, np.zeros(0, np.int64))
                task.advance(note=reader.name)


def _mask(units: int, removed: Units) -> Mask:
    mask = np.ones(units, np.bool_)
    mask[removed] = False
    return mask


def _what(row: Mapping[str, Any]) -> str:
    """Return the report's sentence for one group."""
    lost = ", ".join(f"{name} {error:.2g}" for name, error in row["errors"].items())
    return f"{row['kept']} of {row['of']} channels kept; error of what reads them, refitted: {lost}"
