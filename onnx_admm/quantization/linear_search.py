"""Search of the forms of linear layers: dynamic int8, weight-only int8, or float, by measurement.

Layers of one shape gain alike, so they are timed together, in both forms, beside the model as it is. Each
shape takes the form that saves most. Where the whole then keeps the outputs, that is all; where not, shapes
are tried one after another in the order of what they save, the other form next, then halves of the layers.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnx_admm.contracts import ModelView
from onnx_admm.measurement.sensitivity import Effect
from onnx_admm.quantization.linear_forms import Choice, Form, LinearLayer, with_forms
from onnx_admm.quantization.result import decibels

_logger = logging.getLogger(__name__)

_GAIN = 0.005
"""Share of the latency that a form must save, since timing is no more exact."""

_MOST_GROUPS = 5
"""Shapes that are timed by themselves; the layers of all others are timed together."""

_MOST_TRIALS = 32
"""Choices whose error is measured, at most."""

_ATTEMPTS, _STRICTER = 3, 0.5
"""Choices that are confirmed on unseen samples, and the factor of the tolerance after one that failed."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Layers of one shape, and what each form of them all saves, over the latency of the model as it is."""

    layers: tuple[LinearLayer, ...]
    gains: dict[Form, float] = field(default_factory=dict)

    def forms(self) -> list[Form]:
        """Return the forms that save time, the fastest first."""
        faster = [form for form, gain in self.gains.items() if gain > _GAIN]
        return sorted(faster, key=lambda form: -self.gains[form])

    def most(self) -> float:
        """Return the largest saving."""
        return max(self.gains.values(), default=0.0)


@dataclass(frozen=True)
class Chosen:
    """The model with the forms that were chosen."""

    model: ModelView
    choice: Choice
    effect: Effect


@dataclass(eq=False)
class LinearSearch:
    """Search on one model.

    Attributes:
        view: the model as it is.
        layers: its layers (see ``find_linear_layers``).
        latencies: returns the latency of models over that of ``view``.
        error: returns the relative error of the outputs of a model on the measured samples.
        confirm: returns the effect of a model on unseen samples, and whether that keeps the tolerance.
        most_error: largest error.
        timed: number of models that were timed.
    """

    view: ModelView
    layers: Sequence[LinearLayer]
    latencies: Callable[[Sequence[ModelView]], Sequence[float]]
    error: Callable[[ModelView], float]
    confirm: Callable[[ModelView], tuple[Effect, bool]]
    most_error: float
    timed: int = 0
    _groups: list[_Group] = field(default_factory=list)
    _errors: dict[frozenset[tuple[str, Form]], float] = field(default_factory=dict)
    _last_error: dict[tuple[str, Form], float] = field(default_factory=dict)
    _failed: bool = False

    def best(self) -> Chosen | None:
        """Return the choice that saves time and keeps the outputs; None where there is none."""
        self._time()
        limit = self.most_error
        for _ in range(_ATTEMPTS):
            choice = self._within(limit)
            if not choice:
                return None
            model = self._built(choice)
            effect, holds = self.confirm(model)
            if holds:
                return Chosen(model, choice, effect) if self._saves(model) else None
            _logger.info("forms of %d linear layers fail on unseen samples", len(choice))
            self._failed = True
            limit = _STRICTER * min(limit, self._error(choice))
        return None

    def _time(self) -> None:
        """Form the groups, and time each in each form."""
        for layers in _by_shape(self.layers):
            group = _Group(layers)
            forms = [form for form in Form if all(form in layer.products for layer in layers)]
            built = [self._built({layer.name: form for layer in layers}) for form in forms]
            self.timed += len(built)
            times = self.latencies(built)
            group.gains.update({form: 1.0 - time for form, time in zip(forms, times, strict=True)})
            _logger.info("%d layers of shape %s save %s", len(layers), layers[0].shape, group.gains)
            self._groups.append(group)
        self._groups.sort(key=lambda group: -group.most())

    def _within(self, limit: float) -> Choice:
        """Return the choice that saves most, of those tried, with an error within the limit."""
        useful = [group for group in self._groups if group.forms()]
        whole = {layer.name: group.forms()[0] for group in useful for layer in group.layers}
        if not whole or self._error(whole) <= limit:
            return whole
        taken: Choice = {}
        for group in useful:
            taken = self._added(taken, group.layers, group.forms(), limit)
        return taken

    def _added(
        self, taken: Choice, layers: Sequence[LinearLayer], forms: Sequence[Form], limit: float
    ) -> Choice:
        """Return the choice with as many of the layers as the limit allows, halved where it does not."""
        for form in forms:
            trial = {**taken, **{layer.name: form for layer in layers}}
            if self._error(trial) <= limit:
                return trial
            if len(layers) == 1 and math.isfinite(self._error(trial)):
                self._last_error[layers[0].name, form] = self._error(trial)
        if len(layers) == 1:
            return taken
        half = len(layers) // 2
        return self._added(self._added(taken, layers[:half], forms, limit), layers[half:], forms, limit)

    def _error(self, choice: Choice) -> float:
        """Return the error of a choice; inf where no further one is tried."""
        key = frozenset(choice.items())
        if key not in self._errors:
            if len(self._errors) >= _MOST_TRIALS:
                return math.inf
            self._errors[key] = self.error(self._built(choice))
        return self._errors[key]

    def _saves(self, model: ModelView) -> bool:
        self.timed += 1
        return self.latencies([model])[0] < 1.0 - _GAIN

    def _built(self, choice: Choice) -> ModelView:
        return with_forms(self.view, self.layers, choice)

    def saving(self, layer: LinearLayer, form: Form) -> float:
        """Return what a form saves for all layers timed together with this one."""
        return self._group_of(layer).gains[form]

    def why_not(self, layer: LinearLayer, form: Form, chosen: Chosen | None) -> str:
        """Return why a layer has not that form.

        Args:
            layer: the layer.
            form: a form that it has not.
            chosen: the result of ``best``.
        """
        if form in layer.why_not:
            return layer.why_not[form]
        gain = self._group_of(layer).gains.get(form)
        if gain is None:
            return "a layer that is timed together with it cannot have it"
        if not math.isfinite(gain):
            return "the runtime does not run it"
        if gain <= _GAIN:
            return f"it would take {-gain:.1%} of the latency more" if gain < -_GAIN else "it is no faster"
        if (error := self._last_error.get((layer.name, form), 0.0)) > self.most_error:
            return f"beside the forms chosen before it leaves the outputs {decibels(error):.1f} dB"
        if chosen is not None and layer.name in chosen.choice:
            return f"it would save {gain:.1%} of the latency"
        if len(self._errors) >= _MOST_TRIALS:
            return f"it was not tried: {_MOST_TRIALS} choices are measured at most"
        if self._failed:
            return "with it the outputs are not kept on unseen samples"
        return f"the tolerance does not reach for it: it would save {gain:.1%} of the latency"

    def _group_of(self, layer: LinearLayer) -> _Group:
        return next(group for group in self._groups if layer in group.layers)


def _by_shape(layers: Sequence[LinearLayer]) -> list[tuple[LinearLayer, ...]]:
    """Return the layers by shape and operator, largest sum of elements first; the last of many are one."""
    shapes: dict[tuple[object, ...], list[LinearLayer]] = defaultdict(list)
    for layer in layers:
        shapes[layer.shape, frozenset(layer.products)].append(layer)
    groups = sorted(shapes.values(), key=lambda group: -len(group) * group[0].shape[0] * group[0].shape[1])
    rest = [layer for group in groups[_MOST_GROUPS:] for layer in group]
    return [*map(tuple, groups[:_MOST_GROUPS]), *([tuple(rest)] if rest else [])]
