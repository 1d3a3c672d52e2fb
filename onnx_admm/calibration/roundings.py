"""Search for the rounding of each layer, by measurement.

Layers are rounded one at a time and the outputs compared (``sensitivity``); the roundings of fewest bytes are
chosen whose relative errors add up to the allowed sum (``allocation``); then the model as a whole is
compared, on samples that were not used for the choice, and the allowed sum is corrected by the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.allocation.allocation import Option, least_cost
from onnx_admm.contracts import Array, Task
from onnx_admm.encoding.compression_options import (
    BYTES,
    DENSE,
    FINE,
    HALF,
    NIBBLES,
    SPARSE,
    Rounding,
    Treated,
)
from onnx_admm.measurement.sensitivity import Effect, OutputProbe

ANCHORS = (NIBBLES, BYTES)
"""Roundings that every layer is measured with first, while runs last; others are estimated from these."""

ATTEMPTS = 6
"""Choices that are tried on the model as a whole, at most."""

_SEEN, _LEAST_GAIN = 1e-3, 0.02
"""Share of a layer's own relative error that must reach the outputs.

A layer in a chain passes on nearly all of its error, a redundant one some hundredths. Below a thousandth the
samples do not show the layer; its effect on others is unknown, and all of its error is assumed. The assumed
share is never less than two hundredths.
"""

_LARGEST_STEP, _CLOSE = 16.0, 1.1
_HOPELESS = 1e6

Choice = Mapping[str, Rounding | None]
"""Rounding of each layer; None leaves it unchanged."""


@dataclass(frozen=True)
class ChosenRoundings:
    """A choice, its worst relative error on all sets of samples, and its effect on the first unseen ones.

    Where one set exceeds the limit, later ones are not run, and the effect is that on this one.
    """

    choice: Choice
    relative_error: float
    effect: Effect


class RoundingSearch:
    """Alternating allocation and measurement: only roundings that would be chosen are run.

    Args:
        layers: layers by site name.
        probes: the model with each set of samples to measure on; the worse relative error counts.
        most_runs: measurements, at most; at least as many as there are layers.
        task: advances by one for each measurement.
    """

    def __init__(
        self, layers: Mapping[str, Treated], probes: Sequence[OutputProbe], most_runs: int, task: Task
    ) -> None:
        self.layers = {name: RoundedLayer(treated) for name, treated in layers.items()}
        self.probes, self.runs = probes, 0
        self._most_runs, self._task = most_runs, task
        self._base = [probe.relative_error({}) for probe in probes]

    def confirmed(
        self, unseen: Sequence[OutputProbe], tolerance: float, agrees: Callable[[Effect], bool]
    ) -> ChosenRoundings:
        """Return the choice of fewest bytes that also holds on unseen samples; else no rounding.

        Relative errors are not exactly additive, so the allowed sum is raised while the model as a whole
        holds and lowered while it does not, then bisected.

        Args:
            unseen: the same model on sets of samples that were not used for the choice.
            tolerance: largest relative error, on each set of samples.
            agrees: whether predictions on the first of them are preserved well enough.
        """
        best = self.judged(dict.fromkeys(self.layers), unseen)
        allowed, holding, failing, failures = tolerance, 0.0, math.inf, 0
        known: dict[tuple[Rounding | None, ...], ChosenRoundings] = {}
        for _ in range(ATTEMPTS):
            if allowed <= 0.0:
                break
            choice = self.allocate(allowed)
            content = tuple(choice.values())
            found = known[content] if content in known else self.judged(choice, unseen, tolerance)
            known[content] = found
            step = float(
                np.clip(tolerance / max(found.relative_error, 1e-300), 1 / _LARGEST_STEP, _LARGEST_STEP)
            )
            if step >= 1 and agrees(found.effect):
                holding, best = allowed, min(best, found, key=lambda each: self.bytes(each.choice))
                allowed = math.sqrt(holding * failing) if failing < math.inf else allowed * step
            else:
                # Down to the sum of the choice's own errors the choice would be the same.
                failing, failures = min(allowed, max(self._alone(found.choice), holding)), failures + 1
                # Errors that do not follow the allowed sum need longer and longer steps.
                shrunk = failing * (step**failures if step < 0.5 else 0.5)
                allowed = math.sqrt(holding * failing) if holding else shrunk
            if failing < holding * _CLOSE or (holding and step < _CLOSE):
                break
        return best

    def allocate(self, allowed: float) -> Choice:
        """Return the measured roundings of fewest bytes with errors of at most ``allowed`` in sum."""
        for anchor in ANCHORS:
            for name, layer in self.layers.items():
                if layer.roundings:
                    self._measure(name, anchor)
        while True:
            options = {name: layer.options() for name, layer in self.layers.items()}
            choice = {name: option.what for name, option in least_cost(options, allowed).items()}
            if not sum(self._measure(name, rounding) for name, rounding in choice.items()):
                return choice

    def judged(
        self, choice: Choice, unseen: Sequence[OutputProbe], most: float = math.inf
    ) -> ChosenRoundings:
        """Return the choice with its effect on the whole model; stop at the first set over ``most``."""
        weights = self.weights(choice)
        effects: list[Effect] = []
        for probe in (*self.probes, *unseen):
            effects.append(probe.effect(weights))
            if effects[-1].relative_error > most:
                return ChosenRoundings(choice, effects[-1].relative_error, effects[-1])
        seen = max(effect.relative_error for effect in effects)
        return ChosenRoundings(choice, seen + self._unseen(choice), effects[len(self.probes)])

    def _alone(self, choice: Choice) -> float:
        """Return the sum of the errors of a choice's roundings, each alone."""
        chosen = ((self.layers[name], each) for name, each in choice.items() if each is not None)
        return sum(layer.relative_error(rounding) for layer, rounding in chosen)

    def _unseen(self, choice: Choice) -> float:
        """Return the expected error of layers that no sample shows; whole-model runs miss it."""
        hidden = (
            self.layers[name].treated.expected_error(rounding)
            for name, rounding in choice.items()
            if rounding is not None and self.layers[name].measured and not self.layers[name].is_seen
        )
        return sum(hidden)

    def weights(self, choice: Choice) -> dict[str, Array]:
        """Return the new weights of the layers that change."""
        return {
            name: self.layers[name].treated.apply(rounding)
            for name, rounding in choice.items()
            if rounding is not None
        }

    def close(self) -> None:
        """Let go of the probes, whose sessions hold the weights once more; nothing is measured afterwards."""
        self.probes = ()

    def bytes(self, choice: Choice) -> float:
        """Return the bytes of all layers in the file."""
        return sum(self.layers[name].treated.stored_bytes(rounding) for name, rounding in choice.items())

    def _measure(self, name: str, rounding: Rounding | None) -> bool:
        """Run the layer rounded so; return False where that is known, or no run is left."""
        layer = self.layers[name]
        if rounding is None or rounding in layer.measured or self.runs >= self._most_runs:
            return False
        weights = {name: layer.treated.apply(rounding)}
        relative_errors = [
            probe.relative_error(weights) - base for probe, base in zip(self.probes, self._base, strict=True)
        ]
        layer.measured[rounding] = max(0.0, *relative_errors)
        self.runs += 1
        self._task.advance(note=name)
        return True


class RoundedLayer:
    """A layer, its useful roundings, and the measured effects of those that were run.

    Effects of other roundings are estimated in proportion to their expected change of the weight; the
    proportion is that of the nearest measured one, interpolated between two.
    """

    def __init__(self, treated: Treated) -> None:
        self.treated = treated
        self.roundings = _worthwhile(treated)
        self.measured: dict[Rounding, float] = {}

    @property
    def is_seen(self) -> bool:
        """Whether the samples show the effect of the layer."""
        return any(
            d >= _SEEN * self.treated.expected_error(rounding) for rounding, d in self.measured.items()
        )

    def options(self) -> list[Option[Rounding | None]]:
        """Return the options for an allocation; no rounding is one of them."""
        return [
            Option(self.treated.stored_bytes(rounding), self.relative_error(rounding), rounding)
            for rounding in (None, *self.roundings)
        ]

    def relative_error(self, rounding: Rounding | None) -> float:
        """Return the measured or estimated relative error, with its uncertainty added."""
        if rounding is None:
            return 0.0
        expected = self.treated.expected_error(rounding)
        if not self.is_seen:
            return expected
        if rounding in self.measured:
            found = self.measured[rounding]
        else:
            found = self._guess(self.treated.hoped_error(rounding))
        return min(max(found, _LEAST_GAIN * expected), _HOPELESS)

    def _guess(self, expected: float) -> float:
        errors, relative_errors = np.array(
            sorted(
                (self.treated.expected_error(rounding), relative_error)
                for rounding, relative_error in self.measured.items()
            )
        ).T
        gains = np.log(np.maximum(relative_errors, _SEEN * errors) / errors)
        return expected * float(np.exp(np.interp(math.log(expected), np.log(errors), gains)))

    def says(self, rounding: Rounding) -> str:
        """Return one line on the layer where it is rounded."""
        size = f"{self.treated.values.nbytes:,} to about {self.treated.stored_bytes(rounding):,.0f} bytes"
        if not self.is_seen:
            return f"{rounding}: {size}; the samples hardly excite it, so its full error is assumed"
        left_db = decibels(self.relative_error(rounding))
        return f"{rounding}: {size}; rounded alone it leaves the outputs {left_db:.1f} dB"

    def why_left(self, rounding: Rounding | None, least_db: float) -> str:
        """Return one line on the layer where it stays unchanged.

        Args:
            rounding: its rounding, which changes no value; None for none.
            least_db: ratio that the outputs must keep.
        """
        if rounding is not None:
            return f"its values already are {rounding}"
        if not self.roundings:
            return f"{self.treated.values.nbytes:,} bytes: no form of it is smaller"
        alone = decibels(self.relative_error(self.roundings[0]))
        others = "; with those of other layers the outputs were not kept" if alone >= least_db else ""
        return f"{self.roundings[0]} alone would leave the outputs {alone:.1f} dB{others}"


def _worthwhile(layer: Treated) -> tuple[Rounding, ...]:
    """Return the roundings that save bytes and are not dominated by another; mildest first."""
    fine = FINE if layer.values.dtype.itemsize > 2 else ()  # half floats hold no product of such codes
    roundings = sorted(
        (HALF, *fine, *DENSE, *layer.further, *SPARSE),
        key=lambda rounding: (layer.expected_error(rounding), layer.stored_bytes(rounding)),
    )
    kept: list[Rounding] = []
    least = layer.stored_bytes(None)
    for rounding in roundings:
        if layer.stored_bytes(rounding) < least:
            kept.append(rounding)
            least = layer.stored_bytes(rounding)
    return tuple(kept)


def decibels(relative_error: float) -> float:
    """Return the signal-to-noise ratio of a relative error in dB, at most 200."""
    return round(-10 * math.log10(max(relative_error, 1e-20)), 2)
