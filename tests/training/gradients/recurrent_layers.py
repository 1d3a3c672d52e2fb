"""LSTM, GRU and RNN by definition, in float64, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm_step(w: np.ndarray, r: np.ndarray, b: np.ndarray) -> Step:
    """Gates i, o, f, c."""

    def step(x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        i, o, f, g = np.split(x @ w.T + h @ r.T + b[0] + b[1], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    return step


def gru_step(w: np.ndarray, r: np.ndarray, b: np.ndarray, *, linear_before_reset: bool) -> Step:
    """Gates z, r, h."""

    def step(x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (wz, wr, wh), (rz, rr, rh) = np.split(w, 3), np.split(r, 3)
        (bz, br, bh), (cz, cr, ch) = np.split(b[0], 3), np.split(b[1], 3)
        z = sigmoid(x @ wz.T + h @ rz.T + bz + cz)
        reset = sigmoid(x @ wr.T + h @ rr.T + br + cr)
        inner = reset * (h @ rh.T + ch) if linear_before_reset else (reset * h) @ rh.T + ch
        candidate = np.tanh(x @ wh.T + inner + bh)
        return (1 - z) * candidate + z * h, c

    return step


def rnn_step(w: np.ndarray, r: np.ndarray, b: np.ndarray) -> Step:
    """One tanh."""

    def step(x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.tanh(x @ w.T + h @ r.T + b[0] + b[1]), c

    return step


def layer(
    feeds: Mapping[str, np.ndarray], make: Callable[..., Step], direction: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, Y_h and Y_c of a layer; inputs x, w, r, and where they are given b, h0 and c0."""
    x, w, r = feeds["x"], feeds["w"], feeds["r"]
    count, hidden = len(w), r.shape[-1]
    zeros = np.zeros((count, x.shape[1], hidden))
    b = feeds.get("b", np.zeros((count, 2 * w.shape[1])))
    first, cells = feeds.get("h0", zeros), feeds.get("c0", zeros)
    ys, hs, cs = [], [], []
    for index in range(count):
        step = make(w[index], r[index], b[index].reshape(2, -1))
        h, c = first[index], cells[index]
        order = range(len(x))
        outputs: dict[int, np.ndarray] = {}
        for t in reversed(order) if direction == "reverse" or index else order:
            h, c = step(x[t], h, c)
            outputs[t] = h
        ys.append(np.stack([outputs[t] for t in order]))
        hs.append(h)
        cs.append(c)
    return np.stack(ys, axis=1), np.stack(hs), np.stack(cs)
