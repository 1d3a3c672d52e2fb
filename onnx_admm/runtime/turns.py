"""Latency of several forms of one model, timed in turns with it in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_admm.contracts import Array, Feeds
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.runtime.clock import Clock, clock_for
from onnx_admm.runtime.feeding import feed_at
from onnx_admm.runtime.sessions import Session, open_session
from onnx_admm.runtime.timing_cache import digest, form_ratio

_GROUP = 6
"""Forms that are open at a time."""

_GROUP_BYTES = 1 << 28
"""Bytes of models that are open at once, about: of large ones fewer are timed together."""

_ROUNDS, _LEAST_ROUNDS = 61, 7
_ROUND_NS = 1e6
_TOTAL_NS = 5e8
"""Time spent on each form, about."""

_SLOW_NS = 2e7
"""Time of a run above which what is in the caches before it does not matter."""

FAILED = float("inf")
"""Ratio of a form that the runtime does not run."""


def ratios_of(
    base: bytes, forms: Sequence[bytes], feeds: Mapping[str, Array], threads: int = 1
) -> list[float]:
    """Return the latency of each form over the base's: lower quartiles over rounds, kept in the timing cache.

    With one thread processor time counts (see ``clock``).

    Args:
        base: a model, serialised.
        forms: other forms of it, with the same inputs.
        feeds: samples as in a ``Batch``; those of one run are used.
        threads: intra-op threads.

    Returns:
        ``FAILED`` for a form that the runtime refuses or cannot run.

    Raises:
        OnnxAdmmError: from ``open_session`` and ``Session.run``, of the base.
    """
    of_base, digests = digest(base), [digest(form) for form in forms]
    lookup = _Lookup(base, dict(zip(digests, forms, strict=True)), feeds, threads)
    found = []
    for number, name in enumerate(digests):
        lookup.ahead = digests[number:]
        found.append(form_ratio(of_base, name, threads, lambda name=name: lookup.ratio(name)))  # type: ignore[misc]
    return [FAILED if ratio >= _STORED_FAILURE else ratio for ratio in found]


_STORED_FAILURE = 1e9
"""Stands for ``FAILED`` in the cache, which holds finite numbers."""


@dataclass
class _Lookup:
    """Measures forms together with the next ones that will be asked for."""

    base: bytes
    forms: Mapping[str, bytes]
    feeds: Mapping[str, Array]
    threads: int
    ahead: Sequence[str] = ()
    _measured: dict[str, float] = field(default_factory=dict)

    def ratio(self, name: str) -> float:
        if name not in self._measured:
            most = min(_GROUP, max(1, _GROUP_BYTES // len(self.base)))
            group = list(dict.fromkeys([name, *self.ahead]))[:most]
            group = [each for each in group if each not in self._measured]
            forms = [self.forms[each] for each in group]
            self._measured |= dict(
                zip(group, _measure(self.base, forms, self.feeds, self.threads), strict=True)
            )
        return self._measured[name]


@dataclass
class _Turn:
    session: Session
    feed: Feeds
    clock: Clock
    times: list[float] = field(default_factory=list)

    def run(self, repeats: int, after_others: bool = True) -> None:
        """Time some runs; where another model has run before, after one that fills the caches."""
        if after_others:
            self.session.run(self.feed)
        started = self.clock()
        for _ in range(repeats):
            self.session.run(self.feed)
        self.times.append(max(1.0, float(self.clock() - started)) / repeats)

    def low(self) -> float:
        """Return the lower quartile: other load on the machine only adds."""
        return float(np.quantile(self.times, 0.25))


def _measure(base: bytes, forms: Sequence[bytes], feeds: Mapping[str, Array], threads: int) -> list[float]:
    first = _open(base, feeds, threads)
    others = list[_Turn | None]()
    for form in forms:
        try:
            others.append(_open(form, feeds, threads))
        except OnnxAdmmError:
            others.append(None)
    turns = [first, *(turn for turn in others if turn is not None)]
    are_short = max(min(turn.times) for turn in turns) < _SLOW_NS
    for _ in range(3 if are_short else 1):
        for turn in turns:
            turn.run(1, are_short)
    slowest = max(min(turn.times) for turn in turns)
    repeats = max(1, round(_ROUND_NS / slowest))
    in_a_round = slowest * (repeats + are_short)
    rounds = int(min(_ROUNDS, max(_LEAST_ROUNDS, _TOTAL_NS / in_a_round)))
    for turn in turns:
        turn.times.clear()
    order = np.random.default_rng(0)
    for _ in range(rounds):
        for index in order.permutation(len(turns)):
            turns[index].run(repeats, are_short)
    return [_STORED_FAILURE if turn is None else turn.low() / first.low() for turn in others]


def _open(model: bytes, feeds: Mapping[str, Array], threads: int) -> _Turn:
    session = open_session(model, threads=threads)
    turn = _Turn(session, feed_at(session, feeds), clock_for(threads))
    turn.run(1)
    return turn
