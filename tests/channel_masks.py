"""Channels masked where they are read: what removal must be equal to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnx_admm.model import ModelView
from onnx_admm.model.channels.groups import ChannelMap, Port, channel_map
from onnx_admm.model.channels.survey import Mask


def random_masks(channels: ChannelMap, seed: int, share: float = 0.6) -> dict[int, Mask]:
    """Units that stay in each group, drawn at random, as far as they may go."""
    rng = np.random.default_rng(seed)
    drawn = {
        index: rng.random(group.units) < share
        for index, group in enumerate(channels.groups)
        if group.blocked is None
    }
    return channels.allowed(drawn)


def masked(view: ModelView, keep: Mapping[int, Mask]) -> ModelView:
    """A copy whose readers have zero weights for the units that go."""
    fork = view.fork()
    for index, mask in keep.items():
        for port in channel_map(fork).groups[index].readers:
            _mask(fork, port, (port.units >= 0) & ~mask[port.units])
    return fork


def removed(view: ModelView, keep: Mapping[int, Mask]) -> ModelView:
    """A copy without the units that go."""
    fork = view.fork()
    channel_map(fork).remove(keep)
    return fork


def _mask(view: ModelView, port: Port, gone: Mask) -> None:
    array = port.weight.constant()
    if array is not None:
        np.moveaxis(array, port.axis, 0)[gone] = 0
        view.write(port.weight, array)
        return
    node, weight = port.node.ir_node, port.weight.ir_value
    rank = len(channel_map(view).survey.shape(port.weight))
    shape = [1] * rank
    shape[port.axis] = len(gone)
    stays = ir.tensor((~gone).astype(np.float32).reshape(shape))
    constant = ir.node("Constant", [], {"value": stays})
    product = ir.node("Mul", [weight, constant.outputs[0]])
    for made, name in ((constant, "stays"), (product, "masked")):
        made.outputs[0].name = f"{weight.name}_{name}_{node.outputs[0].name}"
    assert node.graph is not None
    node.graph.insert_before(node, [constant, product])
    node.replace_input_with(list(node.inputs).index(weight), product.outputs[0])
