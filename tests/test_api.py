"""Compressing from Python: the flow from file to file, and what stops it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from fake_plugins import Scale, scale_is_registered

from onnx_admm.api import Compression, annotate, compare, compress, inspect_model, measure
from onnx_admm.api.annotate import price_nodes, total
from onnx_admm.api.compress import FRAGILE
from onnx_admm.api.placing import move_into_place, staged, write_text
from onnx_admm.contracts import Cost, ModelView, PassContext, PassReport
from onnx_admm.cost_models.storage import StorageCostModel
from onnx_admm.data import from_arrays
from onnx_admm.errors import (
    BudgetExceeded,
    DataError,
    OutputError,
    PassRefused,
    RecipeError,
    UsageError,
)
from onnx_admm.model.text import parse_text
from onnx_admm.pipeline import PROVENANCE
from onnx_admm.recipe import Recipe
from onnx_admm.report import Report
from onnx_admm.runtime.evaluation import predictions
from onnx_admm.runtime.sessions import open_session

__all__ = ["scale_is_registered"]


@dataclass(frozen=True)
class Bloat:
    """Makes the file larger."""

    name: ClassVar[str] = "bloat"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def requires(self, model: ModelView, context: PassContext) -> None:
        return None

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        model.metadata["ballast"] = "x" * 1000
        return PassReport(changed=True)


@dataclass(frozen=True, kw_only=True)
class Shrink(Scale):
    """Flips the sign of every weight and drops the graph's documentation."""

    name: ClassVar[str] = "shrink"

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        del model.metadata["documentation"]
        return replace(super().run(model, context), changed=True)


@pytest.fixture
def net(tiny_conv: ModelView, tmp_path: Path) -> Path:
    """A model file with some metadata to lose."""
    tiny_conv.metadata["documentation"] = "A net. " * 40
    tiny_conv.save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def samples(net: Path, tmp_path: Path) -> Path:
    """300 samples labelled by the model itself: it is always right."""
    feeds = {"x": np.random.default_rng(0).normal(size=(300, 1, 8, 8)).astype(np.float32)}
    labels = predictions(open_session(net, threads=1).run(feeds)["scores"])
    assert labels is not None
    np.savez(tmp_path / "train.npz", labels=labels, **feeds)
    return tmp_path / "train.npz"


def settings(*passes: object, **changes: object) -> dict[str, object]:
    return {"recipe": Recipe(passes, fine_tune=False), "threads": 1, **changes}  # type: ignore[arg-type]


def test_the_whole_way(net: Path, samples: Path, tmp_path: Path) -> None:
    before = net.read_bytes()
    report = compress(
        net,
        tmp_path / "small.onnx",
        **settings(Shrink(factor=0.9)),
        data=samples,
        test=samples,
        report=tmp_path / "report.json",
        seed=3,
    )
    assert net.read_bytes() == before
    assert report.written
    assert [step.name for step in report.steps] == ["shrink"]
    assert report.comparison.after.file_bytes == (tmp_path / "small.onnx").stat().st_size < len(before)
    validation, test = report.comparison.quality
    assert (validation.data, validation.samples) == ("validation", 30)
    assert (test.data, test.samples) == ("test", 300)
    assert test.accuracy_before == 1.0
    assert test.sqnr_db is not None
    assert report.comparison.timing is not None
    assert report.comparison.timing.before_us > 0
    assert report.versions["numpy"] == np.__version__
    assert Report.from_json((tmp_path / "report.json").read_text()) == report
    assert report.comparison.after.path == str(tmp_path / "small.onnx")
    np.testing.assert_array_equal(
        ModelView.load(tmp_path / "small.onnx").read("w1"), ModelView.load(net).read("w1") * np.float32(0.9)
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "net.onnx", "report.json", "small.onnx", "train.npz"
    ]  # fmt: skip


def test_same_seed_same_bytes(net: Path, samples: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        compress(net, tmp_path / name, **settings(Shrink()), data=samples)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_without_data_random_inputs_judge_and_the_note_says_so(net: Path, tmp_path: Path) -> None:
    report = compress(net, tmp_path / "small.onnx", **settings(Shrink()))
    (quality,) = report.comparison.quality
    assert quality.data == "synthetic"
    assert quality.accuracy_before is None
    assert any("No data was given" in note for note in report.notes)


@pytest.mark.parametrize(("factor", "fragile"), [(0.999, False), (-1.0, True)])
def test_outputs_that_change_much_on_random_inputs_get_a_note(
    net: Path, tmp_path: Path, factor: float, fragile: bool
) -> None:
    report = compress(net, tmp_path / "small.onnx", **settings(Shrink(factor=factor)))
    assert (FRAGILE in report.notes) == fragile
    assert report.comparison.quality[0].sqnr_by_output.keys() == {"scores"}


def test_the_report_repeats_the_run(
    net: Path, samples: Path, tmp_path: Path, scale_is_registered: None
) -> None:
    first = compress(net, tmp_path / "a.onnx", **settings(Scale(factor=0.3)), data=samples)
    (tmp_path / "again.toml").write_text(first.recipe)
    compress(net, tmp_path / "b.onnx", recipe=tmp_path / "again.toml", threads=1, data=samples)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_empty_pipeline_keeps_the_model(net: Path, tmp_path: Path) -> None:
    report = compress(net, tmp_path / "same.onnx", **settings())
    assert (tmp_path / "same.onnx").read_bytes() == net.read_bytes()
    assert "No pass changed the model." in report.notes


def test_epochs_go_by_the_samples_that_are_left_to_train_on(net: Path, samples: Path) -> None:
    def epochs(**asked: object) -> list[int]:
        recipe = Compression(prune="2x", bits=4, **asked).plan(net).recipe  # type: ignore[arg-type]
        return [step.epochs for step in recipe.passes if hasattr(step, "epochs")]

    own = epochs()
    assert epochs(data=samples) == [60, 60]
    many = from_arrays({"x": np.zeros((7111, 1, 8, 8), np.float32)})  # 6,400 are left
    assert epochs(data=many) == [40, 40]
    assert epochs(data=samples, fine_tune=False) == own
    assert epochs(data=samples, epochs=2) == [2, 2]


# -- budgets ----------------------------------------------------------------------------------


def test_over_budget_nothing_is_written_but_the_report(net: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded, match=r"drops by .* on 30 validation samples.*--keep writes it"):
        compress(
            net,
            tmp_path / "small.onnx",
            **settings(Shrink(factor=-1.0)),
            data=samples,
            max_drop=1.0,
            report=tmp_path / "report.json",
        )
    assert not (tmp_path / "small.onnx").exists()
    report = Report.from_json((tmp_path / "report.json").read_text())
    assert not report.written
    assert report.exceeded is not None


def test_over_budget_is_written_when_kept(net: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded, match="The result was kept"):
        compress(
            net,
            tmp_path / "small.onnx",
            **settings(Shrink(factor=-1.0)),
            data=samples,
            max_drop=1.0,
            keep=True,
        )
    assert (tmp_path / "small.onnx").exists()


def test_within_budget(net: Path, samples: Path, tmp_path: Path) -> None:
    compress(net, tmp_path / "small.onnx", **settings(Shrink(factor=1.0)), data=samples, max_drop=0.0)
    assert (tmp_path / "small.onnx").exists()


def test_a_larger_file_is_never_written(net: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="would be larger than the original; nothing was written"):
        compress(net, tmp_path / "large.onnx", **settings(Bloat()))
    assert not (tmp_path / "large.onnx").exists()
    report = compress(net, tmp_path / "large.onnx", **settings(Bloat(), keep=True))
    assert "The result is no smaller than the original." in report.notes


def test_provenance_does_not_make_a_file_larger(net: Path, tmp_path: Path) -> None:
    compress(net, tmp_path / "same.onnx", **settings(Scale()))
    assert PROVENANCE not in ModelView.load(tmp_path / "same.onnx").metadata
    assert (tmp_path / "same.onnx").stat().st_size == net.stat().st_size
    compress(net, tmp_path / "small.onnx", **settings(Shrink()))
    assert ModelView.load(tmp_path / "small.onnx").metadata[PROVENANCE] == "shrink"


# -- refusals before the work, failures during it ---------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"prune": "85x"}, UsageError, "--recipe and --prune"),
        ({"bits": 3, "format": "packed"}, UsageError, "--recipe and --bits, --format"),
        ({"max_drop": 1.0}, UsageError, "--max-drop: nothing to measure a drop on"),
        ({"data": "none.npz"}, DataError, "no such file or folder"),
        ({"test": "none.npz"}, UsageError, r"none\.npz: no such file or folder"),
        ({"recipe": "none.toml"}, RecipeError, "cannot read the file"),
        ({"report": "nowhere/report.json"}, UsageError, "no folder to put the report into"),
        ({"seed": -1}, UsageError, "0 or more"),
    ],
)
def test_what_is_refused_before_the_work(
    net: Path, changes: dict[str, object], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        compress(net, net.parent / "small.onnx", **(settings(Shrink()) | changes))
    assert os.listdir(net.parent) == ["net.onnx"]


def test_impossible_budget(net: Path, samples: Path) -> None:
    with pytest.raises(UsageError, match="--max-drop: impossible budget; got -1"):
        compress(net, net.parent / "small.onnx", **settings(Shrink()), data=samples, max_drop=-1.0)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("net.onnx", "would overwrite an input; nothing was done"),
        ("../{folder}/net.onnx", "would overwrite an input"),
        ("nowhere/small.onnx", r"no folder to put the result into. Create it: mkdir -p .*nowhere"),
        (".", "cannot go where a folder is"),
    ],
)
def test_impossible_places(net: Path, target: str, sentence: str) -> None:
    before = net.read_bytes()
    place = net.parent / target.format(folder=net.parent.name)
    with pytest.raises(UsageError, match=sentence):
        compress(net, place, **settings(Shrink()))
    assert net.read_bytes() == before


def test_disk_full_leaves_nothing(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.onnx").write_text("what was there")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        compress(net, tmp_path / "small.onnx", **settings(Shrink()))
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        compress(net, tmp_path / "small.onnx", **settings(Shrink()))
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "small.onnx"]
    assert (tmp_path / "small.onnx").read_text() == "what was there"


def test_a_file_that_means_two_things_is_not_written(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_difference", lambda model, feeds: 0.0 if Path(model) == net else 0.3)
    with pytest.raises(OutputError, match="computes something else when graph optimisation is on"):
        compress(net, tmp_path / "small.onnx", **settings(Shrink()))
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_refusal_of_a_pass_leaves_nothing(tmp_path: Path) -> None:
    parse_text("""
        <ir_version: 10, opset_import: ["" : 17]> net (float[N,3] x) => (float[N,3] y) { y = Relu (x) }
    """).save(tmp_path / "net.onnx")
    with pytest.raises(PassRefused, match="pass 1 of 1, scale: no layer to scale"):
        compress(tmp_path / "net.onnx", tmp_path / "small.onnx", **settings(Scale()))
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_unknown_setting_is_a_type_error(net: Path) -> None:
    with pytest.raises(TypeError, match="ratio"):
        compress(net, net.parent / "small.onnx", ratio=3)


# -- parts ------------------------------------------------------------------------------------


def test_plan_runs_nothing(net: Path, samples: Path) -> None:
    plan = Compression(**settings(Scale()), data=samples).plan(net)  # type: ignore[arg-type]
    assert plan.train is not None
    assert plan.validation is not None
    assert (len(plan.train), len(plan.validation)) == (270, 30)
    assert plan.facts.parameters == inspect_model(net).parameters
    assert any("Only 30 validation samples" in note for note in plan.notes)


def test_staging_goes_whatever_happens(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staged(tmp_path / "out.bin") as folder:
            (folder / "out.bin").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not os.listdir(tmp_path)


def test_all_files_of_a_result_move_the_named_one_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    move = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), move(a, b)))
    with staged(tmp_path / "net.onnx") as folder:
        (folder / "net.onnx").write_bytes(b"model")
        (folder / "net.onnx.data").write_bytes(b"weights")
        move_into_place(folder, tmp_path / "net.onnx")
    assert order == ["net.onnx.data", "net.onnx"]


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
    assert os.listdir(tmp_path) == ["a.json"]


def test_compare_two_models(net: Path, samples: Path, tmp_path: Path) -> None:
    compress(net, tmp_path / "other.onnx", **settings(Scale(factor=-1.0)))
    found = compare(net, tmp_path / "other.onnx", samples, threads=1)
    (quality,) = found.quality
    assert quality.accuracy_before == 1.0
    assert quality.accuracy_after is not None
    assert quality.accuracy_after < 0.9
    itself = compare(net, net, from_arrays({"x": np.ones((4, 1, 8, 8), np.float32)}), threads=1)
    assert itself.quality[0].agreement == 1.0
    assert itself.file_ratio == 1.0


def test_compare_wants_the_same_inputs(net: Path, tiny_mlp: ModelView, tmp_path: Path) -> None:
    other = parse_text("""
        <ir_version: 10, opset_import: ["" : 17]>
        net (float[N,3] image) => (float[N,3] y) { y = Relu (image) }
    """)
    other.save(tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="do not have the same inputs; got image; expected x"):
        compare(net, tmp_path / "other.onnx")


def test_annotation_stands_on_the_nodes(net: Path, tmp_path: Path) -> None:
    costs = annotate(net, tmp_path / "noted.onnx", StorageCostModel())
    noted = ModelView.load(tmp_path / "noted.onnx")
    assert noted.ir_version >= 10
    for node in noted.nodes():
        figure = node.ir_node.metadata_props.get("onnx_admm.storage.bytes")
        assert figure == (f"{costs[node.name].bytes:.6g}" if node.name in costs else None)
    expected = f"{sum(cost.bytes or 0 for cost in costs.values()):.6g}"
    assert noted.metadata["onnx_admm.storage.bytes.total"] == expected
    assert noted.metadata["onnx_admm.storage.assumes"] == StorageCostModel.assumes


def test_annotation_of_an_old_model_stands_on_the_model(tmp_path: Path) -> None:
    old = parse_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3] x) => (float[N,2] y) <float[3,2] w> { y = MatMul (x, w) }
    """)
    old.save(tmp_path / "old.onnx")
    annotate(tmp_path / "old.onnx", tmp_path / "noted.onnx", StorageCostModel("dense"))
    assert ModelView.load(tmp_path / "noted.onnx").metadata["onnx_admm.storage.bytes:y"] == "24"


def test_annotating_twice_is_annotating_once(net: Path, tmp_path: Path) -> None:
    annotate(net, tmp_path / "once.onnx", StorageCostModel())
    annotate(tmp_path / "once.onnx", tmp_path / "twice.onnx", StorageCostModel())
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()


def test_rows_add_up_and_unknown_stays_unknown(tiny_conv: ModelView) -> None:
    costs = price_nodes(tiny_conv, StorageCostModel("dense"))
    assert total(costs.values()).bytes == 4 * (36 + 216 + 72)
    assert total([Cost(bytes=1.0), Cost(macs=2.0)]) == Cost()
    assert total([]) == Cost()
