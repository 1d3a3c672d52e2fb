"""Gradients of LSTM, GRU and RNN.

The states of all steps are outputs of the forward pass, so the gates of all steps come from two products.
Scans run what is sequential alone: the cells forward, the gradients of the states backward.
"""

from __future__ import annotations

from onnx_admm.training.gradients.node import GradientNode
from onnx_admm.training.gradients.registry import rule
from onnx_admm.training.gradients.rules.recurrence.layer import (
    FIRST_CELL,
    FIRST_HIDDEN,
    Body,
    Direction,
    DirectionGradients,
    directions,
    joined,
)
from onnx_admm.training.gradients.tape import Tape


@rule("LSTM")
def lstm(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Gates i, o, f and candidate g: c_t = f c_(t-1) + i g, h_t = o tanh(c_t)."""
    layers = directions(tape, node, gates=4)
    return joined(tape, node, layers, [_lstm_direction(layer) for layer in layers])


@rule("GRU")
def gru(tape: Tape, node: GradientNode) -> dict[int, str]:
    """Gates z and r, candidate n: h_t = (1 - z) n + z h_(t-1); r acts before or after the product."""
    layers = directions(tape, node, gates=3)
    one = _gru_after_product if node.get("linear_before_reset", 0) else _gru_before_product
    return joined(tape, node, layers, [one(layer) for layer in layers])


@rule("RNN")
def rnn(tape: Tape, node: GradientNode) -> dict[int, str]:
    """h_t = tanh(W x_t + R h_(t-1) + b)."""
    layers = directions(tape, node, gates=1)
    return joined(tape, node, layers, [_rnn_direction(layer) for layer in layers])


def _one_minus(layer: Direction, value: str) -> str:
    return layer.tape.write("Sub", layer.tape.constant(1, layer.node.dtype), value)


def _slope_of_sigmoid(layer: Direction, gate: str) -> str:
    return layer.tape.write("Mul", gate, _one_minus(layer, gate))


def _slope_of_tanh(layer: Direction, value: str) -> str:
    return _one_minus(layer, layer.tape.write("Mul", value, value))


def _split(layer: Direction, value: str, count: int) -> tuple[str, ...]:
    """Gates of equal width, along the last of three axes."""
    return layer.tape.write_several("Split", [value, layer.tape.ints([layer.hidden] * count)], count, axis=2)


def _lstm_direction(layer: Direction) -> DirectionGradients:
    tape, hidden = layer.tape, layer.hidden
    weights, (bias, hidden_bias) = layer.hidden_weights(), layer.biases()
    first = layer.first_state(FIRST_CELL)
    previous = layer.rows(layer.previous(layer.hidden_states(), layer.first_state(FIRST_HIDDEN)), hidden)
    of_inputs = tape.write("Gemm", layer.inputs(), layer.input_weights(), bias, transB=1)
    of_states = tape.write("Gemm", previous, weights, hidden_bias, transB=1)
    i, o, f, g = _split(layer, layer.steps_of(tape.write("Add", of_inputs, of_states), 4 * hidden), 4)
    i, o, f, g = (
        tape.write("Sigmoid", i),
        tape.write("Sigmoid", o),
        tape.write("Sigmoid", f),
        tape.write("Tanh", g),
    )
    cells = _cells(layer, f, tape.write("Mul", i, g), first)
    squashed = tape.write("Tanh", cells)
    slopes = tape.write(
        "Concat",
        tape.write("Mul", g, _slope_of_sigmoid(layer, i)),
        tape.write("Mul", squashed, _slope_of_sigmoid(layer, o)),
        tape.write("Mul", layer.previous(cells, first), _slope_of_sigmoid(layer, f)),
        tape.write("Mul", i, _slope_of_tanh(layer, g)),
        axis=2,
    )
    to_cell = tape.write("Mul", o, _slope_of_tanh(layer, squashed))
    body = Body(tape)
    dh, dc, dy, into, forget, slope = names = body.named(6)
    total = body.write("Add", dy, dh)
    cell = body.write("Add", dc, body.write("Mul", total, into))
    rows = body.write("Mul", body.write("Concat", cell, total, cell, cell, axis=1), slope)
    results = (body.write("MatMul", rows, weights), body.write("Mul", cell, forget), rows)
    states = (layer.last_gradient(1), layer.last_gradient(2))
    sequences = (layer.output_gradient(), to_cell, f, slopes)
    dh, dc, rows = tape.scan(
        body.finished(names, results), states, sequences, is_reverse=not layer.is_reverse
    )
    rows = layer.rows(rows, 4 * hidden)
    of_weights = tape.write("Gemm", rows, previous, transA=1)
    return DirectionGradients(rows, rows, of_weights, {FIRST_HIDDEN: dh, FIRST_CELL: dc})


def _cells(layer: Direction, forget: str, added: str, first: str) -> str:
    """Return the cells of all steps, (steps, samples, hidden)."""
    body = Body(layer.tape)
    cell, kept, new = names = body.named(3)
    result = body.write("Add", body.write("Mul", kept, cell), new)
    scanned = layer.tape.scan(
        body.finished(names, [result, result]), [first], [forget, added], is_reverse=layer.is_reverse
    )
    return scanned[1]


def _gru_after_product(layer: Direction) -> DirectionGradients:
    """n = tanh(W x + b + r (R h + b')): all gates of the states come from one product."""
    tape, hidden = layer.tape, layer.hidden
    weights, (bias, hidden_bias) = layer.hidden_weights(), layer.biases()
    before = layer.previous(layer.hidden_states(), layer.first_state(FIRST_HIDDEN))
    previous = layer.rows(before, hidden)
    of_inputs = tape.write("Gemm", layer.inputs(), layer.input_weights(), bias, transB=1)
    of_states = tape.write("Gemm", previous, weights, hidden_bias, transB=1)
    xz, xr, xn = _split(layer, layer.steps_of(of_inputs, 3 * hidden), 3)
    hz, hr, hn = _split(layer, layer.steps_of(of_states, 3 * hidden), 3)
    z = tape.write("Sigmoid", tape.write("Add", xz, hz))
    r = tape.write("Sigmoid", tape.write("Add", xr, hr))
    n = tape.write("Tanh", tape.write("Add", xn, tape.write("Mul", r, hn)))
    slope_z = tape.write("Mul", tape.write("Sub", before, n), _slope_of_sigmoid(layer, z))
    slope_n = tape.write("Mul", _one_minus(layer, z), _slope_of_tanh(layer, n))
    slope_r = tape.write("Mul", hn, _slope_of_sigmoid(layer, r))
    body = Body(tape)
    dh, dy, keep, to_z, to_n, to_r, reset = names = body.named(7)
    total = body.write("Add", dy, dh)
    dz, dn = body.write("Mul", total, to_z), body.write("Mul", total, to_n)
    dr, scaled = body.write("Mul", dn, to_r), body.write("Mul", dn, reset)
    rows = body.write("Concat", dz, dr, scaled, axis=1)
    back = body.write("Add", body.write("Mul", total, keep), body.write("MatMul", rows, weights))
    dh, hidden_rows, dn = tape.scan(
        body.finished(names, [back, rows, dn]),
        [layer.last_gradient(1)],
        [layer.output_gradient(), z, slope_z, slope_n, slope_r, r],
        is_reverse=not layer.is_reverse,
    )
    gates = tape.cut(hidden_rows, [2], [0], [2 * hidden])
    input_rows = layer.rows(tape.write("Concat", gates, dn, axis=2), 3 * hidden)
    hidden_rows = layer.rows(hidden_rows, 3 * hidden)
    of_weights = tape.write("Gemm", hidden_rows, previous, transA=1)
    return DirectionGradients(input_rows, hidden_rows, of_weights, {FIRST_HIDDEN: dh})


def _gru_before_product(layer: Direction) -> DirectionGradients:
    """n = tanh(W x + b + R (r h) + b'): the candidate's product takes the states that r has scaled."""
    tape, hidden = layer.tape, layer.hidden
    sizes = tape.ints([2 * hidden, hidden])
    gate_weights, weights = tape.write_several("Split", [layer.hidden_weights(), sizes], 2, axis=0)
    bias, hidden_bias = layer.biases()
    gate_bias, candidate_bias = tape.write_several("Split", [hidden_bias, sizes], 2, axis=0)
    before = layer.previous(layer.hidden_states(), layer.first_state(FIRST_HIDDEN))
    previous = layer.rows(before, hidden)
    of_inputs = tape.write("Gemm", layer.inputs(), layer.input_weights(), bias, transB=1)
    of_states = tape.write("Gemm", previous, gate_weights, gate_bias, transB=1)
    xz, xr, xn = _split(layer, layer.steps_of(of_inputs, 3 * hidden), 3)
    hz, hr = _split(layer, layer.steps_of(of_states, 2 * hidden), 2)
    z = tape.write("Sigmoid", tape.write("Add", xz, hz))
    r = tape.write("Sigmoid", tape.write("Add", xr, hr))
    scaled = layer.rows(tape.write("Mul", r, before), hidden)
    hn = layer.steps_of(tape.write("Gemm", scaled, weights, candidate_bias, transB=1), hidden)
    n = tape.write("Tanh", tape.write("Add", xn, hn))
    slope_z = tape.write("Mul", tape.write("Sub", before, n), _slope_of_sigmoid(layer, z))
    slope_n = tape.write("Mul", _one_minus(layer, z), _slope_of_tanh(layer, n))
    slope_r = tape.write("Mul", before, _slope_of_sigmoid(layer, r))
    body = Body(tape)
    dh, dy, keep, to_z, to_n, to_r, reset = names = body.named(7)
    total = body.write("Add", dy, dh)
    dz, dn = body.write("Mul", total, to_z), body.write("Mul", total, to_n)
    through = body.write("MatMul", dn, weights)
    gates = body.write("Concat", dz, body.write("Mul", through, to_r), axis=1)
    back = body.write("Add", body.write("Mul", total, keep), body.write("Mul", through, reset))
    back = body.write("Add", back, body.write("MatMul", gates, gate_weights))
    dh, gates, dn = tape.scan(
        body.finished(names, [back, gates, dn]),
        [layer.last_gradient(1)],
        [layer.output_gradient(), z, slope_z, slope_n, slope_r, r],
        is_reverse=not layer.is_reverse,
    )
    rows = layer.rows(tape.write("Concat", gates, dn, axis=2), 3 * hidden)
    of_gates = tape.write("Gemm", layer.rows(gates, 2 * hidden), previous, transA=1)
    of_candidate = tape.write("Gemm", layer.rows(dn, hidden), scaled, transA=1)
    of_weights = tape.write("Concat", of_gates, of_candidate, axis=0)
    return DirectionGradients(rows, rows, of_weights, {FIRST_HIDDEN: dh})


def _rnn_direction(layer: Direction) -> DirectionGradients:
    tape, hidden = layer.tape, layer.hidden
    weights, states = layer.hidden_weights(), layer.hidden_states()
    previous = layer.rows(layer.previous(states, layer.first_state(FIRST_HIDDEN)), hidden)
    body = Body(tape)
    dh, dy, slope = names = body.named(3)
    rows = body.write("Mul", body.write("Add", dy, dh), slope)
    dh, rows = tape.scan(
        body.finished(names, [body.write("MatMul", rows, weights), rows]),
        [layer.last_gradient(1)],
        [layer.output_gradient(), _slope_of_tanh(layer, states)],
        is_reverse=not layer.is_reverse,
    )
    rows = layer.rows(rows, hidden)
    return DirectionGradients(rows, rows, tape.write("Gemm", rows, previous, transA=1), {FIRST_HIDDEN: dh})
