"""SetLayers: give the layers that the recipe names the bits and the density that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from onnx_admm.allocation.allocation import FLOAT_BITS
from onnx_admm.contracts import Edit, LayerSetting, ModelView, PassContext, PassReport, Skip
from onnx_admm.errors import NothingToDo, PassRefused
from onnx_admm.settings.ranges import Samples

from .reconstruct_layers import ReconstructLayers


@dataclass(frozen=True, kw_only=True)
class SetLayers:
    """Give layers the bits and the density that the recipe's table ``[layers]`` states.

    The layers are reconstructed (``ReconstructLayers``), with no labels and no training. All other passes
    leave them. A recipe whose table states bits or a density runs this pass before the first one that changes
    what the model computes.

    Attributes:
        per_channel: a scale for each output channel instead of one for each layer.
        samples: calibration samples, taken from the training data; random inputs without data.
    """

    name: ClassVar[str] = "set_layers"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    per_channel: bool = True
    samples: Samples = 512

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if not _formed(context):
            raise NothingToDo("the recipe's [layers] asks for no bits and no density")

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        asked, conditions = _formed(context), model.conditions
        pruned = {name: setting for name, setting in asked.items() if setting.keep is not None}
        dense = {name: setting for name, setting in asked.items() if setting.keep is None}
        edits, skipped = list[Edit](), list[Skip]()
        figures: dict[str, Any] = {}
        model.conditions = replace(conditions, fixed={})  # the layers are fixed for all passes but this one
        try:
            for settings in (pruned, dense):
                if settings:
                    report = _step(self, settings).run(model, context)
                    edits += report.edits
                    skipped += [skip for skip in report.skipped if skip.layer in settings]
                    figures |= report.figures["layers"]
        finally:
            model.conditions = conditions
        if skipped:
            first = skipped[0]
            got = f"{asked[first.layer]} by [layers], and {first.why}"
            raise PassRefused("a layer cannot have the form asked for", where=first.layer, got=got)
        changed = {edit.layer: edit.what for edit in edits}
        edits = [Edit(name, f"{asked[name]} as the recipe asks: {what}") for name, what in changed.items()]
        left = [
            Skip(name, f"has {setting} already, as the recipe asks")
            for name, setting in asked.items()
            if name not in changed
        ]
        return PassReport(bool(edits), tuple(edits), tuple(left), {"layers": figures})


def _formed(context: PassContext) -> dict[str, LayerSetting]:
    """Return the layers whose weights change, by name."""
    return {name: setting for name, setting in context.layers.items() if not setting.is_float}


def _step(settings: SetLayers, asked: Mapping[str, LayerSetting]) -> ReconstructLayers:
    """Return the pass for layers that all have a density, or none."""
    bits = {name: float(each.bits or FLOAT_BITS) for name, each in asked.items()}
    shares = {name: each.keep for name, each in asked.items() if each.keep is not None}
    return ReconstructLayers(
        layers=shares or None,
        bits=bits,
        per_channel=settings.per_channel,
        samples=settings.samples,
        include=tuple(asked),
    )
