"""Plug-ins made for tests: small passes, and a package on the path that registers classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest

from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport
from onnx_admm.errors import PassRefused


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Multiplies every weight."""

    name: ClassVar[str] = "scale"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    factor: float = 0.5
    layers: tuple[str, ...] = ()
    rounds: int | None = None
    mode: Literal["all", "some"] = "all"

    def __post_init__(self) -> None:
        if self.factor == 0:
            raise ValueError("a factor of 0 erases the model")

    def requires(self, model: ModelView, context: PassContext) -> None:
        if not model.sites():
            raise PassRefused("no layer to scale", expected="a model with weights")

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        edits = []
        for site in model.sites():
            before = model.read(site)
            after = before * np.asarray(self.factor, before.dtype)
            if not np.array_equal(before, after):
                model.replace(site, after)
                edits.append(Edit(site.name, f"times {self.factor}"))
        return PassReport(changed=bool(edits), edits=tuple(edits))


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


def register(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    groups: Mapping[str, Mapping[str, str]],
    *,
    distribution: str = "fake-plugins",
    module: str | None = None,
) -> None:
    """Put a package on the path whose metadata registers entry points, as an installed one would.

    Args:
        groups: target (``module:Class``) by name by group.
        module: source of a module of the distribution's name, written beside.
    """
    stem = distribution.replace("-", "_")
    info = folder / f"{stem}-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    if module is not None:
        (folder / f"{stem}.py").write_text(module)
    monkeypatch.syspath_prepend(str(folder))
