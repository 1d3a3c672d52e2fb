"""Metrics in place of accuracy: built-in ones by name, and the user's own."""

from onnx_admm.metrics.naming import BUILT_IN, MetricLike, as_metric, scored_by

__all__ = ["BUILT_IN", "MetricLike", "as_metric", "scored_by"]
