"""ADMM: constraint sets, the loop, and closed-form W-steps; no ONNX here."""

from onnx_admm.admm.loop.schedule import Penalty, RhoSchedule, SupportDriven
from onnx_admm.admm.loop.solver import (
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
from onnx_admm.admm.reconstruction.layer_problem import LayerProblem, ridge_for
from onnx_admm.admm.reconstruction.reconstruct import Reconstructed, ReconstructionSettings, reconstruct
from onnx_admm.admm.sets.blocks import GlobalAtMostK, JointSet, Separable
from onnx_admm.admm.sets.levels import Levels, Quantized, SparseLevels, SupportLevels
from onnx_admm.admm.sets.nested import Nested
from onnx_admm.admm.sets.reshaped import Reshaped
from onnx_admm.admm.sets.shifted import ShiftedLevels
from onnx_admm.admm.sets.supports import (
    Array,
    AtMostK,
    BlockK,
    Blocks,
    ChannelK,
    ConstraintSet,
    NofM,
    Support,
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
    "LayerProblem",
    "Levels",
    "Nested",
    "NofM",
    "Penalty",
    "Problem",
    "Quantized",
    "Reconstructed",
    "ReconstructionSettings",
    "Record",
    "Reshaped",
    "RhoSchedule",
    "Separable",
    "ShiftedLevels",
    "Solution",
    "SparseLevels",
    "State",
    "Status",
    "Stopping",
    "Support",
    "SupportDriven",
    "SupportLevels",
    "WStep",
    "initial_state",
    "reconstruct",
    "ridge_for",
    "solve",
    "step",
]
