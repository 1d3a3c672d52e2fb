"""The shipped recipes can be read, and say what their names promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_admm.config.recipe import Recipe

NAMES = (
    "alexnet-cifar10",
    "lenet5-85x",
    "lenet5-smallest",
    "resnet8-cifar10",
    "vgg-cifar10-compute",
    "vgg-cifar10-storage",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_reads_and_writes_back(repository: Path, name: str) -> None:
    recipe = Recipe.load(repository / "recipes" / f"{name}.toml")
    assert Recipe.parse(recipe.dump()) == recipe
    assert recipe.fine_tune
    assert recipe.passes[-1].name in ("encode", "minify")


def test_no_recipe_is_shipped_unseen(repository: Path) -> None:
    assert sorted(path.stem for path in (repository / "recipes").glob("*.toml")) == sorted(NAMES)
