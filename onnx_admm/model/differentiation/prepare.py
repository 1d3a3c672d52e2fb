"""From a model to the records that gradient rules work on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_admm.model.differentiation.inline_bodies import HasRule, write_out
from onnx_admm.model.differentiation.read_graph import Run, read_graph, with_fixed_inputs
from onnx_admm.model.differentiation.records import Array, StaticGraph
from onnx_admm.model.differentiation.take_branches import take_branches

_DEEPEST = 8
"""Branches hold nodes with branches."""


def static_graph(
    proto: onnx.ModelProto, feeds: Mapping[str, Array], run: Run, has_rule: HasRule
) -> StaticGraph:
    """Read a model for inputs of the feeds' shapes, operators without a rule written out where they can be.

    Args:
        proto: the model; it stays as it is.
        feeds: an array for each input.
        run: runs a model.
        has_rule: whether an operator has a rule or needs none.

    Raises:
        UnsupportedModel: the model does not run on the feeds.
    """
    fixed = with_fixed_inputs(proto, {name: np.shape(array) for name, array in feeds.items()})
    fixed = write_out(fixed, has_rule)
    for _ in range(_DEEPEST):
        read = read_graph(fixed, feeds, run)
        taken = take_branches(fixed, read.known)
        if taken is None:
            return read
        fixed = write_out(taken, has_rule)
    return read
