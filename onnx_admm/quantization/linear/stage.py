"""The stage behind static placement: linear layers that stay float are offered their two other forms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from onnx_admm.contracts import ModelView
from onnx_admm.model.integers.kernels import kernel_counts
from onnx_admm.quantization.linear.forms import LinearForm, LinearLayer, find_linear_layers
from onnx_admm.quantization.linear.search import Chosen, Confirmation, LinearSearch
from onnx_admm.quantization.result import Result
from onnx_admm.runtime.sessions import optimised_model


@dataclass(frozen=True, kw_only=True)
class LinearStage:
    """Offers dynamic and weight-only int8 to the linear layers of a model that have no static integers.

    Attributes:
        before: the model before quantisation.
        layers: names of the weights that may be integer.
        forms: forms on offer.
        largest: largest code of a weight in the dynamic form.
        most_error: largest relative error of the outputs.
        latencies: returns the latency of models over that of the first argument.
        error: returns the relative error of a model's outputs on the measured samples.
        confirm: compares a model with the reference on unseen samples.
    """

    before: ModelView
    layers: Collection[str]
    forms: Collection[LinearForm]
    largest: int
    most_error: float
    latencies: Callable[[ModelView, Sequence[ModelView]], Sequence[float]]
    error: Callable[[ModelView], float]
    confirm: Callable[[ModelView], Confirmation]

    def has_layers(self, placed: Result, base: ModelView) -> bool:
        """Return whether there is a form to offer to any layer."""
        view = base if placed.model is None else placed.model
        return bool(self.forms and find_linear_layers(view, self.layers, self.forms, self.largest)[0])

    def improved(self, placed: Result, base: ModelView) -> Result:
        """Return the result with the forms that make its model faster; reasons name what was not taken.

        Args:
            placed: result of the static placement.
            base: model for layers of which none is static.
        """
        if not self.forms:
            return placed
        view = base if placed.model is None else placed.model
        layers, shared = find_linear_layers(view, self.layers, self.forms, self.largest)
        left = {**placed.left}
        for name, why in shared.items():
            left[name] = _joined(left.get(name), why)
        if not layers:
            return replace(placed, left=left)
        search = LinearSearch(
            view, layers, partial(self.latencies, view), self.error, self.confirm, self.most_error
        )
        chosen = search.best()
        integer = dict(placed.integer)
        for layer in layers:
            form = None if chosen is None else chosen.choice.get(layer.name)
            others = "; ".join(
                f"{other.value}: {search.why_not(layer, other, chosen)}"
                for other in LinearForm
                if other in self.forms and other is not form
            )
            if form is None:
                left[layer.name] = _joined(left.get(layer.name), others)
            else:
                static = left.pop(layer.name, None)
                why_static = f"static int8: {static}" if static else ""
                integer[layer.name] = _joined(_became(layer, form, search), others, why_static)
        timed = placed.timed + search.timed
        if chosen is None:
            return replace(placed, left=left, timed=timed)
        return self._result(placed, chosen, integer, left, timed)

    def _result(
        self, placed: Result, chosen: Chosen, integer: dict[str, str], left: dict[str, str], timed: int
    ) -> Result:
        return replace(
            placed,
            model=chosen.model,
            latency_ratio=self.latencies(self.before, [chosen.model])[0],
            effect=chosen.effect,
            integer=integer,
            left=left,
            kernels=kernel_counts(optimised_model(chosen.model.to_bytes(maps=False))),
            timed=timed + 1,
            why=None,
        )


def _became(layer: LinearLayer, form: LinearForm, search: LinearSearch) -> str:
    """Return what became of a layer, and what that saves."""
    grid = "its own grid" if layer.keeps_grid[form] else "int8 by output channel"
    saves = f"layers of its shape save {search.saving(layer, form):.1%} of the latency"
    return f"{form.value} {layer.op_type}, weight on {grid}; {saves}"


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)
