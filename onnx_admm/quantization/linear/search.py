"""Search of the forms of linear layers: dynamic int8, weight-only int8, or float, by measurement.

Layers of one shape gain alike, so they are timed together, in both forms, beside the model as it is. Each
shape takes the form that saves most. Where the whole then keeps the outputs, that is all. Where not, the
error of each shape is measured in each form, and a knapsack takes the forms that save most within the
tolerance. Layers that did not get their fastest form are halved and measured again.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnx_admm.allocation.allocation import Option, least_cost
from onnx_admm.contracts import ModelView
from onnx_admm.measurement.sensitivity import Effect
from onnx_admm.quantization.linear.forms import Choice, LinearForm, LinearLayer, with_forms
from onnx_admm.quantization.result import decibels

_logger = logging.getLogger(__name__)

_GAIN = 0.005
"""Share of the latency that a form must save, since timing is no more exact."""

_MOST_GROUPS = 5
"""Shapes that are timed by themselves; the layers of all others are timed together."""

_MOST_TRIALS = 24
"""Choices whose error is measured, at most."""

_FACTORS = (2.0, 1.0, 0.5)
"""Factors of the tolerance for the sum of errors: they partly cancel, and the whole is measured."""

_ATTEMPTS, _STRICTER, _CLOSER = 4, 0.5, 0.95
"""Choices that are confirmed on unseen samples, and the factor of the tolerance after one that failed: the
latter over the share of the error that it had."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Layers of one shape, and what each form of them all saves, over the latency of the model as it is."""

    layers: tuple[LinearLayer, ...]
    gains: dict[LinearForm, float] = field(default_factory=dict)

    def forms(self) -> list[LinearForm]:
        """Return the forms that save time, the fastest first."""
        faster = [form for form, gain in self.gains.items() if gain > _GAIN]
        return sorted(faster, key=lambda form: -self.gains[form])

    def most(self) -> float:
        """Return the largest saving."""
        return max(self.gains.values(), default=0.0)


@dataclass(frozen=True, eq=False)
class _Part:
    """Layers that have the same form, and what each form saves, the fastest first."""

    layers: tuple[LinearLayer, ...]
    gains: dict[LinearForm, float]

    def halves(self) -> list[_Part]:
        """Return two parts that share the savings by their number of layers."""
        half = len(self.layers) // 2
        pieces = self.layers[:half], self.layers[half:]
        return [
            _Part(piece, {f: gain * len(piece) / len(self.layers) for f, gain in self.gains.items()})
            for piece in pieces
        ]


@dataclass(frozen=True)
class Confirmation:
    """Outputs on unseen samples.

    Attributes:
        effect: against the reference.
        holds: whether they keep the tolerance.
        share: their error, as a share of the largest one.
    """

    effect: Effect
    holds: bool
    share: float


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
        confirm: compares a model with the reference on unseen samples.
        most_error: largest error.
        timed: number of models that were timed.
    """

    view: ModelView
    layers: Sequence[LinearLayer]
    latencies: Callable[[Sequence[ModelView]], Sequence[float]]
    error: Callable[[ModelView], float]
    confirm: Callable[[ModelView], Confirmation]
    most_error: float
    timed: int = 0
    _groups: list[_Group] = field(default_factory=list)
    _errors: dict[frozenset[tuple[str, LinearForm]], float] = field(default_factory=dict)
    _alone: dict[tuple[str, LinearForm], float] = field(default_factory=dict)
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
            confirmed = self.confirm(model)
            if confirmed.holds:
                return Chosen(model, choice, confirmed.effect) if self._saves(model) else None
            _logger.info(
                "forms of %d linear layers fail on unseen samples: %.2f of the error",
                len(choice),
                confirmed.share,
            )
            self._failed = True
            stricter = _CLOSER / confirmed.share if confirmed.share > 1 else _STRICTER
            limit = stricter * min(limit, self._error(choice, is_last=True))
        return None

    def _time(self) -> None:
        """LinearForm the groups, and time each in each form."""
        for layers in _by_shape(self.layers):
            group = _Group(layers)
            forms = [form for form in LinearForm if all(form in layer.products for layer in layers)]
            built = [self._built({layer.name: form for layer in layers}) for form in forms]
            self.timed += len(built)
            times = self.latencies(built)
            group.gains.update({form: 1.0 - time for form, time in zip(forms, times, strict=True)})
            _logger.info("%d layers of shape %s save %s", len(layers), layers[0].shape, group.gains)
            self._groups.append(group)
        self._groups.sort(key=lambda group: -group.most())

    def _within(self, limit: float) -> Choice:
        """Return the choice that saves most, of those tried, with an error within the limit."""
        parts = [
            _Part(group.layers, {form: group.gains[form] for form in group.forms()})
            for group in self._groups
            if group.forms()
        ]
        whole = {layer.name: next(iter(part.gains)) for part in parts for layer in part.layers}
        if not whole or self._error(whole) <= limit:
            return whole
        left = limit - self._error({})
        while (halves := self._halved(parts, self._knapsack(parts, left))) is not None:
            parts = halves
        for factor in _FACTORS:
            choice = self._knapsack(parts, factor * left)
            if not choice or self._error(choice, is_last=True) <= limit:
                return choice
        return {}

    def _knapsack(self, parts: Sequence[_Part], limit: float) -> Choice:
        """Return the forms that save most, the sum of their errors within a limit."""
        if limit <= 0:
            return {}
        options: dict[str, list[Option[LinearForm | None]]] = {}
        for number, part in enumerate(parts):
            most = max(part.gains.values())
            options[str(number)] = [Option(most, 0.0, None)]
            for form, gain in part.gains.items():
                error = self._error_of(part, form)
                if math.isfinite(error):
                    options[str(number)].append(Option(most - gain, error, form))
        chosen = {number: option.what for number, option in least_cost(options, limit).items()}
        forms = [(part, chosen[str(number)]) for number, part in enumerate(parts)]
        return {layer.name: form for part, form in forms if form is not None for layer in part.layers}

    def _halved(self, parts: Sequence[_Part], choice: Choice) -> list[_Part] | None:
        """Return the parts, those without their fastest form in halves; None where none can be halved."""
        halved = list[_Part]()
        for part in parts:
            is_fastest = choice.get(part.layers[0].name) is next(iter(part.gains))
            halved += [part] if is_fastest or len(part.layers) == 1 else part.halves()
        new = 2 * (len(halved) - len(parts))
        may_measure = len(self._errors) + new * len(LinearForm) <= _MOST_TRIALS
        return halved if len(halved) > len(parts) and may_measure else None

    def _error_of(self, part: _Part, form: LinearForm) -> float:
        """Return the error that a form of these layers alone adds."""
        error = self._error({layer.name: form for layer in part.layers})
        if len(part.layers) == 1 and math.isfinite(error):
            self._alone[part.layers[0].name, form] = error
        return max(0.0, error - self._error({}))

    def _error(self, choice: Choice, *, is_last: bool = False) -> float:
        """Return the error of a choice; inf where no further one is tried, unless it is the last."""
        key = frozenset(choice.items())
        if key not in self._errors:
            if len(self._errors) >= _MOST_TRIALS and not is_last:
                return math.inf
            self._errors[key] = self.error(self._built(choice))
            _logger.debug("%d layers add up to an error of %.5f", len(choice), self._errors[key])
        return self._errors[key]

    def _saves(self, model: ModelView) -> bool:
        self.timed += 1
        return self.latencies([model])[0] < 1.0 - _GAIN

    def _built(self, choice: Choice) -> ModelView:
        return with_forms(self.view, self.layers, choice)

    def saving(self, layer: LinearLayer, form: LinearForm) -> float:
        """Return what a form saves for all layers timed together with this one."""
        return self._group_of(layer).gains[form]

    def why_not(self, layer: LinearLayer, form: LinearForm, chosen: Chosen | None) -> str:
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
        if (error := self._alone.get((layer.name, form), 0.0)) > self.most_error:
            return f"it alone leaves the outputs {decibels(error):.1f} dB"
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
