"""The checks of a dry run beyond the plan: all that works without running a model."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_admm.api.preparing import Plan
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import WholeModel
from onnx_admm.errors import NothingToDo, located
from onnx_admm.model import node_profiles
from onnx_admm.pricing.pricing import price
from onnx_admm.runtime.sessions import require_runtime
from onnx_admm.selection.layers import choose_sites


def rehearse(plan: Plan) -> tuple[str, ...]:
    """Check for what the passes of a plan would refuse at their start; return notes.

    Checked are patterns that match no layer, bindings and open axes of the cost model, and the runtime. A
    cost model that measures is not run.

    Raises:
        RuntimeMissing: no ONNX Runtime is installed.
        PassRefused: a pattern of a pass matches nothing.
        UnknownExtent: a cost depends on an axis that is left open.
        UsageError: a binding of an axis that the model does not have.
    """
    require_runtime()
    notes: dict[str, None] = {}
    for number, step in enumerate(plan.recipe.passes, 1):
        patterns = [_texts(getattr(step, key, ())) for key in ("include", "exclude")]
        with located(f"pass {number} of {len(plan.recipe.passes)}, {step.name}"):
            try:
                if any(patterns):
                    choose_sites(plan.model.sites(), patterns[0], patterns[1], subgraphs=True)
            except NothingToDo as reason:
                notes[str(reason)] = None
    bindings = plan.recipe.bind
    if plan.recipe.cost_model is not None or bindings:
        node_profiles(plan.model, bindings, reads_weights=False)
    if plan.recipe.cost_model is not None:
        priced = cost_model(plan.recipe.cost_model)
        if not isinstance(priced, WholeModel):
            price(plan.model, priced, bindings=bindings)
    return tuple(notes)


def _texts(value: object) -> Sequence[str]:
    if not isinstance(value, tuple | list):
        return ()
    return tuple(entry for entry in value if isinstance(entry, str))
