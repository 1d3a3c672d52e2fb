"""AdmmPrune: budgets met exactly, zeros kept, and better than the nearest point alone."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import TWO_GEMMS, context_of_gemms

from onnx_admm.contracts import ModelView, PassContext, TrainingSettings
from onnx_admm.errors import NothingToDo, PassRefused
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.passes.exact.drop_dead_channels import DropDeadChannels
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.training.graph.trainer import GraphTrainer


def mlp() -> ModelView:
    return parse_text(TWO_GEMMS)


def nonzeros(model: ModelView) -> dict[str, int]:
    return {site.name: int(np.count_nonzero(model.read(site))) for site in model.sites()}


def test_a_ratio_is_one_budget_over_all_layers() -> None:
    model = mlp()
    report = AdmmPrune(ratio=8.0).run(fork := model.fork(), context_of_gemms(model))
    assert sum(nonzeros(fork).values()) == 640 // 8
    assert report.changed
    assert {edit.layer for edit in report.edits} == {"w1", "w2"}


def test_without_a_trainer_the_kept_weights_are_the_nearest_point() -> None:
    model = mlp()
    AdmmPrune(layers=(0.25, 1.0)).run(fork := model.fork(), context_of_gemms(model))
    before, after = model.read("w1"), fork.read("w1")
    assert np.array_equal(after[after != 0], before[after != 0])
    assert np.abs(before[after == 0]).max() <= np.abs(after[after != 0]).min()
    assert np.array_equal(fork.read("w2"), model.read("w2"))


def test_layers_by_pattern_and_in_order_say_the_same() -> None:
    model = mlp()
    AdmmPrune(layers=(0.25, 0.5)).run(ordered := model.fork(), context_of_gemms(model))
    AdmmPrune(layers={"w1": 0.25, "*": 0.5}).run(named := model.fork(), context_of_gemms(model))
    assert nonzeros(ordered) == nonzeros(named) == {"w1": 128, "w2": 64}


def test_a_pattern_runs_along_the_input_channels() -> None:
    model = mlp()
    AdmmPrune(pattern="2:4").run(fork := model.fork(), context_of_gemms(model))
    groups = (fork.read("w1").T.reshape(-1, 4) != 0).sum(axis=1)  # w1 is (in, out)
    assert (groups == 2).all()
    assert ((fork.read("w2").reshape(-1, 4) != 0).sum(axis=1) == 2).all()


def test_channels_go_whole() -> None:
    model = mlp()
    AdmmPrune(layers=(0.25, 1.0), structure="channel").run(fork := model.fork(), context_of_gemms(model))
    alive = np.any(fork.read("w1") != 0, axis=0)
    assert alive.sum() == 8
    assert (fork.read("w1")[:, alive] != 0).all()


def test_fine_tuning_meets_the_budget_and_beats_the_nearest_point() -> None:
    base = mlp()
    with GraphTrainer().open(base, base.sites(), *_train_part(base)) as run:
        for epoch in range(10):
            run.epoch(1e-2, 1e-2, seed=epoch)
        model = run.export()
    tuned_context = context_of_gemms(model, trained=True)
    assert tuned_context.validation is not None
    AdmmPrune(ratio=5.0).run(nearest := model.fork(), context_of_gemms(model))
    prune = AdmmPrune(ratio=5.0, epochs=8, steps=2, retrain_epochs=6, learning_rate=1e-2)
    report = prune.run(tuned := model.fork(), tuned_context)
    assert sum(nonzeros(tuned).values()) <= 128
    scores = [evaluate(m, tuned_context.validation).accuracy or 0.0 for m in (nearest, tuned)]
    assert scores[1] > scores[0] + 0.05
    assert len(report.figures["admm"]) == 8
    assert len(report.figures["retraining"]) == 6


def _train_part(model: ModelView) -> tuple[object, TrainingSettings, ModelView]:
    trained = context_of_gemms(model, trained=True)
    return trained.train, trained.settings, model


def test_same_seed_same_weights() -> None:
    model = mlp()
    prune = AdmmPrune(ratio=4.0, epochs=2, retrain_epochs=1)
    prune.run(one := model.fork(), context_of_gemms(model, trained=True))
    prune.run(two := model.fork(), context_of_gemms(model, trained=True))
    prune.run(other := model.fork(), context_of_gemms(model, trained=True, seed=1))
    assert np.array_equal(one.read("w1"), two.read("w1"))
    assert not np.array_equal(one.read("w1"), other.read("w1"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "no single budget"),
        ({"ratio": 2.0, "keep": 0.5}, "no single budget"),
        ({"ratio": 0.5}, "impossible pruning ratio"),
        ({"keep": 0.0}, "impossible share"),
        ({"keep": 1.5}, "impossible share"),
        ({"pattern": "4:2"}, "impossible pattern"),
        ({"layers": (0.1,)}, "the number of values is not the number of layers"),
        ({"layers": (0.1, 1.2)}, "impossible share"),
        ({"layers": {"w1": 0.1}}, "no pattern matches the layer"),
        ({"layers": {"w9": 0.1, "*": 1.0}}, "a pattern matches no layer"),
        ({"ratio": 2.0, "structure": "ring"}, "unknown structure"),
        ({"ratio": 2.0, "include": ("conv*",)}, "no layer matches"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(settings: dict[str, object], sentence: str) -> None:
    model = mlp()
    with pytest.raises(PassRefused, match=sentence):
        AdmmPrune(**settings).requires(model, context_of_gemms(model))  # type: ignore[arg-type]


RESIDUAL = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[N,4,8,8] x) => (float[N,5] y)
<float[12,4,3,3] first, float[12,12,3,3] inner, float[12,12,3,3] outer, float[12,1,3,3] depth,
 float[8,12,1,1] wide, float[5,8] classes>
{
    a = Conv <pads = [1, 1, 1, 1]> (x, first)
    b = Conv <pads = [1, 1, 1, 1]> (a, inner)
    c = Relu (b)
    d = Conv <pads = [1, 1, 1, 1]> (c, outer)
    e = Add (a, d)
    f = Conv <group = 12> (e, depth)
    h = Conv (f, wide)
    r = Relu (h)
    p = GlobalAveragePool (r)
    q = Flatten (p)
    y = Gemm <transB = 1> (q, classes)
}
"""


def alive(model: ModelView, name: str, axis: int = 0) -> list[int]:
    rows = np.moveaxis(model.read(name), axis, 0)
    return np.flatnonzero(rows.reshape(len(rows), -1).any(axis=1)).tolist()


def test_output_classes_stay_and_unknown_channels_too() -> None:
    model = parse_text(RESIDUAL)
    report = AdmmPrune(keep=0.5, structure="channel").run(fork := model.fork(), PassContext(reference=model))
    reasons = {skip.layer: skip.why for skip in report.skipped}
    assert reasons == {
        "depth": "the readers of the channels of this Conv are not known",
        "classes": "its channels are an output of the model",
    }
    assert len(alive(fork, "inner")) == 6
    assert len(alive(fork, "wide")) == 4
    assert len(alive(fork, "first")) == 6
    assert alive(fork, "first") == alive(fork, "outer")  # through the depthwise convolution too
    for name in reasons:
        np.testing.assert_array_equal(fork.read(name), model.read(name))


def test_channels_that_are_added_go_together() -> None:
    text = RESIDUAL.replace("f = Conv <group = 12> (e, depth)", "f = Relu (e)").replace(
        "float[12,1,3,3] depth,\n ", ""
    )
    model = parse_text(text)
    weights = {name: model.read(name) for name in ("first", "outer")}
    weights["first"][3] *= 9  # a channel that one branch alone wants counts for both
    weights["outer"] *= 0.01
    model.write_back(weights)
    step = AdmmPrune(layers={"*": 1.0, "first": 0.25, "outer": 0.5, "classes": 0.2}, structure="channel")
    report = step.run(fork := model.fork(), PassContext(reference=model))
    assert alive(fork, "first") == alive(fork, "outer")
    assert len(alive(fork, "first")) == 6
    assert 3 in alive(fork, "first")
    assert len(alive(fork, "classes")) == 5
    scale = {name: 1 / np.square(array).mean() for name, array in weights.items()}
    norms = sum(scale[name] * np.square(array).sum(axis=(1, 2, 3)) for name, array in weights.items())
    assert alive(fork, "first") == sorted(np.argsort(-norms)[:6].tolist())
    assert {skip.layer for skip in report.skipped} == {"classes"}
    DropDeadChannels().run(fork, PassContext(reference=model))
    assert fork.site("first").shape[0] == 6
    left_out = AdmmPrune(keep=0.5, structure="channel", exclude=("outer",))
    reasons = {skip.layer: skip.why for skip in left_out.run(model, PassContext(reference=model)).skipped}
    assert reasons["first"] == "its channels are added to those of outer, which stay"


def test_a_model_whose_channels_are_all_outputs_is_left() -> None:
    model = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,6] x) => (float[N,4] y) <float[6,4] w> { y = MatMul (x, w) }""")
    with pytest.raises(NothingToDo, match="no channels can be pruned; got w: its channels are an output of"):
        AdmmPrune(keep=0.5, structure="channel").requires(model, PassContext(reference=model))
