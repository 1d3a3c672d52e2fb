"""Convolutions by definition, in float64: the reference evaluator's are wrong for some groups and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def pads_of(attributes: Mapping[str, Any], kernel: tuple[int, ...], data: tuple[int, ...]) -> list[int]:
    """Pads in front of all axes, then behind; those of SAME make ceil(n / stride) places."""
    rank = len(kernel)
    mode = attributes.get("auto_pad", "NOTSET")
    if not mode.startswith("SAME"):
        return list(attributes.get("pads", [0] * 2 * rank))
    low, high = [], []
    for k, s, d, n in zip(kernel, attributes["strides"], attributes["dilations"], data, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        low.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        high.append(total - low[-1])
    return [*low, *high]


def conv(x: np.ndarray, w: np.ndarray, b: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Conv: the sum over the taps of the kernel."""
    kernel, rank, groups = w.shape[2:], w.ndim - 2, attributes.get("group", 1)
    strides, dilations = attributes["strides"], attributes["dilations"]
    pads = pads_of(attributes, kernel, x.shape[2:])
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    places = [(n - span) // s + 1 for n, span, s in zip(padded.shape[2:], spans, strides, strict=True)]
    y = np.zeros((len(x), groups, len(w) // groups, *places))
    for tap in np.ndindex(*kernel):
        cut = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, dilations, places, strides, strict=True)
        )
        part = padded[(slice(None), slice(None), *cut)]
        part = part.reshape(len(x), groups, -1, *places)
        weight = w[(slice(None), slice(None), *tap)].reshape(groups, len(w) // groups, -1)
        y += np.einsum("ngc...,gfc->ngf...", part, weight)
    return np.asarray(y.reshape(len(x), len(w), *places) + b.reshape(-1, *[1] * rank))


def conv_transpose(x: np.ndarray, w: np.ndarray, b: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """ConvTranspose: every element adds the kernel, times itself, to the output."""
    kernel, rank, groups = w.shape[2:], w.ndim - 2, attributes.get("group", 1)
    strides, dilations = attributes["strides"], attributes["dilations"]
    pads, added = attributes["pads"], attributes["output_padding"]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    full = [(n - 1) * s + span + a for n, s, span, a in zip(x.shape[2:], strides, spans, added, strict=True)]
    filters = w.shape[1] * groups
    y = np.zeros((len(x), groups, w.shape[1], *full))
    apart = x.reshape(len(x), groups, -1, *x.shape[2:])
    for tap in np.ndindex(*kernel):
        weight = w[(slice(None), slice(None), *tap)].reshape(groups, -1, w.shape[1])
        place = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilations, x.shape[2:], strides, strict=True)
        )
        y[(slice(None), slice(None), slice(None), *place)] += np.einsum("ngc...,gcf->ngf...", apart, weight)
    y = y.reshape(len(x), filters, *full)
    inner = tuple(slice(pads[axis], full[axis] - pads[rank + axis]) for axis in range(rank))
    return np.asarray(y[(slice(None), slice(None), *inner)] + b.reshape(-1, *[1] * rank))
