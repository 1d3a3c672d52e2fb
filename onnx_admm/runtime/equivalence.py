"""Comparison of two models' outputs, and the first node where they differ.

Both are run without graph optimisation, so that one model's fusions do not count. Rounding of reordered sums
is tolerated: `TOLERANCE`, or ten times the first model's own response to a change of its inputs or weights in
the last digits and to the runtime's optimisations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_admm.contracts import Array, Feeds, ModelView
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.model import NodeRef
from onnx_admm.model.rewrite.expose_values import expose_values
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.sessions import open_session

TOLERANCE, TOLERANCE_16 = 1e-4, 1e-2
"""Norm of the error over the norm of the output; the second for weights of 16 bits."""

_TOLERANCE_OF_WHOLE_NUMBERS = 0.01
"""Share of whole numbers that may differ."""

_LEAST_RMS = 1e-6
_LAST_DIGITS = 1e-6
_NOISE = 10.0
_MOST_EXPOSED = 4000

Outputs = Sequence[Feeds]
"""Outputs of several runs, by name each."""


class Runner(Protocol):
    """Computes a model's outputs for a batch of samples; raises OnnxAdmmError where it cannot."""

    def __call__(
        self, model: ModelView, feeds: Mapping[str, Array], *, optimize: bool = False
    ) -> list[Feeds]:
        """Return one item for each run."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two models.

    Attributes:
        output: the output that differs most; empty where the second model cannot be run.
        share: norm of its error over its norm; infinite where shapes or infinities differ.
        node: the first node with different outputs; None where unknown.
        op_type: its operator; empty without a node.
        failure: why the second model cannot be run, where it cannot.
    """

    output: str
    share: float
    node: str | None = None
    op_type: str = ""
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"the result cannot be run ({self.failure})"
        changed = "another shape" if np.isinf(self.share) else f"an error of {self.share:.2g} of its norm"
        where = "" if self.node is None else f" from {self.node} ({self.op_type}) on"
        return f"output {self.output} has {changed}{where}"


def outputs_of(model: ModelView, feeds: Mapping[str, Array], *, optimize: bool = False) -> list[Feeds]:
    """Return the outputs of a batch of samples, one item for each run.

    Raises:
        OnnxAdmmError: the runtime refuses the model or fails.
    """
    session = open_session(model, threads=1, optimize=optimize)
    return [dict(run.outputs) for run in run_samples(session, feeds)]


def find_difference(
    before: ModelView,
    after: ModelView,
    feeds: Mapping[str, Array],
    expected: Outputs,
    got: Outputs,
    run: Runner = outputs_of,
) -> Difference | None:
    """Return where ``after`` differs from ``before``; None where both agree.

    Args:
        before: the first model.
        after: the second model.
        feeds: the samples.
        expected: outputs of the first model.
        got: outputs of the second model.
        run: the function that computed them.
    """
    shares = _shares(expected, got)
    suspects = {name: share for name, share in shares.items() if share > _tolerance(before, expected, name)}
    if not suspects:
        return None
    noise = _own_noise(before, feeds, expected, run)
    suspects = {name: share for name, share in suspects.items() if share > _NOISE * noise.get(name, 0.0)}
    if not suspects:
        return None
    worst = max(suspects, key=lambda name: suspects[name])
    node = _first_that_differs(before, after, feeds, worst, run)
    if node is None:
        return Difference(worst, suspects[worst])
    return Difference(worst, suspects[worst], node.name, node.op_type)


def _tolerance(model: ModelView, expected: Outputs, name: str) -> float:
    array = expected[0][name]
    if not np.issubdtype(array.dtype, np.floating):
        return _TOLERANCE_OF_WHOLE_NUMBERS
    narrow = {"float16", "bfloat16"}
    is_narrow = str(array.dtype) in narrow or any(site.dtype in narrow for site in model.sites())
    return TOLERANCE_16 if is_narrow else TOLERANCE


def _shares(expected: Outputs, got: Outputs) -> dict[str, float]:
    """Return the error of each output."""
    names = expected[0].keys() & got[0].keys() if expected and got else set()
    return {
        name: max(_share(one[name], other[name]) for one, other in zip(expected, got, strict=True))
        for name in sorted(names)
    }


def _share(expected: Array, got: Array) -> float:
    if expected.shape != got.shape:
        return np.inf
    if not expected.size:
        return 0.0
    if not np.issubdtype(expected.dtype, np.floating):
        return float(np.mean(expected != got))
    left, right = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return np.inf
    with np.errstate(over="ignore"):  # of values near the largest float
        error, norm = np.linalg.norm((left - right)[finite]), np.linalg.norm(left[finite])
    share = float(error / max(norm, _LEAST_RMS * np.sqrt(left.size)))
    return np.inf if np.isnan(share) else share


def _own_noise(
    model: ModelView, feeds: Mapping[str, Array], expected: Outputs, run: Runner
) -> dict[str, float]:
    """Return the model's response to changes in the last digits, of its inputs and of its weights.

    A model that takes the difference of nearly equal numbers (a variance as the mean of squares without the
    square of the mean) responds strongly, and whatever replaces these nodes differs as much from it.
    """
    rng = np.random.default_rng(0)
    moved = {name: _moved(array, rng) for name, array in feeds.items()}
    reweighted = model.fork()
    for site, array in model.weights():
        if site.editable:
            reweighted.replace(site, _moved(array, rng))
    noise: dict[str, float] = {}
    for made, samples, optimize in ((model, moved, False), (model, feeds, True), (reweighted, feeds, False)):
        try:
            shares = _shares(expected, run(made, samples, optimize=optimize))
        except OnnxAdmmError:
            continue
        told = {name: share for name, share in shares.items() if np.isfinite(share)}  # else of another shape
        noise |= {name: max(share, noise.get(name, 0.0)) for name, share in told.items()}
    return noise


def _moved(array: Array, rng: np.random.Generator) -> Array:
    """Return floats changed in the last digits, up or down; other arrays as they are."""
    if not np.issubdtype(array.dtype, np.floating):
        return array
    signs = rng.integers(0, 2, array.shape, np.int8) * np.int8(2) - np.int8(1)
    digits = max(_LAST_DIGITS, float(np.finfo(array.dtype).eps))
    moved: Array = (array * (1 + np.float32(digits) * signs)).astype(array.dtype)
    return moved


# -- the node --------------------------------------------------------------------------------


def _first_that_differs(
    before: ModelView, after: ModelView, feeds: Mapping[str, Array], output: str, run: Runner
) -> NodeRef | None:
    """Return the first node towards ``output`` whose outputs differ while its inputs agree."""
    computed = [_computed(model) for model in (before, after)]
    names = [name for name in computed[1] if name in computed[0]][:_MOST_EXPOSED]
    try:
        one, other = (run(expose_values(model, names), feeds) for model in (before, after))
    except OnnxAdmmError:
        return None
    shares = _shares(one, other)
    agrees = {name for name, share in shares.items() if share <= TOLERANCE}
    found, waiting, seen = None, [output], set[str]()
    while waiting:
        name = waiting.pop()
        node = computed[1].get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        read = [value.name for value in node.inputs if value is not None and value.name in computed[1]]
        differing = [value for value in read if value not in agrees]
        if name in shares and not differing:
            found = node
            break
        waiting += differing
    return found


def _computed(model: ModelView) -> dict[str, NodeRef]:
    """Return the nodes of the main graph that compute more than constants, by the names of their outputs."""
    return {
        output.name: node
        for node in model.nodes()
        if not node.scope and node.op_type != "Constant"
        for output in node.outputs
        if output.name
    }
