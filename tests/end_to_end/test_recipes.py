"""The shipped recipes can be read, and say what their names promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import RunCommand

from onnx_admm.api import Compression
from onnx_admm.config.recipe import Recipe

NAMES = (
    "alexnet-cifar10",
    "lenet5-85x",
    "lenet5-fast",
    "lenet5-smallest",
    "magika-fast",
    "resnet8-cifar10",
    "resnet8-cifar10-fast",
    "vgg-cifar10-compute",
    "vgg-cifar10-fast",
    "vgg-cifar10-storage",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_reads_and_writes_back(repository: Path, name: str) -> None:
    recipe = Recipe.load(repository / "recipes" / f"{name}.toml")
    assert Recipe.parse(recipe.dump()) == recipe
    assert recipe.fine_tune
    assert recipe.passes[-1].name in ("encode", "minify")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_found_by_its_name(repository: Path, name: str) -> None:
    recipe = Recipe.load(repository / "recipes" / f"{name}.toml")
    assert Compression(recipe=name, data="d.npz").complete_recipe() == recipe


def test_a_misspelt_name_is_told(net: Path, run: RunCommand) -> None:
    code, _, err = run("compress", net, net.parent / "o.onnx", "--recipe", "lenet5-58x")
    assert code == 2
    assert "no such recipe; got lenet5-58x" in err
    assert "Did you mean 'lenet5-85x'?" in err


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lenet5-85x").write_text('[[pass]]\nname = "encode"\n')
    assert len(Compression(recipe="lenet5-85x").complete_recipe().passes) == 1


def test_no_recipe_is_shipped_unseen(repository: Path) -> None:
    assert sorted(path.stem for path in (repository / "recipes").glob("*.toml")) == sorted(NAMES)
