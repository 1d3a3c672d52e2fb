"""Inputs and inner values of a model, run by run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx_admm.contracts import Array, Feeds, ModelView
from onnx_admm.model.rewrite.expose_values import expose_values
from onnx_admm.runtime.feeding import feed_at, feeds_of_runs, run_samples
from onnx_admm.runtime.sessions import Session, open_session


class InnerValues:
    """Values of the main graph of one model, by name.

    Args:
        model: the model.
        names: inputs, or outputs of nodes of the main graph.
        threads: intra-op threads; 0 lets the runtime choose.
        keeps_arena: whether the session keeps its memory between runs.
    """

    def __init__(
        self, model: ModelView, names: Sequence[str], threads: int, *, keeps_arena: bool = True
    ) -> None:
        self._shapes = {port.name: port.shape or () for port in model.signature().inputs}
        self._fed = [name for name in names if name in self._shapes]
        computed = [name for name in names if name not in self._shapes]
        self._session: Session | None = None
        if computed:
            exposed = expose_values(model, computed)
            self._session = open_session(exposed, threads=threads, keeps_arena=keeps_arena)

    def runs(self, feeds: Mapping[str, Array]) -> Iterator[Feeds]:
        """Yield the values by name, one dictionary for each run."""
        if self._session is None:
            for fed in feeds_of_runs(self._shapes, feeds):
                yield {name: fed[name] for name in self._fed}
            return
        for run in run_samples(self._session, feeds):
            fed = feed_at(self._session, feeds, run.start) if self._fed else {}
            yield run.outputs | {name: fed[name] for name in self._fed}
