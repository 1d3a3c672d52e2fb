"""The doors: what a pass, cost model, trainer and dataset promise, and the frozen data between them."""

from onnx_admm.contracts.costs import (
    FIGURE_OF,
    FIGURES,
    STRUCTURES,
    Composition,
    Cost,
    CostModel,
    Treatment,
    WholeModel,
)
from onnx_admm.contracts.data import IGNORED, Array, Batch, Blocks, Dataset, Feeds
from onnx_admm.contracts.metrics import Metric, MetricState
from onnx_admm.contracts.passes import Edit, Pass, PassContext, PassReport, Skip
from onnx_admm.contracts.progress import PartialProgress, Progress, SilentProgress, Task
from onnx_admm.contracts.training import Trainer, TrainingRun, TrainingSettings, WatchedTraining
from onnx_admm.model import LayerProfile, ModelView, Operand, PortSpec, WeightSite

__all__ = [
    "FIGURES",
    "FIGURE_OF",
    "IGNORED",
    "STRUCTURES",
    "Array",
    "Batch",
    "Blocks",
    "Composition",
    "Cost",
    "CostModel",
    "Dataset",
    "Edit",
    "Feeds",
    "LayerProfile",
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
    "SilentProgress",
    "Skip",
    "Task",
    "Trainer",
    "TrainingRun",
    "TrainingSettings",
    "Treatment",
    "WatchedTraining",
    "WeightSite",
    "WholeModel",
]
