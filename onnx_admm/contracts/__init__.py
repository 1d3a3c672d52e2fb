"""Interfaces of passes, cost models, lint rules, trainers and datasets, and the frozen data they exchange."""

from onnx_admm.contracts.costs import (
    QUANTITIES,
    QUANTITY_OF,
    STRUCTURES,
    Composition,
    CompressionOption,
    Cost,
    CostModel,
    WholeModel,
)
from onnx_admm.contracts.data import IGNORED, Array, Batch, Blocks, Dataset, Feeds
from onnx_admm.contracts.layers import LayerSetting
from onnx_admm.contracts.lint import Finding, Level, LintRule, LintSubject, RuntimeTarget
from onnx_admm.contracts.metrics import Metric, MetricState
from onnx_admm.contracts.passes import Edit, Pass, PassContext, PassReport, Skip
from onnx_admm.contracts.progress import PartialProgress, Progress, SilentProgress, Task
from onnx_admm.contracts.training import Trainer, TrainingRun, TrainingSettings, WatchedTraining
from onnx_admm.model import LayerProfile, ModelView, Operand, PortSpec, WeightSite

__all__ = [
    "IGNORED",
    "QUANTITIES",
    "QUANTITY_OF",
    "STRUCTURES",
    "Array",
    "Batch",
    "Blocks",
    "Composition",
    "CompressionOption",
    "Cost",
    "CostModel",
    "Dataset",
    "Edit",
    "Feeds",
    "Finding",
    "LayerProfile",
    "LayerSetting",
    "Level",
    "LintRule",
    "LintSubject",
    "Metric",
    "MetricState",
    "ModelView",
    "Operand",
    "PartialProgress",
    "Pass",
    "PassContext",
    "PassReport",
    "PortSpec",
    "Progress",
    "RuntimeTarget",
    "SilentProgress",
    "Skip",
    "Task",
    "Trainer",
    "TrainingRun",
    "TrainingSettings",
    "WatchedTraining",
    "WeightSite",
    "WholeModel",
]
