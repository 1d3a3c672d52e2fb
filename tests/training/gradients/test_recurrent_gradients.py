"""Gradients of recurrent layers against their definition, step by step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from gradient_cases import Arrays, Case, check, node
from recurrent_layers import Step, gru_step, layer, lstm_step, rnn_step

from onnx_admm.errors import NoGradient

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, SAMPLES, FEATURES, HIDDEN = 5, 2, 3, 4
OUTPUTS = {"LSTM": 3, "GRU": 2, "RNN": 2}


def step_of(operator: str, linear: int) -> Callable[..., Step]:
    if operator == "GRU":
        return functools.partial(gru_step, linear_before_reset=bool(linear))
    return lstm_step if operator == "LSTM" else rnn_step


def case_of(
    operator: str, direction: str, *, linear: int = 0, output: int = 0, given: str = "bhc", steps: int = STEPS
) -> Case:
    """A layer of which one output is differentiated; biases and first states as given."""
    count = 2 if direction == "bidirectional" else 1
    width = GATES[operator] * HIDDEN
    shapes = {
        "x": (steps, SAMPLES, FEATURES),
        "w": (count, width, FEATURES),
        "r": (count, width, HIDDEN),
    }
    inputs = ["x", "w", "r", "", "", "", ""]
    optional = {
        "b": (3, (count, 2 * width)),
        "h0": (5, (count, SAMPLES, HIDDEN)),
        "c0": (6, (count, SAMPLES, HIDDEN)),
    }
    for name, (place, shape) in optional.items():
        if name[0] in given and (name != "c0" or operator == "LSTM"):
            inputs[place], shapes[name] = name, shape
    while not inputs[-1]:
        inputs.pop()
    outputs = ["y" if index == output else "" for index in range(output + 1)]
    attributes = {"hidden_size": HIDDEN, "direction": direction}
    if operator == "GRU":
        attributes["linear_before_reset"] = linear

    def forward(feeds: Arrays) -> np.ndarray:
        return layer(feeds, step_of(operator, linear), direction)[output]

    name = f"{operator} {direction} {linear} output {output} given {given} steps {steps}"
    return Case(name, [node(operator, inputs, outputs, **attributes)], shapes, exact=False, forward=forward)


def cases() -> Iterator[Case]:
    for operator in GATES:
        for linear in (0, 1) if operator == "GRU" else (0,):
            for direction in ("forward", "reverse", "bidirectional"):
                yield case_of(operator, direction, linear=linear)
            for output in range(1, OUTPUTS[operator]):
                yield case_of(operator, "bidirectional", linear=linear, output=output)
            yield case_of(operator, "forward", linear=linear, given="")
            yield case_of(operator, "reverse", linear=linear, given="b", steps=1)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_gradient_is_the_slope(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [({"clip": 1.0}, "clip"), ({"activations": ["Relu", "Tanh", "Tanh"]}, "activations Relu, Tanh, Tanh")],
)
def test_variants_without_a_gradient_are_named(attributes: dict[str, object], why: str) -> None:
    case = case_of("LSTM", "forward")
    made = node("LSTM", list(case.nodes[0].input), ["y"], hidden_size=HIDDEN, name="here", **attributes)
    with pytest.raises(NoGradient, match=f"node here: .*LSTM does not cover this use of it .{why}"):
        check(Case("variant", [made], case.shapes, exact=False, forward=case.forward))
