"""Limits of a run on memory, time and operations."""

from onnx_admm.limits.budget import RunBudget, RunLimits
from onnx_admm.limits.run import current_budget, interruptible, run_within

__all__ = ["RunBudget", "RunLimits", "current_budget", "interruptible", "run_within"]
