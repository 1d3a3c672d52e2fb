"""What happened, as data; JSON and the terminal are views of it."""

from onnx_admm.report.costs import CostFacts, CostRowFacts, describe_costs
from onnx_admm.report.describe import describe_model
from onnx_admm.report.facts import (
    SCHEMA_VERSION,
    Comparison,
    LayerFacts,
    ModelFacts,
    QualityFacts,
    Report,
    Sizes,
    StepFacts,
    Timing,
    to_json,
)
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
