"""Plug-ins by name, through entry points as an installed package brings them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_plugins import Scale, register

from onnx_admm.errors import RecipeError, UsageError
from onnx_admm.registry import COST_MODELS, PASSES, cost_model, pass_class

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
        ("number = 3", "number", "the plug-in is no pass"),
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
