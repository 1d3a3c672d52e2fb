"""One training step as a graph: forward, loss, backward, ADMM's penalty, freezing, and AdamW.

A batch is one run or several. The gradients of a run are added to those of the next one, and the last run
updates the weights:

    first run     gradient
    inner runs    gradient + sum so far
    last run      gradient + sum so far, then AdamW
    single run    gradient, then AdamW
    no run        the loss alone, for checks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_admm.model.differentiation.records import GraphNode, Shape, StaticGraph
from onnx_admm.training.gradients.backward import write_backward
from onnx_admm.training.gradients.compose import Port, compose
from onnx_admm.training.gradients.tape import PREFIX, Tape

LOSS = f"{PREFIX}step_loss"
STEP_SIZE, KEPT = f"{PREFIX}step_size", f"{PREFIX}kept"
"""Inputs, single numbers: AdamW's step size of this step, and what weight decay leaves of a weight."""

_FLOAT = np.dtype(np.float32)

_SMALL = 1e-6
"""Added to the norm of gradients that are clipped, as onnxruntime-training does."""


@dataclass(frozen=True, slots=True)
class Adam:
    """AdamW as onnxruntime-training computes it: epsilon is added outside the bias correction.

    m' = beta1 m' + g and v' = beta2 v' + g^2 are the moments over (1 - beta1) and (1 - beta2):

        w  <-  (w - step_size m' / (sqrt(v') + epsilon / sqrt(1 - beta2))) (1 - rate * weight_decay)
        step_size = rate (1 - beta1) / sqrt(1 - beta2) * sqrt(1 - beta2^t) / (1 - beta1^t)

    Gradients whose norm over all tensors is above ``max_norm`` are scaled down to it first (Pascanu et al.,
    arXiv 1211.5063); None: never.

    Source: AdamWOptimizer of onnxruntime-training 1.19.2, adam_mode 1 and correct_bias 1.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.0
    max_norm: float | None = None

    def step_size(self, rate: float, step: int) -> float:
        """Return the factor of the normalised moment at a step, counted from 1."""
        corrected = np.sqrt(1 - self.beta2**step) / (1 - self.beta1**step)
        return float(rate * (1 - self.beta1) / np.sqrt(1 - self.beta2) * corrected)

    def kept(self, rate: float) -> float:
        """Return the factor of a weight that weight decay leaves at a learning rate."""
        return 1 - rate * self.weight_decay


@dataclass(frozen=True, slots=True)
class StepKind:
    """Which of the graphs of a step it is.

    Attributes:
        adds: the gradients of earlier runs are added.
        moves: the weights are updated; else the gradients are outputs.
        pulls: ADMM's penalty is added.
        freezes: weights are ``W * free + fixed``.
        differentiates: gradients are computed; else the loss alone.
    """

    adds: bool
    moves: bool
    pulls: bool = False
    freezes: bool = False
    differentiates: bool = True


@dataclass(frozen=True, slots=True)
class Trained:
    """Names of the trained tensors: weights, which may be frozen or drawn to a target, and biases."""

    weights: tuple[str, ...]
    biases: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Both."""
        return (*self.weights, *self.biases)


def name_of(role: str, tensor: str) -> str:
    """Return the input that has a role for a tensor.

    Roles: ``raw`` (the tensor itself), ``first`` and ``second`` (moments), ``sum`` (gradients so far),
    ``free``, ``fixed``, ``target`` and ``rho`` (shape (1,)).
    """
    return f"{PREFIX}{role}::{tensor}"


def new_name(role: str, tensor: str) -> str:
    """Return the output that takes the place of an input."""
    return f"{PREFIX}new_{role}::{tensor}"


def step_graph(graph: StaticGraph, trained: Trained, kind: StepKind, adam: Adam) -> StaticGraph:
    """Return the graph of a step, built on that of a loss.

    Args:
        graph: its one output is the loss, a number.
        trained: constants of the graph that become inputs.
        kind: which of the graphs.
        adam: the optimizer; the graph depends only on whether there is weight decay.

    Raises:
        NoGradient: an operator on the path to a trained tensor has no rule.
    """
    tape = Tape()
    [loss] = graph.outputs
    graph = without_trained(graph, trained)
    step = _Step(graph, tape, kind)
    for name in trained.all:
        step.parameter(name, is_steered=name in trained.weights)
    total = loss
    if kind.differentiates:
        seed = tape.constant(np.ones(graph.shapes[loss]), _FLOAT)
        found = write_backward(graph, tape, {loss: seed}, trained.all)
    gradients: dict[str, str] = {}
    for name in trained.all if kind.differentiates else ():
        gradient = found.get(name) or tape.zeros(graph.shapes[name], _FLOAT)
        steered = name in trained.weights
        if kind.adds:
            gradient = tape.write("Add", step.input("sum", name), gradient)
        if not kind.moves:
            step.outputs[new_name("sum", name)] = step.port(gradient, name)
            continue
        if steered and kind.pulls:
            gradient, total = step.pulled(name, gradient, total)
        if steered and kind.freezes:
            gradient = tape.write("Mul", gradient, name_of("free", name))
        gradients[name] = gradient
    if adam.max_norm is not None and gradients:
        gradients = step.clipped(gradients, adam.max_norm)
    for name, gradient in gradients.items():
        step.move(name, gradient, adam)
    step.outputs[LOSS] = Port(total, (), _FLOAT)
    inputs = {name: Port(name, graph.shapes[name], graph.dtypes[name]) for name in graph.inputs}
    return compose(graph, tape, {**inputs, **step.inputs}, step.outputs)


def without_trained(graph: StaticGraph, trained: Trained) -> StaticGraph:
    """Return the graph with trained tensors taken out of its constants."""
    names = set(trained.all)

    def others(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array for name, array in arrays.items() if name not in names}

    return replace(graph, constants=others(graph.constants), known=others(graph.known))


class _Step:
    """Inputs and outputs of a step while it is written."""

    def __init__(self, graph: StaticGraph, tape: Tape, kind: StepKind) -> None:
        self._graph, self._tape, self._kind = graph, tape, kind
        self.inputs: dict[str, Port] = {}
        self.outputs: dict[str, Port] = {}

    def port(self, value: str, tensor: str, shape: Shape | None = None) -> Port:
        return Port(value, self._graph.shapes[tensor] if shape is None else shape, _FLOAT)

    def input(self, role: str, tensor: str, shape: Shape | None = None) -> str:
        name = name_of(role, tensor)
        self.inputs[name] = self.port(name, tensor, shape)
        return name

    def number(self, name: str) -> str:
        self.inputs[name] = Port(name, (), _FLOAT)
        return name

    def parameter(self, tensor: str, *, is_steered: bool) -> None:
        """Return the tensor under its own name: the raw one, or what freezing makes of it."""
        raw = self.input("raw", tensor)
        if is_steered and self._kind.freezes:
            free, fixed = self.input("free", tensor), self.input("fixed", tensor)
            masked = self._tape.fresh("masked")
            self._front("Mul", (raw, free), masked)
            self._front("Add", (masked, fixed), tensor)
        else:
            self._front("Identity", (raw,), tensor)

    def _front(self, operator: str, inputs: Sequence[str], output: str) -> None:
        node = GraphNode(operator=operator, inputs=tuple(inputs), outputs=(output,), name=output)
        self._tape.front.append(node)

    def pulled(self, tensor: str, gradient: str, loss: str) -> tuple[str, str]:
        """Add rho (W - target) to the gradient and rho/2 ||W - target||^2 to the loss."""
        tape = self._tape
        rho = self.input("rho", tensor, (1,))
        gap = tape.write("Sub", tensor, self.input("target", tensor))
        square = tape.write("ReduceSumSquare", gap, keepdims=0)
        halved = tape.write("Mul", tape.write("Mul", square, tape.constant(0.5, _FLOAT)), rho)
        loss = tape.write("Add", loss, tape.reshape(halved, []))
        return tape.write("Add", gradient, tape.write("Mul", gap, rho)), loss

    def clipped(self, gradients: Mapping[str, str], most: float) -> dict[str, str]:
        """Scale all gradients by the same factor, so that their norm together is ``most`` at most."""
        tape = self._tape
        squares = [tape.write("ReduceSumSquare", gradient, keepdims=0) for gradient in gradients.values()]
        norm = tape.write("Sqrt", tape.write("Sum", *squares))
        factor = tape.write(
            "Div", tape.constant(most, _FLOAT), tape.write("Add", norm, tape.constant(_SMALL, _FLOAT))
        )
        factor = tape.write("Min", factor, tape.constant(1.0, _FLOAT))
        return {name: tape.write("Mul", gradient, factor) for name, gradient in gradients.items()}

    def move(self, tensor: str, gradient: str, adam: Adam) -> None:
        """One step of AdamW; see `Adam`."""
        tape = self._tape

        def number(value: float) -> str:
            return tape.constant(value, _FLOAT)

        raw = self.input("raw", tensor)
        first = tape.write("Mul", self.input("first", tensor), number(adam.beta1))
        first = tape.write("Add", first, gradient)
        second = tape.write("Mul", self.input("second", tensor), number(adam.beta2))
        second = tape.write("Add", second, tape.write("Mul", gradient, gradient))
        epsilon = adam.epsilon / np.sqrt(1 - adam.beta2)
        divisor = tape.write("Add", tape.write("Sqrt", second), number(epsilon))
        moved = tape.write("Mul", tape.write("Div", first, divisor), self.number(STEP_SIZE))
        weight = tape.write("Sub", raw, moved)
        if adam.weight_decay:
            weight = tape.write("Mul", weight, self.number(KEPT))
        for role, value in (("raw", weight), ("first", first), ("second", second)):
            self.outputs[new_name(role, tensor)] = self.port(value, tensor)
