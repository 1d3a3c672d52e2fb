"""Random inputs that a model runs with, where there is no data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from onnx_admm.contracts import ModelView, PortSpec
from onnx_admm.data.ragged import RaggedSamples, in_turns
from onnx_admm.data.samples import SampleSet
from onnx_admm.data.synthetic.caches import is_cache_switch
from onnx_admm.data.synthetic.draws import Choice, Counting, Draw, DrawnSource, Length, other_ranges
from onnx_admm.data.synthetic.evidence import implied_draws
from onnx_admm.data.synthetic.implied_extents import with_implied_extents
from onnx_admm.data.synthetic.shapes import Candidate, Ports, candidate_families
from onnx_admm.errors import DataError, LimitReached, OnnxAdmmError, UnsupportedModel, WorkError
from onnx_admm.limits import current_budget
from onnx_admm.runtime.children.probe import PROBED_SAMPLES, FirstRun, first_that_runs

_BYTES_PER_ELEMENT = 16
"""Bytes of an element while a sample is drawn, in fp64."""

_chosen: WeakKeyDictionary[ModelView, dict[tuple[tuple[str, int], ...], list[_Maker]]] = WeakKeyDictionary()
"""How samples are made, by model and stated sizes: the search takes a process."""


def synthetic_dataset(
    model: ModelView, n: int, seed: int, *, sizes: Mapping[str, int] | None = None
) -> SampleSet | RaggedSamples:
    """Return ``n`` random samples without labels, in the ranges that the graph implies.

    | input | samples |
    |---|---|
    | indices of a Gather or a OneHot | whole numbers below the table's rows, the depth |
    | integers compared with constants | those constants |
    | floats (or bytes) of 1 or 3 channels and two long axes | images: spectrum ``1 / f``, channels alike |
    | one long axis | a recording: spectrum ``1 / f``, deviation 0.1, within +-1 |
    | states (returned by an output, initial ones of an LSTM or GRU, or named so) | N(0, 0.1^2) |
    | masks; positions | ones; 0, 1, 2, ..., from the tokens in the cache on |
    | keys and values of earlier tokens | N(0, 0.1^2): every other sample with none, the others with some |
    | lengths | from half of another input's extent to all of it |
    | texts | those that the operators behind them list |
    | other floats | N(0, 1), smooth along the last two axes from rank 3 on |

    Float inputs are scaled so that the first BatchNormalization, plain or behind one Conv, meets the mean and
    variance it stores; else so that what a first Sub, Div, Mul or Add makes of them has about mean 0 and
    deviation 1. The first dynamic axis of an input is the batch. Extents that the first operators imply (the
    channels of a Conv, the inner axis of a MatMul) are read off the graph; other open sizes are tried in a
    process of their own (see ``runtime.probe``), and the first with which the model runs are used.
    Where outputs are not finite, other ranges are tried too.

    What this can promise: the model runs, every index exists, and the first layers meet values of a
    plausible size with plausible correlations. What it cannot: no sample shows anything the model was
    trained to see, so classes are hardly ever won clearly and deep layers are excited in few directions. It
    compares two models; accuracy it does not measure, and of what is tuned on it real data must have the
    last word.

    Args:
        model: the model whose inputs are fed.
        n: number of samples.
        seed: the same seed, the same samples; sample i does not depend on ``n``.
        sizes: sizes of dynamic dimensions, by their name in the model.

    Raises:
        UnsupportedModel: an input of a type that has no random values (sequences, texts of no vocabulary).
        DataError: the model ran with nothing tried.
        WorkError: so it is, and a run killed its process or hung.
        LimitReached: a sample takes more memory than the run may hold, or no attempt ended within its limits.
        RuntimeMissing: there is no runtime to try the samples in.
    """
    _check(model.signature().inputs)
    stated = sizes or {}
    makers = _chosen.setdefault(model, {}).get(key := tuple(sorted(stated.items())))
    if makers is None:
        makers = _chosen[model][key] = _makers(model, stated)
    return in_turns([maker.samples(n, seed) for maker in makers])


@dataclass(frozen=True)
class _Maker:
    """One way to make samples: a shape and a kind of values for each input."""

    ports: Ports
    draws: Mapping[str, Draw]
    candidate: Candidate

    def samples(self, n: int, seed: int) -> SampleSet:
        """Return ``n`` samples.

        Raises:
            LimitReached: one takes more memory than the run may use.
        """
        _reserve(self.ports, self.candidate.shapes)
        sources = {}
        for number, (port, shape) in enumerate(zip(self.ports, self.candidate.shapes, strict=True)):
            draw = _fixed_by(self.candidate, port, self.draws[port.name])
            # Texts count as long as the longest that may be drawn.
            dtype = draw.values.dtype if isinstance(draw, Choice) and port.dtype == "str" else port.dtype
            sources[port.name] = DrawnSource(draw, shape, np.dtype(dtype), n, (seed, number))
        return SampleSet(sources)


def _fixed_by(candidate: Candidate, port: PortSpec, draw: Draw) -> Draw:
    """Return a draw that depends on the chosen sizes, now that they are known."""
    if is_cache_switch(port):
        return Choice(np.array([candidate.past > 0]))
    if isinstance(draw, Counting):
        return replace(draw, start=candidate.past)
    if isinstance(draw, Length):
        extents = candidate.inner_extents or (1,)
        return replace(draw, extent=extents[0 if draw.largest else -1])
    return draw


def _makers(model: ModelView, sizes: Mapping[str, int]) -> list[_Maker]:
    """Return a maker of samples for each family of shapes with which the model runs."""
    ports = with_implied_extents(model, sizes)
    draws = implied_draws(model, ports)
    guesses = max((len(alternatives) for alternatives in draws.values()), default=1)
    found: list[_Maker] = []
    failure: OnnxAdmmError | None = None
    for candidates in candidate_families(ports, model.signature().outputs, sizes):
        makers = [
            _Maker(
                ports,
                {n: alternatives[min(guess, len(alternatives) - 1)] for n, alternatives in draws.items()},
                each,
            )
            for each in candidates
            for guess in range(guesses)
        ]
        try:
            found.append(_finite(model, makers))
        except (DataError, WorkError, LimitReached) as error:
            failure = failure or error
    if not found and failure is not None:
        raise failure
    return found


def _finite(model: ModelView, makers: list[_Maker]) -> _Maker:
    """Return the first maker with which the model runs, in another range where outputs are not finite."""
    found = _first(model, makers)
    maker = makers[found.index]
    if not found.not_finite:
        return maker
    alternatives = {name: other_ranges(draw) for name, draw in maker.draws.items()}
    others = [
        replace(
            maker,
            draws={n: alternatives[n][k] if alternatives[n] else draw for n, draw in maker.draws.items()},
        )
        for k in range(max(map(len, alternatives.values()), default=0))
    ]
    if others:
        again = first_that_runs(model, (other.samples(PROBED_SAMPLES, 0) for other in others))
        if not again.not_finite or (found.useless and not again.useless):
            return others[again.index]
    if found.useless and not _has_wrong_weights(model):
        raise DataError(
            "the outputs of the model are not finite on synthetic inputs",
            where=", ".join(name for name in alternatives if alternatives[name]) or ", ".join(alternatives),
            got=found.not_finite,
            hint="Give some real samples: --data D.npz.",
        )
    return maker


def _has_wrong_weights(model: ModelView) -> bool:
    """Return whether the model's own weights hold NaN or infinity, so that no input causes them."""
    return any(not np.isfinite(model.read(site)).all() for site in model.sites())


def _first(model: ModelView, makers: list[_Maker]) -> FirstRun:
    """Return the first maker with which the model runs.

    Where there is only one, errors of the runtime are ignored here: the caller meets them when it runs the
    model.
    """
    attempts = (maker.samples(PROBED_SAMPLES, 0) for maker in makers)
    try:
        return first_that_runs(model, attempts)
    except DataError:
        candidates = {id(maker.candidate): maker.candidate.length for maker in makers}
        if len(set(candidates.values())) > 1 or len(candidates) < len(makers):
            raise
        return FirstRun(0)


def _reserve(ports: Ports, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a sample that takes more memory than the run may use."""
    elements = sum(math.prod(shape) for shape in shapes)
    inputs = ", ".join(f"{port.name} {list(shape)}" for port, shape in zip(ports, shapes, strict=True))
    current_budget().reserve(_BYTES_PER_ELEMENT * elements, f"drawing synthetic samples of {inputs}")


def _check(ports: Ports) -> None:
    for port in ports:
        if np.dtype(port.dtype if port.dtype != "unknown" else "O").kind not in "fiubU":
            raise UnsupportedModel("no random values for this type", where=port.name, got=port.dtype)
        if port.shape is None:
            raise UnsupportedModel("no random values for an input of unknown rank", where=port.name)
