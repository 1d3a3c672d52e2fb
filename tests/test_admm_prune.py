"""AdmmPrune: budgets met exactly, zeros kept, and better than the nearest point alone."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import TWO_GEMMS, context_of_gemms

from onnx_admm.contracts import ModelView, TrainingSettings
from onnx_admm.errors import PassRefused
from onnx_admm.model.text import parse_text
from onnx_admm.passes.admm_prune import AdmmPrune
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.training.session import OrtTrainer


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
    with OrtTrainer().open(base, base.sites(), *_train_part(base)) as run:
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
        ({"layers": (0.1,)}, "another number of figures than layers"),
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
