"""Pools, reductions, normalisations and recurrent layers."""

from __future__ import annotations

from functools import partial

import numpy as np

from onnx_admm.model.channels.labels import Axis
from onnx_admm.model.channels.survey import Keep, NotFollowed, Survey
from onnx_admm.model.edit import NodeRef
from onnx_admm.model.view import ModelView

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def pool(survey: Survey, node: NodeRef) -> None:
    """Label pools over the axes behind the second; the channels stay as they are."""
    axes = survey.of(node.input(0))
    survey.block(axes[2:], f"{node.op_type} {node.name} pools over them")
    result = (*axes[:2], *(None,) * (len(axes) - 2))
    for output in node.outputs:
        survey.axes[output] = result


def reduce(survey: Survey, node: NodeRef) -> None:
    """Label a reduction over stated axes (ReduceMean-18; before, the axes are an attribute)."""
    axes = survey.of(node.input(0))
    rank = len(axes)
    given = node.attribute("axes") if node.input(1) is None else survey.stored(node, 1)
    if node.op_type in ("ArgMax", "ArgMin"):
        given = [node.attribute("axis", 0)]
    if given is None and node.attribute("noop_with_empty_axes", 0):
        survey.axes[node.outputs[0]] = axes
        return
    reduced = {int(a) % rank for a in (range(rank) if given is None else given)} if rank else set()
    survey.block([axes[place] for place in reduced], f"{node.op_type} {node.name} mixes channels")
    if node.attribute("keepdims", 1):
        result = tuple(None if place in reduced else axis for place, axis in enumerate(axes))
    else:
        result = tuple(axis for place, axis in enumerate(axes) if place not in reduced)
    survey.axes[node.outputs[0]] = result


def per_channel_norm(survey: Survey, node: NodeRef) -> None:
    """Label BatchNormalization and InstanceNormalization: parameters count the channels of axis 1."""
    if node.attribute("training_mode", 0) or not node.attribute("spatial", 1):
        raise NotFollowed(f"{node.name} normalises in training mode, or every activation by itself")
    axes = survey.of(node.input(0))
    for value in node.inputs[1:]:
        if value is not None:
            reason = f"a parameter of {node.name} has another length"
            survey.join(axes[1], survey.of(value)[0], reason)
    if node.op_type == "InstanceNormalization":
        survey.block(axes[2:], f"{node.name} normalises over them")
    survey.axes[node.outputs[0]] = axes


def group_norm(survey: Survey, node: NodeRef) -> None:
    """Label GroupNormalization: the channels of a group go together (GroupNormalization-21)."""
    axes = survey.of(node.input(0))
    groups, source = node.attribute("num_groups"), axes[1]
    if source is None:
        raise NotFollowed(f"{node.name} normalises an input of the model")
    first = survey.labels.unite_rows(source.reshape(groups, -1).T)
    for value in node.inputs[1:3]:
        labels = survey.of(value)[0]
        survey.join(
            source if labels is not None and len(labels) > groups else first, labels, "lengths differ"
        )
    survey.adjust(node, partial(_set_groups, node, first))
    survey.axes[node.outputs[0]] = axes


def _set_groups(node: NodeRef, first: Axis, model: ModelView, keep: Keep) -> None:
    model.set_attribute(node, "num_groups", int(np.count_nonzero(keep(first))))


def layer_norm(survey: Survey, node: NodeRef) -> None:
    """Label LayerNormalization and RMSNormalization: what they normalise over stays."""
    axes = survey.of(node.input(0))
    axis = node.attribute("axis", -1) % len(axes)
    survey.block(axes[axis:], f"{node.op_type} {node.name} normalises over them together")
    for value in node.inputs[1:]:
        if value is not None:
            survey.block(survey.of(value), f"{node.op_type} {node.name} normalises over them together")
    survey.axes[node.outputs[0]] = axes
    for output in node.outputs[1:]:
        survey.axes[output] = (*axes[:axis], *(None,) * (len(axes) - axis))


def recurrent(survey: Survey, node: NodeRef) -> None:
    """Label LSTM, GRU and RNN: a hidden unit is a row of every gate, a column of R and a place of the states.

    Both directions of a layer have one ``hidden_size``, so units go together in both. Source: LSTM-14.
    """
    gates = GATES[node.op_type]
    data, weight, recurrence = node.input(0), node.input(1), node.input(2)
    if data is None or weight is None or recurrence is None:
        raise NotFollowed(f"{node.name} has no weights")
    read = survey.layer(node, weight, 2, reads=True)
    survey.join(survey.of(data)[2], read, f"{node.name} reads an input of the model")
    hidden = survey.layer(node, recurrence, 2, reads=True)
    written = survey.layer(node, weight, 1, reads=False)
    if hidden is None:
        raise NotFollowed(f"{node.name} has one hidden unit")
    rows = np.tile(hidden, gates)
    survey.join(rows, written, "gates differ")
    survey.join(rows, survey.of(recurrence)[1], "gates differ")
    for index, times in ((3, 2 * gates), (7, 3)):
        value = node.input(index)
        if value is not None:
            survey.join(
                np.tile(hidden, times), survey.of(value)[1], f"a parameter of {node.name} is computed"
            )
    for index in (5, 6):
        value = node.input(index)
        if value is not None:
            survey.join(hidden, survey.of(value)[2], f"the first state of {node.name} is an input or stays")
    survey.adjust(node, partial(_set_hidden, node, hidden))
    sequence = None
    places = (4, 3, 3)
    for output, rank in zip(node.outputs, places, strict=False):
        survey.axes[output] = (*(sequence,) * (rank - 1), hidden)


def _set_hidden(node: NodeRef, hidden: Axis, model: ModelView, keep: Keep) -> None:
    model.set_attribute(node, "hidden_size", int(np.count_nonzero(keep(hidden))))
