"""Weights and optimizer state in the runtime, and the steps that move them without a copy."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_admm.contracts import Array, Feeds
from onnx_admm.model.differentiation.records import StaticGraph
from onnx_admm.model.differentiation.write_graph import write_graph
from onnx_admm.training.graph.runtime import OpenStep, open_step, value_of
from onnx_admm.training.graph.step import (
    KEPT,
    LOSS,
    STEP_SIZE,
    Adam,
    StepKind,
    Trained,
    name_of,
    new_name,
    step_graph,
)

_MOST_SHAPES = 8
"""Sets of input shapes whose sessions stay open."""

_MOVED = ("raw", "first", "second")
_STEERED = ("free", "fixed", "target", "rho")

ReadGraph = Callable[[Feeds], StaticGraph]
"""Gives the graph of the loss for runs of the feeds' shapes."""


@dataclass
class _Pair:
    """A value that steps replace: one OrtValue is read, the other written."""

    now: Any
    later: Any

    def turn(self) -> None:
        self.now, self.later = self.later, self.now


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What a step does in addition to lowering the loss.

    Attributes:
        pulls: ADMM's penalty is added.
        freezes: some entries stay fixed.
        is_last: memory is released after the step.
    """

    pulls: bool = False
    freezes: bool = False
    is_last: bool = False


class StepSession:
    """Trained tensors, moments, targets and masks, in memory of the runtime.

    Args:
        read: gives the graph of the loss by the shapes of its inputs.
        trained: names of the trained tensors.
        values: their values, float32.
        adam: the optimizer.
        threads: intra-op threads.
    """

    def __init__(
        self, read: ReadGraph, trained: Trained, values: Mapping[str, Array], adam: Adam, threads: int
    ) -> None:
        self._read, self._trained, self._adam, self._threads = read, trained, adam, threads
        self._steps = 0
        self._sessions: OrderedDict[object, dict[StepKind, OpenStep]] = OrderedDict()
        self._graphs: dict[object, StaticGraph] = {}
        self._pairs: dict[str, _Pair] = {}
        for name in trained.all:
            zeros = np.zeros_like(values[name])
            self._add_pair("raw", name, values[name])
            self._add_pair("first", name, zeros)
            self._add_pair("second", name, zeros)
        self._steering: dict[str, Any] = {}
        for name in trained.weights:
            shape = values[name].shape
            self._steering[name_of("free", name)] = value_of(np.ones(shape, np.float32))
            for role in ("fixed", "target"):
                self._steering[name_of(role, name)] = value_of(np.zeros(shape, np.float32))
            self._steering[name_of("rho", name)] = value_of(np.zeros(1, np.float32))
        self._loss = value_of(np.zeros((), np.float32))

    def _add_pair(self, role: str, name: str, array: Array) -> None:
        self._pairs[name_of(role, name)] = _Pair(value_of(array), value_of(array))

    # -- state -------------------------------------------------------------------------------

    def get(self, role: str, name: str) -> Array:
        """Return a copy of a tensor of a role; see ``step.name_of``."""
        key = name_of(role, name)
        kept = self._pairs[key].now if key in self._pairs else self._steering[key]
        return np.array(kept.numpy())

    def set(self, role: str, name: str, array: Array) -> None:
        """Set a tensor of a role; the array is cast to float32."""
        key = name_of(role, name)
        kept = self._pairs[key].now if key in self._pairs else self._steering[key]
        kept.update_inplace(np.ascontiguousarray(array, dtype=np.float32))

    def is_pulled(self) -> bool:
        """Whether the penalty draws any weight to a target."""
        return any(self.get("rho", name).any() for name in self._trained.weights)

    def is_frozen(self) -> bool:
        """Whether any entry of a weight is fixed."""
        return any(
            (self.get("free", name) != 1).any() or self.get("fixed", name).any()
            for name in self._trained.weights
        )

    # -- steps -------------------------------------------------------------------------------

    def step(self, runs: Sequence[Feeds], rate: float, how: StepOptions) -> float:
        """Run one step of the optimizer over the runs of a batch; return the loss.

        Args:
            runs: feeds of each run, shares included.
            rate: learning rate.
            how: what the step does in addition.
        """
        self._steps += 1
        numbers = {
            STEP_SIZE: np.array(self._adam.step_size(rate, self._steps), np.float32),
            KEPT: np.array(self._adam.kept(rate), np.float32),
        }
        loss = 0.0
        for index, feeds in enumerate(runs):
            moves = index == len(runs) - 1
            kind = StepKind(adds=index > 0, moves=moves, pulls=how.pulls and moves, freezes=how.freezes)
            loss += self._run(kind, {**feeds, **numbers}, is_last=moves and how.is_last)
        return loss

    def close(self) -> None:
        """Close the open sessions; the next step opens them again."""
        self._sessions.clear()
        self._graphs.clear()

    def loss(self, feeds: Feeds) -> float:
        """Return the loss of one run."""
        return self._run(StepKind(adds=False, moves=False, differentiates=False), feeds)

    def loss_and_gradients(self, feeds: Feeds) -> tuple[float, dict[str, Array]]:
        """Return the loss of one run, and its gradients by trained tensor; no tensor changes."""
        loss = self._run(StepKind(adds=False, moves=False), feeds)
        return loss, {
            name: np.array(self._pairs[name_of("sum", name)].now.numpy()) for name in self._trained.all
        }

    def _run(self, kind: StepKind, feeds: Feeds, *, is_last: bool = False) -> float:
        step = self._session(kind, feeds)
        binding = step.binding()
        for name in step.input_names:
            if name in self._pairs:
                binding.bind_ortvalue_input(name, self._pairs[name].now)
            elif name in self._steering:
                binding.bind_ortvalue_input(name, self._steering[name])
            else:
                binding.bind_cpu_input(name, feeds[name])
        binding.bind_ortvalue_output(LOSS, self._loss)
        written = self._written(kind)
        for name, pair in written.items():
            binding.bind_ortvalue_output(name, pair.later)
        step.run(binding, is_last=is_last)
        for pair in written.values():
            pair.turn()
        return float(self._loss.numpy())

    def _written(self, kind: StepKind) -> dict[str, _Pair]:
        """Pairs by the output that writes them."""
        if not kind.differentiates:
            return {}
        if kind.moves:
            return {
                new_name(role, name): self._pairs[name_of(role, name)]
                for name in self._trained.all
                for role in _MOVED
            }
        for name in self._trained.all:
            if name_of("sum", name) not in self._pairs:
                self._add_pair("sum", name, np.zeros_like(self.get("raw", name)))
        return {new_name("sum", name): self._pairs[name_of("sum", name)] for name in self._trained.all}

    def _session(self, kind: StepKind, feeds: Feeds) -> OpenStep:
        key = tuple(sorted((name, np.shape(array)) for name, array in feeds.items()))
        if key not in self._sessions:
            if len(self._sessions) >= _MOST_SHAPES:
                self._graphs.pop(self._sessions.popitem(last=False)[0])
            self._sessions[key] = {}
            self._graphs[key] = self._read(feeds)
        self._sessions.move_to_end(key)
        opened = self._sessions[key]
        if kind not in opened:
            graph = step_graph(self._graphs[key], self._trained, kind, self._adam)
            opened[kind] = open_step(write_graph(graph), self._threads)
        return opened[kind]
