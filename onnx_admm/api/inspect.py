"""Facts and costs of a model file, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping

from onnx_admm.contracts import CostModel, ModelView
from onnx_admm.limits import in_a_run
from onnx_admm.report import CostFacts, ModelFacts, describe_costs, describe_model


@in_a_run
def inspect_model(path: str | os.PathLike[str]) -> ModelFacts:
    """Return the facts of a model: of every weight, and the file's totals.

    Operator, shape, parameters, nonzeros, bits, bytes and MACs.

    Raises:
        ModelError: not a model, or not one that is safe to read.

    Example:
        >>> from onnx_admm.api import inspect_model
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> inspect_model("net.onnx").parameters
        324
    """
    return describe_model(ModelView.load(path), path)


@in_a_run
def inspect_costs(
    path: str | os.PathLike[str],
    cost_model: CostModel,
    bindings: Mapping[str, int] | None = None,
    quantity: str | None = None,
) -> CostFacts:
    """Return the costs of a model under a cost model, and each layer's possible gains.

    Raises:
        ModelError: not a model, or not one that is safe to read.
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: the cost model does not give that quantity.

    Example:
        >>> from onnx_admm.api import inspect_costs
        >>> from onnx_admm.testing import model_family
        >>> size = model_family()["conv_net"].save("net.onnx")
        >>> from onnx_admm.config.registry import cost_model
        >>> inspect_costs("net.onnx", cost_model("macs"), {"N": 1}).total.macs
        5832.0
    """
    return describe_costs(ModelView.load(path), path, cost_model, bindings, quantity)
