"""Effect of each group's removal: the order of its units, and the error of the outputs at each width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.calibration.stream import Calibration
from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model.channels.groups import ChannelGroup, Units, channel_map
from onnx_admm.removal.elimination import Elimination, eliminate
from onnx_admm.removal.readers import Reader, Refitting, readers_of
from onnx_admm.removal.widths import Floats

_LEAST = 1e-12
"""Relative errors below it count as it."""

_TRIED = (0.75, 0.5, 0.25, 0.1)
"""Shares of the units that stay where the effect on the outputs is measured."""


@dataclass(frozen=True, eq=False)
class StudiedGroup:
    """One group of which units can be removed.

    Attributes:
        index: its index among the model's groups.
        group: the group.
        elimination: order and errors of the removal of its units.
        removed: numbers of removed units at which the outputs were measured, rising.
        lost: relative errors of the outputs there.
    """

    index: int
    group: ChannelGroup
    elimination: Elimination
    removed: tuple[int, ...]
    lost: tuple[float, ...]

    @property
    def order(self) -> Units:
        """Units in the order of their removal."""
        return np.array(self.elimination.order, np.int64)

    def errors(self, widths: Sequence[int]) -> Floats:
        """Return the expected relative error of the outputs at some widths.

        Between the measured widths the ratio of the outputs' error to the readers' is interpolated.
        """
        removed = np.array([self.group.units - width for width in widths])
        along = np.concatenate([[0.0], self.elimination.errors])
        own: Floats = along[removed]
        if not self.removed:
            return own
        ratios = np.log(np.maximum(self.lost, _LEAST) / np.maximum(along[list(self.removed)], _LEAST))
        scaled: Floats = own * np.exp(np.interp(removed, self.removed, ratios))
        return scaled

    def widths(self, parts: int) -> tuple[int, ...]:
        """Return widths from all units down to the fewest, in at most about ``parts`` steps."""
        least = max(1, self.group.units - len(self.elimination.order))
        step = max(1, self.group.units // parts)
        inner = [width for width in range(self.group.units, least - 1, -1) if width % step == 0]
        return tuple(dict.fromkeys((self.group.units, *inner, least)))


def study(
    calibration: Calibration,
    groups: Sequence[tuple[int, ChannelGroup]],
    few: Dataset,
    told: Callable[[str], None],
) -> tuple[list[StudiedGroup], dict[str, str]]:
    """Return the effect of removing each group's units, and the reasons why other groups cannot be studied.

    Each group is studied by itself, in the unchanged model: its units are eliminated one by one, and the
    error of the outputs is measured at several widths, with the readers refitted.

    Args:
        calibration: samples and the model.
        groups: groups with their indices.
        few: samples on which the outputs are measured.
        told: receives the name of each group that is done.
    """
    model = calibration.original
    sites = {site.name: site for site in model.sites()}
    studied, left = [], {}
    for index, group in groups:
        readers = readers_of(model, group, sites)
        if isinstance(readers, str):
            left[group.name] = readers
            continue
        if not readers:
            left[group.name] = "no layer reads its channels"
            continue
        made = model.fork()
        refitting = Refitting(calibration, made)
        problems, moments = refitting.problems(readers)
        if len(problems) < len(readers):
            left[group.name] = "the inputs of a layer that reads its channels are not finite"
            continue
        found = eliminate(problems, group.units, group.stays, group.units - 1)
        own, lost = _readers_in(made, index), dict[int, float]()
        for share in _TRIED:
            count = min(len(found.order), round(group.units * (1 - share)))
            if count and count not in lost:
                gone = np.array(found.order[:count], np.int64)
                refitting.refit(own, problems, moments, gone)
                probe = OutputProbe(made, (), few, reference=model, threads=calibration.threads)
                lost[count] = probe.relative_error({})
        studied.append(StudiedGroup(index, group, found, tuple(lost), tuple(lost.values())))
        told(group.name)
    return studied, left


def _readers_in(model: ModelView, index: int) -> Sequence[Reader]:
    """Return the readers of a group as nodes of another copy of the model."""
    group = channel_map(model).groups[index]
    readers = readers_of(model, group, {site.name: site for site in model.sites()})
    return () if isinstance(readers, str) else readers
