"""What is settled about a model before any pass runs, and said in notes."""

from __future__ import annotations

from onnx_admm.contracts import ModelView
from onnx_admm.model.erase import forget_wrong_shapes


def without_wrong_shapes(model: ModelView) -> tuple[str, ...]:
    """Forget stored inner shapes where some are wrong; the note that says so."""
    wrong = forget_wrong_shapes(model)
    if not wrong:
        return ()
    name, (stored, right) = next(iter(wrong.items()))
    return (
        f"{len(wrong)} stored shapes contradict the graph (the first: {name}, {list(stored)}, which with any "
        f"open extents at 640 is {list(right)}). The runtime believes them and fails or computes something "
        "else, so the result states none.",
    )


def frozen_defaults(model: ModelView, freeze: bool | None) -> tuple[str, ...]:
    """Make constants of initializers that are listed as inputs, where that is asked for or they all are.

    Args:
        model: the model; changed in place.
        freeze: whether to; None: where nine tenths of its initializers are listed or more.

    Returns:
        Names of the inputs that no caller can override any more.
    """
    wanted = model.lists_by_habit if freeze is None else freeze
    return model.freeze_defaults() if wanted else ()
