"""Check of a session's gradients: the loss must change along them as they predict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Array, Feeds
from onnx_admm.errors import TrainingError
from onnx_admm.model.rewrite.training_graph import LABELS, TEACHER, LossSpec
from onnx_admm.training.graph.session import StepSession

_GROUPS = 4
"""Groups of tensors, in the order of the graph, that are moved together."""

_TOLERANCE = 0.15
"""Relative difference allowed, for kinks within a step. A missing path in the gradient makes far more."""

_STEPS = (1e-2, 2e-3, 4e-4, 8e-5, 1.6e-5)
"""Share of the loss that a step is to change, and of the weights that it may be."""

_NOISE = {False: 1e-6, True: 3e-3}
"""Relative rounding error of a loss; by whether any value is computed in float16."""


def random_targets(feeds: Feeds, loss: LossSpec, classes: int) -> Feeds:
    """Return the feeds with random labels and teacher outputs, so that there is a gradient."""
    rng = np.random.default_rng(0)
    changed = dict(feeds)
    if LABELS in feeds:
        changed[LABELS] = rng.integers(0, classes, feeds[LABELS].shape)
    if TEACHER in feeds:
        shape = feeds[TEACHER].shape
        noise = rng.normal(size=shape)
        if loss.divergence_weight:
            grown = np.exp(noise)
            changed[TEACHER] = grown / grown.sum(axis=loss.class_axis, keepdims=True)
        else:
            changed[TEACHER] = feeds[TEACHER] + noise * (feeds[TEACHER].std() + 1e-3)
        changed[TEACHER] = changed[TEACHER].astype(np.float32)
    return changed


def check_gradients(
    session: StepSession, feeds: Feeds, names: Sequence[str], *, half_precision: bool
) -> None:
    """Move groups of tensors along their gradients, and compare the change of the loss with the gradients.

    Tensors without a gradient are moved at random: the loss must not change.

    Args:
        session: stays as it is.
        feeds: of one run.
        names: the trained tensors.
        half_precision: whether any value is computed in float16.

    Raises:
        TrainingError: they differ at every step size; names the tensors.
    """
    loss, gradients = session.loss_and_gradients(feeds)
    values = {name: session.get("raw", name) for name in names}
    if not np.isfinite(loss):
        raise TrainingError("the loss is not finite before any training", got=loss, hint="Check the data.")
    room = _NOISE[half_precision] * max(abs(loss), 1e-12)
    still = [name for name in names if not gradients[name].any()]
    moving = [name for name in names if gradients[name].any()]
    try:
        for group in np.array_split(np.array(moving, dtype=object), min(_GROUPS, max(len(moving), 1))):
            chosen = {str(name): gradients[str(name)].astype(np.float64) for name in group}
            slopes = _slopes(session, feeds, values, chosen, loss)
            if slopes and _are_other(slopes, room):
                raise _wrong(chosen, slopes[-1].said, slopes[-1].found)
        change = _change_at_random(session, feeds, {name: values[name] for name in still}, loss)
        if abs(change) > 10 * room:
            raise _wrong(still, 0.0, change)
    finally:
        for name, value in values.items():
            session.set("raw", name, value)


def _wrong(names: Iterable[str], said: float, found: float) -> TrainingError:
    return TrainingError(
        "the gradients of this model are not those of its loss",
        where=", ".join(names),
        got=f"{said:.3g} along them",
        expected=f"{found:.3g}, which the loss changes by",
        hint="Please report the model. Use --trainer onnxruntime-training or --no-fine-tune.",
    )


def _change_at_random(session: StepSession, feeds: Feeds, values: Mapping[str, Array], loss: float) -> float:
    """Return the change of the loss if tensors are moved by a hundredth of their size."""
    if not values:
        return 0.0
    rng = np.random.default_rng(0)
    for name, value in values.items():
        scale = 0.01 * (float(np.abs(value).mean()) + 1e-3)
        session.set("raw", name, value + scale * rng.normal(size=value.shape))
    return session.loss(feeds) - loss


@dataclass(frozen=True, slots=True)
class _Slope:
    """Change of the loss along normalised gradients, their norm, and the step that was taken."""

    found: float
    said: float
    step: float

    def agrees(self, room: float) -> bool:
        """Return whether both are equal, up to kinks and rounding."""
        return abs(self.found - self.said) <= _TOLERANCE * abs(self.said) + room / self.step


def _are_other(slopes: Sequence[_Slope], room: float) -> bool:
    """Return whether slopes of smaller and smaller steps converge to another slope than the gradients'.

    If they do not converge, the curvature of the loss is too large for steps above the rounding error.
    """
    if any(slope.agrees(room) for slope in slopes):
        return False
    before, last = slopes[-2].found, slopes[-1].found
    return abs(before - last) <= _TOLERANCE * abs(last) + room / slopes[-1].step


def _slopes(
    session: StepSession,
    feeds: Feeds,
    values: Mapping[str, Array],
    gradients: Mapping[str, Array],
    loss: float,
) -> list[_Slope]:
    """Slopes by smaller and smaller steps, until one agrees; none where the gradients are all but zero."""
    norm = float(np.sqrt(sum(float(np.square(gradient).sum()) for gradient in gradients.values())))
    size = float(np.sqrt(sum(float(np.square(values[name]).sum()) for name in gradients)))
    if norm <= 1e-9 * abs(loss) / max(size, 1e-12):
        return []
    found: list[_Slope] = []
    for share in _STEPS:
        step = min(share * abs(loss) / norm, share * size) if size else share * abs(loss) / norm
        losses = []
        for sign in (1, -1):
            for name, gradient in gradients.items():
                session.set("raw", name, values[name] + sign * step / norm * gradient)
            losses.append(session.loss(feeds))
        for name in gradients:
            session.set("raw", name, values[name])
        found.append(_Slope((losses[0] - losses[1]) / (2 * step), norm, step))
        if found[-1].agrees(0.0):
            break
    return found
