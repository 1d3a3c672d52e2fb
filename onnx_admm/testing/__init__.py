"""Contract tests for plug-ins: call them from the tests of your own passes, cost models and trainers.

from onnx_admm.testing import check_cost_model, check_pass

def test_my_pass():
    outcomes = check_pass(MyPass())
    assert "changed" in outcomes.values()
"""

from onnx_admm.testing.contract import ContractBroken
from onnx_admm.testing.cost_models import check_cost_model, layers
from onnx_admm.testing.models import model_family
from onnx_admm.testing.passes import check_pass
from onnx_admm.testing.trainers import check_trainer
from onnx_admm.testing.varied_models import varied_family

__all__ = [
    "ContractBroken",
    "check_cost_model",
    "check_pass",
    "check_trainer",
    "layers",
    "model_family",
    "varied_family",
]
