"""Limits of a run on memory, time and operations."""

from onnx_admm.limits.budget import RunBudget, RunLimits
from onnx_admm.limits.memory import MUCH_BYTES, collect_garbage, return_freed
from onnx_admm.limits.run import current_budget, in_a_run, interruptible, run_within

__all__ = [
    "MUCH_BYTES",
    "RunBudget",
    "RunLimits",
    "collect_garbage",
    "current_budget",
    "in_a_run",
    "interruptible",
    "return_freed",
    "run_within",
]
