"""Small files that ask for much: each ends with a right result or a sentence, within one budget."""

from __future__ import annotations

from collections.abc import Callable

import hostile_models
import numpy as np
import onnx
import pytest

from onnx_admm.errors import LimitReached, ModelError
from onnx_admm.limits import RunBudget, RunLimits, run_within
from onnx_admm.model import ModelView
from onnx_admm.model.folding.static_form import form_of


def view_of(model: onnx.ModelProto) -> ModelView:
    return ModelView.from_bytes(model.SerializeToString())


def test_a_weight_behind_doubling_paths_is_looked_at_once_for_each_node() -> None:
    with run_within() as budget:
        view = view_of(hostile_models.doubling_adds(60))
        [site] = view.sites()
        np.testing.assert_array_equal(view.read(site), np.eye(4) * 2.0**60)
        assert budget.operations < 60 * 1_000_000


def test_a_weight_behind_very_many_nodes_is_decoded() -> None:
    view = view_of(hostile_models.chained_muls(1200))
    [site] = view.sites()
    np.testing.assert_array_equal(view.read(site), np.eye(4))


def test_forms_are_told_without_running_anything() -> None:
    view = view_of(hostile_models.expand_and_negate(3, side=1 << 20))  # 4 TiB each
    weights = [node.ir_node.inputs[1] for node in view.nodes("MatMul")]
    assert len(weights) == 3
    for weight in weights:
        assert weight is not None
        assert form_of(weight, {}).shape == (1 << 20, 1 << 20)


@pytest.mark.parametrize("build", [hostile_models.expand_and_negate, hostile_models.constants_of_shape])
def test_weights_that_are_computed_are_not_all_kept(build: Callable[[int, int], onnx.ModelProto]) -> None:
    count, side = 20, 1024
    with run_within() as budget:
        view = view_of(build(count, side))
        sites = view.sites()
        assert [site.shape for site in sites] == [(side, side)] * count
        kept = [budget.kept_bytes for site in sites if np.all(np.abs(view.read(site)) <= 1)]
        assert len(kept) == count
        assert max(kept) <= 2 * 4 * side**2


def test_computing_weights_over_and_over_ends_with_the_operations_of_the_run() -> None:
    with run_within() as budget:
        view = view_of(hostile_models.expand_and_negate(20, 1024))
        sites = view.sites()
        assert budget.operation_limit is not None
        budget.operate(budget.operation_limit - budget.operations, "the work before")
        with pytest.raises(LimitReached, match=r"takes more operations .*--timeout"):
            view.read(sites[-1])


def test_sparse_tensors_draw_on_one_budget() -> None:
    with run_within(), pytest.raises(LimitReached, match=r"sparse tensor w\d+: making sparse tensors dense"):
        view_of(hostile_models.sparse_weights(60))


def test_an_old_pad_is_measured_before_it_is_computed() -> None:
    assert view_of(hostile_models.old_pad()).sites() == ()
    [site] = view_of(hostile_models.old_pad(3)).sites()
    assert site.shape == (4, 4)


@pytest.mark.parametrize(
    ("built", "sentence"),
    [
        (hostile_models.weight_without_elements(), "without elements that has a very large extent"),
        (hostile_models.weight_without_elements(2**62), "without elements that has a very large extent"),
        (hostile_models.weight_of_many_axes(), "too many axes; got 64"),
        (hostile_models.weight_of_many_axes(64, 0), "too many axes; got 64"),
        (hostile_models.weight_of_many_axes(20, 16), "too many elements"),
    ],
)
def test_impossible_shapes_of_weights_are_refused(built: onnx.ModelProto, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        view_of(built)


def test_nodes_of_functions_count_at_each_call() -> None:
    assert len(view_of(hostile_models.nested_functions(3)).nodes()) > 0
    with pytest.raises(
        LimitReached, match=r"more nodes and stored values .* at most 200000 in all.*--max-memory"
    ):
        view_of(hostile_models.nested_functions(14))


def test_a_function_that_calls_itself_is_refused() -> None:
    model = hostile_models.nested_functions(2)
    model.functions[1].node[0].op_type, model.functions[1].node[0].domain = "f0", "own"
    with pytest.raises(ModelError, match="a function that calls itself"):
        view_of(model)


def test_a_budget_is_shared_by_every_model_of_a_run() -> None:
    with run_within() as budget:
        before = budget.keep_limit
        data = hostile_models.doubling_adds(3).SerializeToString()
        ModelView.from_bytes(data)
        ModelView.from_bytes(data)
        assert budget.keep_limit - before == 2 * 4000 * len(data)
    assert RunBudget().keep_limit == before


def test_the_limit_on_nodes_goes_up_with_a_stated_memory() -> None:
    data = hostile_models.nested_functions(9).SerializeToString()  # about 350,000 nodes
    with pytest.raises(LimitReached, match="at most 200000 in all"):
        ModelView.from_bytes(data)
    assert RunBudget(RunLimits(max_memory_mb=4000)).node_limit == 720_000
    assert RunBudget(RunLimits(max_memory_mb=10)).node_limit == 200_000
