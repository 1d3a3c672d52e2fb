"""RewriteForRuntime: replace subgraphs by operators that ONNX Runtime has fast kernels for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport, Skip
from onnx_admm.errors import RecipeError
from onnx_admm.model.rewrite.for_runtime.apply import apply_rewrites
from onnx_admm.model.rewrite.for_runtime.rules import REWRITES

_NEWEST_OPSET = 26
_DEFAULT = tuple(name for name, rewrite in REWRITES.items() if rewrite.is_default)


@dataclass(frozen=True, kw_only=True)
class RewriteForRuntime:
    """Replace subgraphs that the runtime computes slowly, or wrongly, by equal ones that it has kernels for.

    Activations and normalisations that an exporter wrote out become single operators, one-hot products become
    lookups, and linear layers with dequantised weights take the form that becomes an integer kernel.

    Attributes:
        rules: names of the rewrites; empty stands for all that save time in most models.
        most_opset: newest opset that the model may be raised to; a rewrite that needs a newer one is left
            out, with the reason.
    """

    name: ClassVar[str] = "rewrite_for_runtime"
    idempotent: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    rules: tuple[str, ...] = ()
    most_opset: Annotated[int, Field(ge=1, le=_NEWEST_OPSET)] = 21

    def __post_init__(self) -> None:
        """Refuse unknown names.

        Raises:
            RecipeError: no rewrite has such a name.
        """
        unknown = [rule for rule in self.rules if rule not in REWRITES]
        if unknown:
            known = ", ".join(REWRITES)
            raise RecipeError(f"unknown rewrite '{unknown[0]}'", where=self.name, expected=f"one of {known}")

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``; any model will do."""

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        done = apply_rewrites(model, self.rules or _DEFAULT, self.most_opset)
        edits = tuple(Edit(one.node, one.what) for one in done if not one.why_left)
        skipped = tuple(
            Skip(one.node, f"{one.what}: not done, {one.why_left}") for one in done if one.why_left
        )
        counts = Counter(one.rule for one in done if not one.why_left)
        return PassReport(bool(edits), edits, skipped, figures=dict(counts))
