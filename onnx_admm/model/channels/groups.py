"""Groups of channels: units that can be removed one by one, and all that a unit takes with it.

A unit is a set of positions that can only be removed together: an output channel of a layer with all that
passes it on and reads it, an attention head, a hidden unit of a recurrent layer. The units of layers that are
added (residual branches) are the same. A group is what one layer writes, together with the layers that write
the same units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnx_admm.model.analysis.shapes import forget_shapes
from onnx_admm.model.channels.following import follow
from onnx_admm.model.channels.labels import Axis
from onnx_admm.model.channels.survey import LayerAxis, Mask, Survey
from onnx_admm.model.edit import NodeRef, ValueRef
from onnx_admm.model.view import ModelView

Units = npt.NDArray[np.int64]
"""Units of the positions along an axis; -1 for positions of another group, and for those that stay."""


@dataclass(frozen=True, slots=True, eq=False)
class Port:
    """A layer at the value it writes or reads.

    Attributes:
        node: the layer.
        value: the value.
        weight: the layer's weight.
        axis: axis of the weight that counts the channels.
        units: units of the positions along that axis, (extent,).
    """

    node: NodeRef
    value: ValueRef
    weight: ValueRef
    axis: int
    units: Units


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """A constant with numbers for each channel, and the units of the positions along one axis."""

    value: ValueRef
    axis: int
    units: Units


@dataclass(frozen=True, slots=True, eq=False)
class PassThrough:
    """A node that passes channels on, with its constants; there once for each branch that it joins."""

    node: NodeRef
    source: ValueRef
    target: ValueRef
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units that are removed from the same places.

    Attributes:
        name: names of the weights that write them.
        units: number of units.
        stays: which of them cannot be removed, (units,).
        blocked: why no unit can be removed; None where some can.
        why_fixed: why the units in ``stays`` cannot be removed; None where all can.
        writers, readers: layers in graph order.
        pass_through: nodes between them, in graph order.
    """

    name: str
    units: int
    stays: Mask
    blocked: str | None
    why_fixed: str | None
    writers: tuple[Port, ...]
    readers: tuple[Port, ...]
    pass_through: tuple[PassThrough, ...]

    @cached_property
    def is_plain(self) -> bool:
        """Whether unit c is channel c of every layer that writes it, and all units can be removed."""
        order = np.arange(self.units)
        return not self.stays.any() and all(np.array_equal(port.units, order) for port in self.writers)


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """Groups of a model's channels, and their removal.

    Attributes:
        groups: every group that some layer of the main graph writes, in graph order.
        survey: the labels that they come from.
        roots: labels of the units of each group.
    """

    groups: tuple[ChannelGroup, ...]
    survey: Survey
    roots: tuple[Axis, ...]

    def allowed(self, keep: Mapping[int, Mask]) -> dict[int, Mask]:
        """Return masks that keep what must stay too: fixed units, and one position of every axis.

        Args:
            keep: by index of a group, which units stay, (units,).
        """
        masks = {index: mask | self.groups[index].stays for index, mask in keep.items()}
        for axes in (*self.survey.axes.values(), *self.survey.constants.values()):
            for axis in axes:
                if axis is None or self._mask(axis, masks).any():
                    continue
                root = self.survey.labels.roots(axis[:1])[0]
                index = next(i for i in masks if root in self.roots[i])
                masks[index] = masks[index] | (self.roots[index] == root)
        return masks

    def remove(self, keep: Mapping[int, Mask]) -> None:
        """Remove units from the model; the map is then out of date.

        Outputs stay as if the readers' weights for these units were zero.

        Args:
            keep: by index of a group, which units stay, (units,); as `allowed` returns it.
        """
        view, survey = self.survey.view, self.survey
        for _, change in survey.adjustments:
            change(view, lambda axis: self._mask(axis, keep))
        for value, axes in survey.constants.items():
            array = None
            for place, axis in enumerate(axes):
                mask = None if axis is None else self._mask(axis, keep)
                if mask is not None and not mask.all():
                    array = value.constant() if array is None else array
                    array = None if array is None else np.compress(mask, array, axis=place)
            if array is not None:
                view.write(value, array)
        forget_shapes(view)

    def _mask(self, axis: Axis, keep: Mapping[int, Mask]) -> Mask:
        gone = [self.roots[index][~mask] for index, mask in keep.items()]
        if not gone:
            return np.ones(len(axis), np.bool_)
        return ~np.isin(self.survey.labels.roots(axis), np.concatenate(gone))


def channel_map(view: ModelView) -> ChannelMap:
    """Return the groups of channels of a model."""
    survey = follow(view)
    reasons = survey.labels.reasons()
    parts = _parts([layer for layer in survey.layers if not layer.reads], survey)
    groups: list[ChannelGroup] = []
    taken: set[str] = set()
    for number, roots in enumerate(parts):
        stays = np.array([root in reasons for root in roots.tolist()])
        why = next((reasons[root] for root in roots.tolist() if root in reasons), None)
        group = _group(survey, roots)
        name = f"{group.name} #{number}" if group.name in taken else group.name
        taken.add(name)
        blocked = why if stays.all() else None
        groups.append(replace(group, name=name, stays=stays, blocked=blocked, why_fixed=why))
    return ChannelMap(tuple(groups), survey, parts)


def find_channel_groups(view: ModelView) -> tuple[ChannelGroup, ...]:
    """Return every group of channels that some layer of the main graph writes, in graph order."""
    return channel_map(view).groups


def _parts(writers: Sequence[LayerAxis], survey: Survey) -> tuple[Axis, ...]:
    """Return the representatives of each group's units, in the order of the first layer that writes them."""
    found: list[list[int]] = []
    place: dict[int, int] = {}
    for layer in writers:
        own = list(dict.fromkeys(survey.labels.roots(layer.labels).tolist()))
        met = sorted({place[root] for root in own if root in place})
        target = met[0] if met else len(found)
        if not met:
            found.append([])
        for other in met[1:]:
            found[target] += found[other]
            found[other] = []
        found[target] += [root for root in own if root not in place]
        place.update(dict.fromkeys(found[target], target))
    return tuple(np.array(roots, np.int64) for roots in found if roots)


def _group(survey: Survey, roots: Axis) -> ChannelGroup:
    ports = [
        (layer.reads, Port(layer.node, layer.value, layer.weight, layer.axis, units))
        for layer in survey.layers
        if (units := _units(survey, layer.labels, roots)).max(initial=-1) >= 0
    ]
    writers = tuple(port for reads, port in ports if not reads)
    readers = tuple(port for reads, port in ports if reads)
    layers = {port.node for _, port in ports}
    return ChannelGroup(
        name=" + ".join(dict.fromkeys(port.weight.name for port in writers)),
        units=len(roots),
        stays=np.zeros(len(roots), np.bool_),
        blocked=None,
        why_fixed=None,
        writers=writers,
        readers=readers,
        pass_through=tuple(_between(survey, roots, layers)),
    )


def _units(survey: Survey, labels: Axis, roots: Axis) -> Units:
    """Return the unit of each label, -1 where it belongs to another group."""
    order = np.argsort(roots)
    found = survey.labels.roots(labels)
    places = np.minimum(np.searchsorted(roots, found, sorter=order), len(roots) - 1)
    units = order[places]
    return np.where(roots[units] == found, units, -1)


def _between(survey: Survey, roots: Axis, layers: set[NodeRef]) -> list[PassThrough]:
    """Return the nodes that pass a group's units on."""
    found = []
    for node in survey.view.nodes():
        if node.scope or node in layers or not any(_has(survey, value, roots) for value in node.outputs):
            continue
        inputs = [value for value in dict.fromkeys(node.inputs) if value is not None]
        labelled = [value for value in inputs if _has(survey, value, roots)]
        parameters = tuple(
            Parameter(value, place, _units(survey, axis, roots))
            for value in labelled
            if value.constant_shape is not None
            for place, axis in _axes_of(survey, value, roots).items()
        )
        found += [
            PassThrough(node, value, node.outputs[0], parameters)
            for value in labelled
            if value.constant_shape is None
        ]
    return found


def _has(survey: Survey, value: ValueRef, roots: Axis) -> bool:
    return bool(_axes_of(survey, value, roots))


def _axes_of(survey: Survey, value: ValueRef, roots: Axis) -> dict[int, Axis]:
    return {
        place: axis
        for place, axis in enumerate(survey.axes.get(value, ()))
        if axis is not None and np.isin(survey.labels.roots(axis), roots).any()
    }
