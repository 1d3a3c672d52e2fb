"""A model opened in parts, so that a run can begin where a weight was exchanged or the graph edited.

Most measurements change one thing and run the same samples again. All that is computed before it is the same
as in the run before; it is kept at a few cuts of the graph, and a run begins at the last cut in front of the
change. On average that is a little over half of the model. An edit of the graph opens its part alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.contracts import Array, Feeds, ModelView
from onnx_admm.errors import OnnxAdmmError, UnsupportedModel
from onnx_admm.limits import current_budget
from onnx_admm.model.rewrite.comparing.fixed_draws import with_fixed_draws
from onnx_admm.model.rewrite.weights_as_inputs import weights_as_inputs
from onnx_admm.model.splitting.cut_points import Part, cut_into_parts, reads
from onnx_admm.model.splitting.graph_part import graph_part
from onnx_admm.runtime.feeding import Shape, feeds_of_runs
from onnx_admm.runtime.sessions import open_session

_PARTS = 6
"""More parts save little more, and cost the optimisations that cross a cut."""


@dataclass(frozen=True)
class Trace:
    """What a run with the model's own weights computed.

    Attributes:
        parts: number of the session's parts.
        first: the first part that can begin with it.
        values: what that part and later ones read, and the outputs that earlier parts give; by name.
    """

    parts: int
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
        self._own, self._threads, self._view = self._as_inputs(weights), threads, view
        ports = model.signature()
        self.input_shapes = {port.name: _open_shape(port.shape) for port in ports.inputs}
        self._samples = samples
        self._parts = self._opened(frozenset(self.inputs.values()))
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
        return self._outputs(_values(values, self._parts[first:]))

    def edited(self, value: str, edit: Callable[[ModelView], ModelView]) -> EditedSession:
        """Return the model with an edit of the nodes that read a value.

        The first edit of a model none of whose weights are exchanged opens it in parts. Earlier traces, which
        are of the whole, save nothing then.

        Args:
            value: an input, or an output of a node of the main graph.
            edit: returns a fork of the model, or of the part of it that has all readers of the value; further
                inputs are fed to each run.

        Raises:
            OnnxAdmmError: the runtime does not open it.
        """
        if not self.inputs and len(self._parts) == 1:
            self._parts = self._opened(
                frozenset(each.value.name or "" for each in self._view.found_sites().values())
            )
        readers = [number for number, part in enumerate(self._parts) if reads(part.model, value)]
        number = readers[0] if len(readers) == 1 else None
        old = None if number is None else self._parts[number]
        model = self._view if old is None else old.model
        part = _OpenedPart(Part((), ()) if old is None else old.part, edit(model), self._own, self._threads)
        parts = [part] if number is None else [*self._parts[:number], part, *self._parts[number + 1 :]]
        return EditedSession(tuple(parts), number or 0, tuple(self.output_names))

    def is_late(self, name: str) -> bool:
        """Return whether a weight is read behind the first part, so that a trace saves time."""
        return self._first_reader([self.inputs[name]]) > 0

    def trace(self, feeds: Feeds, most_bytes: float) -> Trace:
        """Run the model with its own weights and keep what later runs can begin with.

        Args:
            feeds: one array per input.
            most_bytes: of what is kept; the last cuts come first, for what follows them is run most.
        """
        values = _values(feeds, self._parts)
        count = len(self._parts)
        trace = Trace(count, count, self._outputs(values))
        for first in range(len(self._parts) - 1, 0, -1):
            reads = {name: values[name] for name in self._parts[first].part.reads}
            longer = Trace(count, first, trace.values | reads)
            if longer.nbytes > most_bytes:
                break
            trace = longer
        return trace

    def _outputs(self, values: Feeds) -> Feeds:
        return {name: values[name] for name in self.output_names}

    def _as_inputs(self, weights: Mapping[str, Array]) -> Feeds:
        return {self.inputs[name]: np.ascontiguousarray(array) for name, array in weights.items()}

    def _first_reader(self, inputs: Iterable[str]) -> int:
        """Return the number of the first part that reads one of the inputs."""
        numbers = (i for i, part in enumerate(self._parts) if not part.weights.isdisjoint(inputs))
        return next(numbers, 0)

    def _opened(self, cuts: frozenset[str]) -> list[_OpenedPart]:
        """Open the model in parts that begin at these weights; whole where it cannot be cut."""
        view = self._view
        parts = () if view.has_maps else cut_into_parts(view, cuts, max(1, min(_PARTS, len(cuts))))
        if len(parts) > 1:
            try:
                return self._opened_parts(parts)
            except OnnxAdmmError:  # what is wrong with the whole is told when that is opened
                current_budget().check()
        return [_OpenedPart(Part((), ()), view, self._own, self._threads)]

    def _opened_parts(self, parts: Sequence[Part]) -> list[_OpenedPart]:
        """Open each part after a run of those before it, which shows the types of what it reads."""
        opened = list[_OpenedPart]()
        values = next(feeds_of_runs(self.input_shapes, self._samples))
        for part in parts:
            dtypes = {name: values[name].dtype for name in part.reads if name in values}
            if len(dtypes) < len(part.reads):
                raise UnsupportedModel("a value at a cut is no tensor")
            opened.append(_OpenedPart(part, graph_part(self._view, part, dtypes), self._own, self._threads))
            values = _values(values, opened[-1:])
        return opened


@dataclass(frozen=True)
class EditedSession:
    """A model in parts one of which is edited.

    Attributes:
        parts: all of them.
        number: that of the edited one.
        output_names: outputs of the model.
    """

    parts: tuple[_OpenedPart, ...]
    number: int
    output_names: tuple[str, ...]

    def run(self, feeds: Feeds, further: Feeds, trace: Trace | None = None) -> Feeds:
        """Run the edited model; outputs by name.

        Args:
            feeds: one array per input of the model.
            further: one array per input that the edit added.
            trace: of a run of the model with the same feeds: what lies before the edit is taken from it.
        """
        first, values = 0, feeds | further
        if trace is not None and trace.parts == len(self.parts) and self.number >= trace.first:
            first, values = self.number, trace.values | values
        values = _values(values, self.parts[first:])
        return {name: values[name] for name in self.output_names}


def _values(values: Feeds, parts: Sequence[_OpenedPart]) -> Feeds:
    for part in parts:
        values = values | part.run(values)
    return values


def _open_shape(shape: Shape | None) -> Shape:
    """Return the shape as a session states it: None for a negative extent, () for an unknown rank."""
    return tuple(None if isinstance(extent, int) and extent < 0 else extent for extent in shape or ())


class _OpenedPart:
    """A part of the model and its session.

    Attributes:
        part: what it reads and gives.
        model: the part as a model.
        weights: those of its inputs that are weights.
    """

    def __init__(self, part: Part, model: ModelView, own: Feeds, threads: int) -> None:
        self.part, self.model = part, model
        self.session = open_session(model, threads=threads, keeps_arena=False)
        ports = model.signature()
        self._inputs = frozenset(port.name for port in (*ports.inputs, *ports.defaults))
        self.weights = self._inputs & frozenset(own)
        self._own = {name: own[name] for name in self.weights}

    def run(self, values: Feeds) -> Feeds:
        """Return what the part computes of values by name; weights that are missing are the model's own."""
        given = self._own | {name: values[name] for name in self._inputs if name in values}
        return self.session.run(given)
