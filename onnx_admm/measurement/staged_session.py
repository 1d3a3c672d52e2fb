"""A model opened in parts, so that a run can begin where a weight was exchanged.

Most measurements exchange one weight and run the same samples again. All that is computed before the layer
is the same as in the run before; it is kept at a few cuts of the graph, and a run begins at the last cut in
front of the layer. On average that is a little over half of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Array, Feeds, ModelView
from onnx_admm.errors import OnnxAdmmError, UnsupportedModel
from onnx_admm.limits import current_budget
from onnx_admm.model.rewrite.fixed_draws import with_fixed_draws
from onnx_admm.model.rewrite.weights_as_inputs import weights_as_inputs
from onnx_admm.model.splitting.cut_points import Part, cut_into_parts
from onnx_admm.model.splitting.graph_part import graph_part
from onnx_admm.runtime.feeding import Shape, feeds_of_runs
from onnx_admm.runtime.sessions import open_session

_PARTS = 6
"""More parts save little more, and cost the optimisations that cross a cut."""


@dataclass(frozen=True)
class Trace:
    """What a run with the model's own weights computed.

    Attributes:
        first: the first part that can begin with it.
        values: what that part and later ones read, and the outputs that earlier parts give; by name.
    """

    first: int
    values: Feeds

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return sum(array.nbytes for array in self.values.values())


class StagedSession:
    """A model whose named weights can be exchanged from run to run.

    Args:
        model: it is not changed.
        names: sites whose weights will be exchanged.
        own: the model's own weights by site, where they are in memory already; others are read.
        samples: a few, with which each part is tried; a model that cannot be cut is opened whole.
        threads: intra-op threads; 0 lets the runtime choose.

    Attributes:
        input_shapes: shape by input name, weights left out.
        output_names: outputs that are tensors, in order.
        inputs: of each weight that can be exchanged, the input that takes it.

    Raises:
        DataError, WorkError, UnsupportedModel: the model does not run with the samples.
    """

    def __init__(
        self,
        model: ModelView,
        names: Iterable[str],
        samples: Feeds,
        *,
        own: Mapping[str, Array],
        threads: int,
    ) -> None:
        view, self.inputs = weights_as_inputs(with_fixed_draws(model), names)
        weights = {name: own[name] if name in own else model.read(name) for name in self.inputs}
        self._own = self._as_inputs(weights)
        ports = model.signature()
        self.input_shapes = {port.name: _open_shape(port.shape) for port in ports.inputs}
        self._parts = self._opened(view, samples, threads)
        given = dict.fromkeys(name for part in self._parts for name in part.session.output_names)
        stated = [port.name for port in ports.outputs if port.name in given]
        self.output_names = tuple(given if len(self._parts) == 1 else stated)

    def run(
        self, feeds: Feeds, weights: Mapping[str, Array] | None = None, trace: Trace | None = None
    ) -> Feeds:
        """Run the model with other weights; outputs by name.

        Args:
            feeds: one array per input.
            weights: by site; those in ``inputs``. None: the model's own.
            trace: of a run with the same feeds: what lies before the first exchanged weight is taken from it.
        """
        weights = weights or {}
        extra = self._as_inputs(weights)
        first, values = 0, feeds | extra
        if trace is not None and (start := self._first_reader(extra)) >= trace.first:
            first, values = start, trace.values | values
        values = self._values(values, self._parts[first:])
        return {name: values[name] for name in self.output_names}

    def is_late(self, name: str) -> bool:
        """Return whether a weight is read behind the first part, so that a trace saves time."""
        return self._first_reader([self.inputs[name]]) > 0

    def trace(self, feeds: Feeds, most_bytes: float) -> Trace:
        """Run the model with its own weights and keep what later runs can begin with.

        Args:
            feeds: one array per input.
            most_bytes: of what is kept; the last cuts come first, for what follows them is run most.
        """
        values = self._values(feeds, self._parts)
        trace = Trace(len(self._parts), {name: values[name] for name in self.output_names})
        for first in range(len(self._parts) - 1, 0, -1):
            reads = {name: values[name] for name in self._parts[first].part.reads}
            longer = Trace(first, trace.values | reads)
            if longer.nbytes > most_bytes:
                break
            trace = longer
        return trace

    def _as_inputs(self, weights: Mapping[str, Array]) -> Feeds:
        return {self.inputs[name]: np.ascontiguousarray(array) for name, array in weights.items()}

    def _first_reader(self, inputs: Iterable[str]) -> int:
        """Return the number of the first part that reads one of the inputs."""
        numbers = (i for i, part in enumerate(self._parts) if not part.weights.isdisjoint(inputs))
        return next(numbers, 0)

    def _values(self, values: Feeds, parts: Sequence[_OpenedPart]) -> Feeds:
        for part in parts:
            needed = {name: values[name] for name in part.inputs if name in values}
            own = {name: self._own[name] for name in part.weights if name not in values}
            values = values | part.session.run(needed | own)
        return values

    def _opened(self, view: ModelView, samples: Feeds, threads: int) -> list[_OpenedPart]:
        """Open the model in parts; whole where it cannot be cut."""
        weights = frozenset(self.inputs.values())
        parts = () if view.has_maps else cut_into_parts(view, weights, max(1, min(_PARTS, len(weights))))
        if len(parts) > 1:
            try:
                return self._opened_parts(view, parts, samples, threads)
            except OnnxAdmmError:  # what is wrong with the whole is told when that is opened
                current_budget().check()
        return [_OpenedPart(Part((), ()), view, weights, threads)]

    def _opened_parts(
        self, view: ModelView, parts: Sequence[Part], samples: Feeds, threads: int
    ) -> list[_OpenedPart]:
        """Open each part after a run of those before it, which shows the types of what it reads."""
        weights, opened = frozenset(self.inputs.values()), list[_OpenedPart]()
        values = next(feeds_of_runs(self.input_shapes, samples))
        for part in parts:
            dtypes = {name: values[name].dtype for name in part.reads if name in values}
            if len(dtypes) < len(part.reads):
                raise UnsupportedModel("a value at a cut is no tensor")
            opened.append(_OpenedPart(part, graph_part(view, part, dtypes), weights, threads))
            values = self._values(values, opened[-1:])
        return opened


def _open_shape(shape: Shape | None) -> Shape:
    """Return the shape as a session states it: None for a negative extent, () for an unknown rank."""
    return tuple(None if isinstance(extent, int) and extent < 0 else extent for extent in shape or ())


class _OpenedPart:
    """A part of the model and its session.

    Attributes:
        inputs: all that it reads.
        weights: those of its inputs that are weights.
    """

    def __init__(self, part: Part, model: ModelView, weights: frozenset[str], threads: int) -> None:
        self.part = part
        self.session = open_session(model, threads=threads, keeps_arena=False)
        ports = model.signature()
        self.inputs = frozenset(port.name for port in (*ports.inputs, *ports.defaults))
        self.weights = self.inputs & weights
