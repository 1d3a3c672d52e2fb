"""Reports as data, with JSON, Markdown and terminal views."""

from onnx_admm.report.comparison import Comparison
from onnx_admm.report.compression import Report
from onnx_admm.report.costs import CostFacts, CostRowFacts, describe_costs
from onnx_admm.report.describe import describe_model
from onnx_admm.report.document import SCHEMA_VERSION, to_json
from onnx_admm.report.facts import LayerFacts, ModelFacts, QualityFacts, Sizes, StepFacts, Timing
from onnx_admm.report.promises import Promise

__all__ = [
    "SCHEMA_VERSION",
    "Comparison",
    "CostFacts",
    "CostRowFacts",
    "LayerFacts",
    "ModelFacts",
    "Promise",
    "QualityFacts",
    "Report",
    "Sizes",
    "StepFacts",
    "Timing",
    "describe_costs",
    "describe_model",
    "to_json",
]
