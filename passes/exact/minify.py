"""Minify: remove everything from a model file that it does not need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.model.rewrite import minify
from onnx_admm.model.rewrite.weight_storage import constant_bytes, model_bytes
from onnx_admm.settings.ranges import Share


@dataclass(frozen=True, kw_only=True)
class Minify:
    """Shorten names of inner values; remove names of nodes, inner doc strings, shapes and default attributes.

    Names, types and shapes of graph inputs and outputs stay, and so does the function of the model.

    Attributes:
        strip_metadata: also remove ``metadata_props`` and the producer's name; metadata of this project stay,
            see the recipe's ``provenance``.
        least_share: do nothing where nodes, names and shapes take a smaller share of the bytes.
    """

    name: ClassVar[str] = "minify"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    strip_metadata: bool = False
    least_share: Share = 0.0

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``; any model will do."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        bytes_before = model_bytes(model)
        if self.least_share and 1 - constant_bytes(model) / bytes_before < self.least_share:
            return PassReport(False)
        before = fingerprint(model)
        minify.lift_constants(model)
        minify.erase_noops(model)
        minify.erase_defaults(model)
        minify.erase_text(model)
        if self.strip_metadata:
            minify.erase_metadata(model)
        minify.shorten_value_names(model)
        minify.compact_integers(model)
        changed = fingerprint(model) != before
        saved = bytes_before - model_bytes(model)
        edits = (Edit("model", f"{saved} bytes of names and defaults left out"),) if changed else ()
        return PassReport(changed, edits, figures={"bytes_saved": saved})
