"""Random inputs that a model runs with, for where there is no data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from onnx_admm.contracts import ModelView
from onnx_admm.data.implied_extents import with_implied_extents
from onnx_admm.data.samples import SampleSet
from onnx_admm.data.synthetic_draws import Choice, DrawnSource
from onnx_admm.data.synthetic_evidence import implied_draws
from onnx_admm.data.synthetic_shapes import Ports, candidate_shapes
from onnx_admm.errors import UnsupportedModel
from onnx_admm.limits import current_budget
from onnx_admm.runtime.probe import check_first_run, first_that_runs

_BYTES_PER_ELEMENT = 16
"""What drawing a sample takes: it is drawn in fp64."""

_chosen: WeakKeyDictionary[ModelView, dict[tuple[tuple[str, int], ...], int]] = WeakKeyDictionary()
"""Which attempt ran, by model and stated sizes: finding out takes a process."""


def synthetic_dataset(
    model: ModelView, n: int, seed: int, *, sizes: Mapping[str, int] | None = None
) -> SampleSet:
    """``n`` random samples without labels, in the ranges that the graph implies.

    | input | samples |
    |---|---|
    | indices of a Gather or a OneHot | whole numbers below the table's rows, the depth |
    | integers compared with constants | those constants |
    | floats (or bytes) of 1 or 3 channels and two long axes | images: spectrum ``1 / f``, channels alike |
    | one long axis | a recording: spectrum ``1 / f``, deviation 0.1, within +-1 |
    | states (returned by an output, initial ones of an LSTM or GRU, or named so) | N(0, 0.1^2) |
    | masks; positions | ones; 0, 1, 2, ... |
    | texts | those that the operators behind them list |
    | other floats | N(0, 1), smooth along the last two axes from rank 3 on |

    Float inputs are scaled so that the first BatchNormalization, plain or behind one Conv, meets the mean and
    variance it stores; else so that what a first Sub, Div, Mul or Add makes of them has about mean 0 and
    deviation 1. The first dynamic axis of an input is the batch. Extents that the first operators imply (the
    channels of a Conv, the inner axis of a MatMul) are read off the graph; other open sizes are tried in a
    process of their own (see ``runtime.probe``), and the first with which the model runs are used.

    What this can promise: the model runs, every index exists, and the first layers meet values of a
    plausible size with plausible correlations. What it cannot: no sample shows anything the model was
    trained to see, so classes are hardly ever won clearly and deep layers are excited in few directions. It
    compares two models; accuracy it does not measure, and of what is tuned on it real data must have the
    last word.

    Args:
        model: whose inputs are to be fed.
        n: samples.
        seed: the same seed, the same samples; sample i does not depend on ``n``.
        sizes: of dynamic dimensions, by their name in the model.

    Raises:
        UnsupportedModel: an input of a type that has no random values (sequences, texts of no vocabulary).
        DataError: the model ran with nothing tried.
        WorkError: so it is, and a run killed its process or hung.
        LimitReached: a sample takes more memory than the run may hold, or no attempt ended within its limits.
        RuntimeMissing: there is no runtime to try the samples in.
    """
    stated = sizes or {}
    _check(model.signature().inputs)
    ports = with_implied_extents(model, stated)
    draws = implied_draws(model, ports)
    guesses = max((len(ways) for ways in draws.values()), default=1)
    attempts = []
    for shapes in candidate_shapes(ports, model.signature().outputs, stated):
        _reserve(ports, shapes)
        for guess in range(guesses):
            sources = {}
            for number, (port, shape) in enumerate(zip(ports, shapes, strict=True)):
                ways = draws[port.name]
                draw = ways[min(guess, len(ways) - 1)]
                # Texts have the length of the longest that may be drawn.
                dtype = draw.values.dtype if isinstance(draw, Choice) and port.dtype == "str" else port.dtype
                sources[port.name] = DrawnSource(draw, shape, np.dtype(dtype), n, (seed, number))
            attempts.append(SampleSet(sources))
    return attempts[_first_that_runs(model, attempts, tuple(sorted(stated.items())))]


def _reserve(ports: Ports, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a sample that takes more memory than the run may hold."""
    elements = sum(math.prod(shape) for shape in shapes)
    inputs = ", ".join(f"{port.name} {list(shape)}" for port, shape in zip(ports, shapes, strict=True))
    current_budget().reserve(_BYTES_PER_ELEMENT * elements, f"drawing made-up samples of {inputs}")


def _first_that_runs(model: ModelView, attempts: list[SampleSet], key: tuple[tuple[str, int], ...]) -> int:
    known = _chosen.setdefault(model, {})
    if key not in known and len(attempts) == 1:
        check_first_run(model, attempts[0])
        known[key] = 0
    elif key not in known:
        known[key] = first_that_runs(model, attempts)
    return known[key]


def _check(ports: Ports) -> None:
    for port in ports:
        if np.dtype(port.dtype if port.dtype != "unknown" else "O").kind not in "fiubU":
            raise UnsupportedModel("no random values for this type", where=port.name, got=port.dtype)
        if port.shape is None:
            raise UnsupportedModel("no random values for an input of unknown rank", where=port.name)
