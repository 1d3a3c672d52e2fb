"""The contract tests: built-in plug-ins go through them, and planted faults do not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from fake_plugins import Scale

from onnx_admm.config.registry import COST_MODELS, PASSES, cost_model
from onnx_admm.contracts import CompressionOption, Cost, LayerProfile, ModelView, PassContext, PassReport
from onnx_admm.cost_models.storage import StorageCostModel
from onnx_admm.errors import UnknownExtent, UnpricedOperator
from onnx_admm.testing import ContractBroken, check_cost_model, check_pass, model_family, varied_family

pytestmark = pytest.mark.slow

SETTINGS: dict[str, list[dict[str, object]]] = {
    "admm_prune": [{"ratio": 4.0}, {"keep": 0.5}, {"pattern": "1:2"}],
    "admm_quantize": [{"bits": 8, "per_channel": True}, {"bits": 3}],
    "meet_budget": [{"budget": ("macs=0.5x",)}],
    "remove_blocks": [{"keep": 0.6}, {"most_blocks": 1, "blocks": ("merged",)}],
    "remove_channels": [{"keep": 0.6}],
    "encode": [{"format": name} for name in ("auto", "dense", "qdq", "sparse", "packed")],
}
"""What to run the built-in passes with; a pass that is not here runs with its defaults."""


VARIED_SETTINGS: dict[str, list[dict[str, object]]] = {
    **SETTINGS,
    "auto_quantize": [],  # takes seconds, and says of each layer what others say too
    "encode": [
        *({"format": name} for name in ("qdq", "sparse", "packed")),
        {"format": "packed", "bias_bits": 16},
        {"format": "packed", "bias_bits": 8, "float8_biases": True},
    ],
}
"""The same on models of more opsets and ranks."""


def built_in_passes(choice: dict[str, list[dict[str, object]]]) -> list[object]:
    """Every pass this project registers, with each of its settings."""
    cases = []
    for plugin in PASSES.plugins():
        if plugin.distribution.startswith("onnx-admm "):
            for settings in choice.get(plugin.name, [{}]):
                label = "-".join([plugin.name, *(f"{key}={value}" for key, value in settings.items())])
                cases.append(pytest.param(plugin.name, settings, id=label))
    return cases


@pytest.mark.parametrize(("name", "settings"), built_in_passes(SETTINGS))
def test_every_built_in_pass_keeps_the_contract(name: str, settings: dict[str, object]) -> None:
    outcomes = check_pass(PASSES.get(name)(**settings))
    assert set(outcomes) == set(model_family())


EXPECTED = {
    ("fold_batchnorm", "convolution_of_rank_3"): "changed",
    ("fold_batchnorm", "convolution_of_rank_5"): "changed",
    ("fold_batchnorm", "half_precision"): "changed",
    ("fold_batchnorm", "product_with_a_vector"): "unchanged",
    ("fold_batchnorm", "transposed_in_groups"): "changed",
    ("fold_bias", "convolution_of_rank_5"): "changed",
    ("drop_dead_channels", "gemm_with_a_column"): "unchanged",
    ("drop_dead_channels", "gemm_with_a_scalar"): "changed",
    ("share_scales", "chain_of_scales"): "changed",
}
"""What must become of a model, so that the promises are not kept by doing nothing."""


@pytest.mark.parametrize(("name", "settings"), built_in_passes(VARIED_SETTINGS))
def test_every_setting_keeps_the_contract_whatever_the_opset_and_rank(
    name: str, settings: dict[str, object]
) -> None:
    family = varied_family()
    assert {view.opset for view in family.values()} >= {7, 9, 11, 12, 13, 14, 15, 17, 21}
    assert {view.ir_version for view in family.values()} >= {3, 4, 6, 8, 10}
    outcomes = check_pass(PASSES.get(name)(**settings), models=family)
    assert set(outcomes) == set(family)
    for (expected_of, model), outcome in EXPECTED.items():
        if expected_of == name:
            assert outcomes[model] == outcome, model
    if name == "encode" and settings.get("format") in ("packed", "qdq"):
        assert sum(outcome == "changed" for outcome in outcomes.values()) > 10


def built_in_cost_models() -> list[str]:
    """Every cost model this project registers, with each of its profiles."""
    return [
        f"{plugin.name}:{profile}" if profile else plugin.name
        for plugin in COST_MODELS.plugins()
        if plugin.distribution.startswith("onnx-admm ")
        for profile in plugin.profiles or ("",)
    ]


@pytest.mark.parametrize("spec", [*built_in_cost_models(), "admm-nn,curve=analytic"])
def test_every_built_in_cost_model_keeps_the_contract(spec: str, made_up_times: object) -> None:
    check_cost_model(cost_model(spec))


def test_outcomes_say_what_became_of_each_model() -> None:
    outcomes = check_pass(Scale())
    assert outcomes["conv_net"] == "changed"
    assert outcomes["no_weights"] == "refused: no layer to scale"
    assert check_pass(Scale(factor=1.0))["conv_net"] == "unchanged"


def test_family_is_fresh_at_each_call() -> None:
    first, second = model_family()["conv_net"], model_family()["conv_net"]
    first.replace("w1", first.read("w1") * 0)
    assert np.any(second.read("w1"))


# -- planted faults: one pass for each promise -----------------------------------------------


@dataclass(frozen=True)
class Faulty:
    """A pass that halves weights and breaks one promise."""

    name: ClassVar[str] = "faulty"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def requires(self, model: ModelView, context: PassContext) -> None:
        return None

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        for site in model.sites():
            model.replace(site, model.read(site) * np.float32(0.5))
        return PassReport(changed=bool(model.sites()))


class ClaimsIdempotent(Faulty):
    """Not idempotent."""

    idempotent = True


class ClaimsExact(Faulty):
    """Not exact."""

    exact = True


class DrawsItsOwnLots(Faulty):
    """Not seeded."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        rng = np.random.default_rng(time.perf_counter_ns())
        for site in model.sites():
            model.replace(site, rng.normal(size=site.shape).astype(site.dtype))
        return PassReport(changed=bool(model.sites()))


class Boasts(Faulty):
    """Says it changed what it did not."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        return PassReport(changed=True)


class Crashes(Faulty):
    """Fails without a named error."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        raise ZeroDivisionError("oh")


class KeepsArrays(Faulty):
    """Figures that are no JSON."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        return replace(super().run(model, context), figures={"scale": np.ones(2)})


class TouchesTheReference(Faulty):
    """Edits the original."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        context.reference.metadata["touched"] = "yes"
        return super().run(model, context)


class RemembersInMemory(Faulty):
    """State beside the model: lost by a cut."""

    seen: ClassVar[set[int]] = set()

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        if "onnx_admm.passes" in model.metadata and id(context) in self.seen and _is_loaded(model):
            return PassReport(changed=False)
        self.seen.add(id(context))
        return super().run(model, context)


def _is_loaded(model: ModelView) -> bool:
    tensors = [value.const_value for value in model.graph_ir.graph.initializers.values()]
    return all(type(tensor).__name__ == "TensorProtoTensor" for tensor in tensors)


class NotFrozen:
    """No dataclass."""

    name, idempotent, exact = "loose", False, False
    requires = Faulty.requires
    run = Faulty.run


@pytest.mark.parametrize(
    ("step", "promise"),
    [
        (ClaimsIdempotent(), "is idempotent"),
        (ClaimsExact(), "is exact: output"),
        (DrawsItsOwnLots(), "same model for the same seed"),
        (Boasts(), "works or refuses with a named error"),
        (Crashes(), "works or refuses with a named error"),
        (KeepsArrays(), "reports figures that are JSON"),
        (TouchesTheReference(), "leaves the given model as it was"),
        (RemembersInMemory(), "when the run is cut"),
        (NotFrozen(), "is a frozen dataclass"),
    ],
)
def test_a_broken_promise_is_found(step: Faulty, promise: str) -> None:
    with pytest.raises(ContractBroken, match=promise):
        check_pass(step)


@dataclass(frozen=True)
class FaultyCost:
    """A cost model that breaks one promise."""

    name: ClassVar[str] = "faulty"

    fault: str

    @property
    def assumes(self) -> str:
        return "" if self.fault == "presuming" else "nothing"

    @property
    def quantities(self) -> tuple[str, ...]:
        return {"sure": ("latency_s",), "odd": ("speed",)}.get(self.fault, ("bytes",))

    def estimate(self, layer: LayerProfile, option: CompressionOption) -> Cost:
        if self.fault == "rude":
            raise UnpricedOperator("no idea")
        if self.fault == "giving up":
            raise UnpricedOperator("no idea", where=layer.node)
        if self.fault == "demanding":
            raise UnknownExtent("open", where=layer.node)
        if self.fault == "vague" and layer.open_axes:
            raise UnknownExtent("open", where=layer.node)
        if self.fault == "wrong error" and layer.open_axes:
            raise UnpricedOperator("open", where=layer.node)
        figures = {
            "negative": Cost(bytes=-1.0),
            "infinite": Cost(bytes=float("inf")),
            "silent": Cost(),
            "talkative": Cost(bytes=1.0, macs=1.0),
            "sure": Cost(latency_s=1.0),
            "doubtful": Cost(bytes=1.0, uncertainty=-1.0),
            "vanishing": Cost(bytes=float(layer.macs or 0)),
            "one sample": Cost(
                bytes=float((layer.output_shape or (1,))[0] if layer.op_type == "Gemm" else 1)
            ),
            "moody": Cost(bytes=float(time.perf_counter_ns())),
        }
        return figures.get(self.fault) or StorageCostModel().estimate(layer, option)


class Miscomposed(FaultyCost):
    """Totals something else each time."""

    composition = "a sum"

    def compose(self, rows: Sequence[Cost]) -> Cost:
        return Cost(bytes=float(time.perf_counter_ns()))


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("presuming", "says what it assumes"),
        ("odd", "gives quantities among latency_s"),
        ("rude", "names the node it cannot price"),
        ("giving up", "prices at least one row"),
        ("demanding", "prices what is bound"),
        ("negative", "finite bytes of at least 0"),
        ("infinite", "finite bytes"),
        ("silent", "gives bytes if and only if it says so"),
        ("talkative", "gives macs if and only if it says so"),
        ("sure", "how uncertain times and energies are"),
        ("doubtful", "an uncertainty of at least 0"),
        ("vanishing", "refuses an open axis that its quantities depend on"),
        ("one sample", "refuses an open axis that its quantities depend on"),
        ("vague", "says which axis to bind"),
        ("wrong error", "answers an open axis with UnknownExtent"),
        ("moody", "gives the same answer to the same question"),
    ],
)
def test_a_faulty_cost_model_is_found(fault: str, promise: str) -> None:
    with pytest.raises(ContractBroken, match=promise):
        check_cost_model(FaultyCost(fault))
    check_cost_model(FaultyCost("none"))


def test_a_total_that_is_not_what_is_stated_is_found() -> None:
    with pytest.raises(ContractBroken, match="totals a sum"):
        check_cost_model(Miscomposed("none"))


def test_a_cost_model_without_members_is_found() -> None:
    with pytest.raises(ContractBroken, match="all members of the CostModel protocol"):
        check_cost_model(object())  # type: ignore[arg-type]
