"""ADMM itself: constraint sets, the loop, closed forms. Knows nothing of ONNX."""

from onnx_admm.admm.blocks import GlobalAtMostK, JointSet, Separable
from onnx_admm.admm.levels import Levels, Quantized, SparseLevels, SupportLevels
from onnx_admm.admm.nested import Nested
from onnx_admm.admm.schedule import RhoSchedule
from onnx_admm.admm.sets import Array, AtMostK, BlockK, Blocks, ChannelK, ConstraintSet, NofM, Support
from onnx_admm.admm.solver import (
    Problem,
    Record,
    Solution,
    State,
    Status,
    Stopping,
    WStep,
    initial_state,
    solve,
    step,
)

__all__ = [
    "Array",
    "AtMostK",
    "BlockK",
    "Blocks",
    "ChannelK",
    "ConstraintSet",
    "GlobalAtMostK",
    "JointSet",
    "Levels",
    "Nested",
    "NofM",
    "Problem",
    "Quantized",
    "Record",
    "RhoSchedule",
    "Separable",
    "Solution",
    "SparseLevels",
    "State",
    "Status",
    "Stopping",
    "Support",
    "SupportLevels",
    "WStep",
    "initial_state",
    "solve",
    "step",
]
