"""Times of single kernels, each measured among copies of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_admm.contracts import Array
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.model.analysis.runtime_kernels import Kernel, expose, idle_model, kernels_of
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.clock import clock_for
from onnx_admm.runtime.feeding import feed_at
from onnx_admm.runtime.sessions import Session, open_session

_GROUP, _GROUP_BYTES = 32, 64 << 20  # kernels timed in turns, and of their constants
_LONG_NS = 200_000.0  # target time of a kernel's copies together
_MOST_COPIES = 16
_SLOW_NS = 1e6  # above this, caches do not change between runs
_KERNEL_NS = 30e6  # spent on each kernel
_LEAST_ROUNDS, _MOST_ROUNDS = 16, 200

_MIXED = """
    <ir_version: 8, opset_import: ["" : 13]>
    mixed (float[1,4,8,8] x) => (float[4,8] y)
    <float[8,8] a, float[8] b, float[4,4,3,3] w, int64[2] flat = {32, 8}, int64[1] first = {0},
     int64[1] last = {4}, int64[3] picks = {1, 0, 2}>
    {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (c)
        t = Transpose <perm = [0, 2, 1, 3]> (r)
        f = Reshape (t, flat)
        m = MatMul (f, a)
        s = Add (m, b)
        g = Sigmoid (s)
        h = Gather <axis = 1> (g, picks)
        k = Concat <axis = 1> (g, h)
        n = Softmax <axis = 1> (k)
        u = ReduceMean <axes = [1]> (n)
        v = Mul (s, u)
        o = Slice (v, first, last)
        y = Tanh (o)
    }"""
"""Small kernels of many kinds, one after the other."""


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Seconds of one run, and how far repeats of the measurement disagree, as a share."""

    seconds: float
    spread: float


def time_kernels(kernels: Sequence[Kernel | None], threads: int = 1) -> list[KernelTime | None]:
    """Return the seconds that each kernel adds to a session; None for one that does not run alone.

    A kernel's time is the time that further copies of it add to a session with one: the call itself and the
    copying of inputs cancel out. Sessions are timed in turns, many times, and the least times count, since
    other load on the machine only adds to them. On one thread it is processor time.
    """
    timings: list[KernelTime | None] = []
    for group in _groups(kernels):
        benches = [_bench(kernel, threads) for kernel in group]
        _run_in_turns([bench for bench in benches if bench is not None])
        timings += [None if bench is None else bench.timing() for bench in benches]
    return timings


def time_call(inputs: Mapping[str, Array], outputs: Mapping[str, Array], threads: int = 1) -> KernelTime:
    """Return the seconds of a call that computes nothing: such inputs are passed, such outputs returned."""
    watch = Stopwatch(_open(idle_model(inputs, outputs), threads), inputs, threads)
    for _ in range(_MOST_ROUNDS):
        watch.run()
    return watch.timing()


def time_switch(threads: int = 1) -> KernelTime:
    """Return the extra seconds of a kernel among kernels of other kinds.

    Measured on a chain of small kernels, once whole and once kernel by kernel.
    """
    model = parse_text(_MIXED).to_bytes()
    inputs = {"x": np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)}
    values = every_value(model, inputs)
    chain = Stopwatch(_open(model, threads), inputs, threads)
    for _ in range(_MOST_ROUNDS):
        chain.run()
    timings = time_kernels(kernels_of(model, values), threads)
    alone = sum(timing.seconds for timing in timings if timing is not None)
    alone += time_call(inputs, {"y": values["y"]}, threads).seconds
    return KernelTime(max(0.0, chain.timing().seconds - alone) / len(timings), chain.timing().spread)


def every_value(model: bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return by name the inputs and all computed values of an optimised model in its first run.

    Raises:
        OnnxAdmmError: as ``open_session`` and ``Session.run``.
    """
    session = open_session(expose(model), threads=1, optimize=False)
    fed = feed_at(session, feeds)
    return {**session.run(fed), **fed}


@dataclass
class Stopwatch:
    """Times of one session on one feed, nanoseconds."""

    session: Session
    feeds: Mapping[str, Array]
    threads: int
    times: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Time one run, after another one that fills the caches."""
        now = clock_for(self.threads)
        if not self.times or self.times[-1] < _SLOW_NS:
            self.session.run(self.feeds)
        started = now()
        self.session.run(self.feeds)
        self.times.append(float(now() - started))

    def timing(self) -> KernelTime:
        """Return the time of one run."""
        halves = self.low(slice(0, None, 2)), self.low(slice(1, None, 2))
        return KernelTime(self.low() / 1e9, abs(halves[0] - halves[1]) / max(halves))

    def low(self, part: slice = slice(None)) -> float:
        """Return the least of these rounds: other load on the machine only adds."""
        return min(self.times[part])


@dataclass
class _Bench:
    """A kernel once, and with further copies."""

    one: Stopwatch
    more: Stopwatch
    further: int
    rounds: int

    def run(self) -> None:
        self.one.run()
        self.more.run()
        self.rounds -= 1

    def timing(self) -> KernelTime:
        parts = [slice(None), slice(0, None, 2), slice(1, None, 2)]
        whole, even, odd = (
            max(0.0, self.more.low(part) - self.one.low(part)) / self.further / 1e9 for part in parts
        )
        return KernelTime(whole, abs(even - odd) / max(even, odd) if even != odd else 0.0)


def _groups(kernels: Sequence[Kernel | None]) -> Iterator[list[Kernel | None]]:
    """Yield kernels to time in turns: a limited number, whose sessions fit into memory together."""
    group: list[Kernel | None] = []
    group_bytes = 0
    for kernel in kernels:
        size = 0 if kernel is None else kernel.constant_bytes
        if group and (len(group) == _GROUP or group_bytes + size > _GROUP_BYTES):
            yield group
            group, group_bytes = [], 0
        group.append(kernel)
        group_bytes += size
    if group:
        yield group


def _bench(kernel: Kernel | None, threads: int) -> _Bench | None:
    if kernel is None:
        return None
    try:
        one = _watch(kernel, 1, threads)
        for _ in range(3):
            one.run()
        taken = max(1.0, min(one.times))
        further = int(np.clip(_LONG_NS / taken, 1, _MOST_COPIES))
        more = _watch(kernel, 1 + further, threads)
        more.run()
    except OnnxAdmmError:
        return None
    rounds = int(np.clip(_KERNEL_NS / (taken + more.times[0]), _LEAST_ROUNDS, _MOST_ROUNDS))
    return _Bench(one, more, further, rounds)


def _watch(kernel: Kernel, copies: int, threads: int) -> Stopwatch:
    model, feeds = kernel.copies(copies)
    return Stopwatch(_open(model, threads), feeds, threads)


def _open(model: bytes, threads: int) -> Session:
    return open_session(model, threads=threads, optimize=False)


def _run_in_turns(benches: Sequence[_Bench]) -> None:
    while open_benches := [bench for bench in benches if bench.rounds > 0]:
        for bench in open_benches:
            bench.run()
