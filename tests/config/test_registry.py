"""Plug-ins by name, through entry points as an installed package brings them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import RunCommand
from fake_plugins import Scale, register

from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import COST_MODELS, PASSES, cost_model, pass_class
from onnx_admm.contracts import ModelView
from onnx_admm.cost_models.storage import StorageCostModel
from onnx_admm.errors import STOPS, RecipeError, UsageError, WorkError

GROUP = PASSES.group

THIRD_PARTY = '''
"""A third party's module."""

class Fine:
    """Says hello.

    And more.
    """

    name, idempotent, exact = "fine", True, True

    def requires(self, model, context): ...

    def run(self, model, context): ...

class NoRun:
    name, idempotent, exact = "no_run", True, True

    def requires(self, model, context): ...
'''


def test_a_third_party_pass_is_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, tmp_path, {GROUP: {"scale": "fake_plugins:Scale"}})
    assert pass_class("scale") is Scale
    assert "scale" in PASSES.names()


def test_built_in_cost_model_comes_by_the_same_door() -> None:
    assert "storage" in COST_MODELS.names()
    assert cost_model("storage").name == "storage"


def test_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(RecipeError) as caught:
        pass_class("admm_prun")
    sentence = str(caught.value)
    assert sentence.startswith("unknown pass 'admm_prun'; expected one of ")
    assert "fold_batchnorm" in sentence
    assert sentence.endswith("Did you mean 'admm_prune'?")


def test_two_packages_of_one_name_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for distribution in ("first-one", "second-one"):
        register(monkeypatch, tmp_path, {GROUP: {"twin": "fake_plugins:Scale"}}, distribution=distribution)
    with pytest.raises(RecipeError, match="two packages register a pass 'twin'") as caught:
        pass_class("twin")
    assert "first-one 1.2.3" in str(caught.value)
    assert "second-one 1.2.3" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("import no_such_module_anywhere", "X", "ModuleNotFoundError"),
        ("1 / 0", "X", "ZeroDivisionError"),
        (THIRD_PARTY, "Absent", "AttributeError"),
        (THIRD_PARTY, "NoRun", "NoRun without run"),
        ("number = 3", "number", "the plug-in is not a pass"),
        ("import sys; sys.exit('licence expired')", "X", "SystemExit: licence expired"),
        ("raise SystemExit", "X", "the plug-in cannot be loaded; got SystemExit. Repair"),
        ("raise BaseException('odd')", "X", "BaseException: odd"),
        (
            "class M(type):\n    def __getattr__(cls, key): raise ValueError(key)\nclass X(metaclass=M): ...",
            "X",
            "ValueError: name",
        ),
    ],
)
def test_broken_plugin_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, target: str, sentence: str
) -> None:
    package = f"broken-{abs(hash((source, target)))}"
    entry = {GROUP: {"broken": f"{package.replace('-', '_')}:{target}"}}
    register(monkeypatch, tmp_path, entry, distribution=package, module=source)
    with pytest.raises(UsageError, match=sentence) as caught:
        pass_class("broken")
    assert str(caught.value).startswith(f"pass 'broken' of {package} 1.2.3: ")


def test_listing_shows_what_works_and_what_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = {GROUP: {"fine": "listed_party:Fine", "gone": "listed_party:Gone"}}
    register(monkeypatch, tmp_path, entry, distribution="listed-party", module=THIRD_PARTY)
    listed = {plugin.name: plugin for plugin in PASSES.plugins()}
    assert listed["fine"].summary == "Says hello."
    assert listed["fine"].problem is None
    assert listed["fine"].distribution == "listed-party 1.2.3"
    assert "AttributeError" in (listed["gone"].problem or "")


QUITTER = """
from dataclasses import dataclass
import sys

@dataclass(frozen=True)
class Quits:
    name, idempotent, exact = "quits", True, True
    when: str = "made"

    def __post_init__(self):
        if self.when == "made":
            sys.exit(0)

    def requires(self, model, context):
        sys.exit(0)

    def run(self, model, context): ...
"""


@pytest.fixture
def quitters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two plug-ins that end the program: one as it is imported, one as it is made or run."""
    entries = {GROUP: {"at_import": "quits_at_import:X"}, COST_MODELS.group: {"also": "quits_at_import:X"}}
    register(monkeypatch, tmp_path, entries, distribution="quits-at-import", module="raise SystemExit(0)")
    register(
        monkeypatch, tmp_path, {GROUP: {"quits": "quitter:Quits"}}, distribution="quitter", module=QUITTER
    )


def test_one_that_ends_the_program_is_listed_as_broken_and_the_others_are_shown(
    run: RunCommand, quitters: None
) -> None:
    code, out, err = run("plugins")
    assert (code, err) == (0, "")
    for name in ("at_import", "also"):
        row = (
            rf"{name} quits_at_import:X quits-at-import 1\.2\.3 broken: [^:]*: the plug-in cannot be loaded; "
        )
        assert re.search(rf"{row}got SystemExit: 0\. ", " ".join(out.split()))
    shown = re.findall(r"^(?:pass|cost model) +(\S+)", out, re.MULTILINE)
    assert {"admm_prune", "encode", "quits", "storage", "macs"} <= set(shown)


def test_only_who_asks_for_it_meets_it(run: RunCommand, quitters: None, net: Path) -> None:
    assert run("inspect", net, "--cost-model", "storage")[0] == 0
    code, out, err = run("inspect", net, "--cost-model", "also")
    assert (code, out) == (2, "")
    assert "cost model 'also' of quits-at-import 1.2.3: the plug-in cannot be loaded" in err


@pytest.mark.parametrize(("when", "error"), [("made", UsageError), ("run", WorkError)])
def test_one_that_ends_the_program_later_is_a_sentence_too(
    quitters: None, tiny_mlp: ModelView, when: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"quits.*SystemExit"):
        Recipe.parse({"pass": [{"name": "quits", "when": when}]}).pipeline().run(tiny_mlp)


@pytest.mark.parametrize("stop", STOPS)
def test_an_interruption_is_none_of_its_faults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: type[BaseException]
) -> None:
    source = (
        f"from onnx_admm.errors import STOPS\nraise next(s for s in STOPS if s.__name__ == '{stop.__name__}')"
    )
    register(
        monkeypatch,
        tmp_path,
        {GROUP: {"slow": f"slow_{stop.__name__}:X"}},
        distribution=f"slow-{stop.__name__}",
        module=source,
    )
    with pytest.raises(stop):
        pass_class("slow")


# -- cost models by what users write ---------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Board(StorageCostModel):
    """A device with a clock."""

    name: ClassVar[str] = "board"

    clock_ghz: float
    lanes: Mapping[str, int] = field(default_factory=dict)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """``board`` with the tag ``slow``; a profile ``fast.toml``."""
    (tmp_path / "board.slow.toml").write_text("clock_ghz = 0.5\nlanes = { int8 = 4, float32 = 1 }\n")
    (tmp_path / "fast.toml").write_text("clock_ghz = 5\n")
    (tmp_path / "empty.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onnx_admm.config.registry.inspect.getfile", lambda cls: str(tmp_path / "board.py"))
    register(monkeypatch, tmp_path, {COST_MODELS.group: {"board": "test_registry:Board"}})
    return tmp_path / "fast.toml"


def test_a_profile_is_a_tag_or_a_file_and_settings_have_the_last_word(board: Path) -> None:
    assert cost_model("board:slow") == Board(clock_ghz=0.5, lanes={"int8": 4, "float32": 1})
    assert cost_model(f"board:{board}") == Board(clock_ghz=5.0)
    changed = cost_model("board:slow,clock_ghz=2,lanes.int8=8,format=packed")
    assert changed == Board(clock_ghz=2.0, lanes={"int8": 8, "float32": 1}, format="packed")
    assert cost_model("storage,format=dense") == StorageCostModel("dense")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("stroage", "unknown cost model 'stroage'; .* Did you mean 'storage'"),
        (
            "board",
            "cost model 'board' needs a profile; expected a TOML file or one of slow. Such as board:slow",
        ),
        ("board:empty.toml", "the key 'clock_ghz' is missing"),
        ("board:slwo", "unknown profile 'slwo' of the cost model 'board'; expected .* Did you mean 'slow'"),
        ("board:no.toml", "no.toml: cannot read the file"),
        ("board:slow,clok_ghz=1", "unknown key 'clok_ghz'; .* Did you mean 'clock_ghz'"),
        ("board:slow,clock_ghz=fast", "key 'clock_ghz': .*; got 'fast'"),
        ("board:slow,clock_ghz", "not a setting; got 'clock_ghz'; expected KEY=VALUE"),
    ],
)
def test_a_mistake_in_it_is_a_sentence(board: Path, spec: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence) as caught:
        cost_model(spec)
    assert caught.value.exit_code == 2


def test_a_cost_model_with_a_former_attribute_is_told_the_present_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = "class X:\n    name, assumes, figures, estimate = 'x', '', (), None\n"
    register(monkeypatch, tmp_path, {COST_MODELS.group: {"old": "old:X"}}, distribution="old", module=source)
    with pytest.raises(UsageError, match=r"without quantities; .* 'figures' is called 'quantities' now"):
        COST_MODELS.get("old")


def test_the_listing_names_the_profiles(board: Path) -> None:
    listed = {plugin.name: plugin.profiles for plugin in COST_MODELS.plugins()}
    assert listed["board"] == ("slow",)
    assert cost_model("board,clock_ghz=3") == Board(clock_ghz=3.0)
