"""ShareConstants: store equal weights once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport
from onnx_admm.model.rewrite.share_constants import share_equal_constants


@dataclass(frozen=True, kw_only=True)
class ShareConstants:
    """Store equal matrices once: copies in both branches of an If, in several places, or transposed.

    Vectors are not shared, because other passes change biases and statistics one by one. Constants of
    functions are not shared either, because a function cannot read values of the main graph.
    """

    name: ClassVar[str] = "share_constants"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``; any model will do."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        shared = share_equal_constants(model)
        edits = tuple(
            Edit(
                one.name, f"{'the transpose of' if one.is_transposed else 'equal to'} {one.kept}, stored once"
            )
            for one in shared
        )
        return PassReport(bool(edits), edits, figures={"bytes_saved": sum(one.nbytes for one in shared)})
