"""RemoveBlocks: drop residual blocks, or replace each by one linear layer, with the least output error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from onnx_admm.calibration.samples import calibration_samples
from onnx_admm.calibration.stream import Calibration
from onnx_admm.contracts import Dataset, Edit, ModelView, PassContext, PassReport, Skip
from onnx_admm.errors import NothingToDo, PassRefused
from onnx_admm.removal.block_forms import DROPPED, MERGED, Kind, forms_of, shapes_by_name, why_broadcast
from onnx_admm.removal.depth import Candidate, Depth, DepthChoice, DepthSearch, Goal, choose
from onnx_admm.removal.node_costs import basis_of_cost, check_cost, costs_of, require_cost
from onnx_admm.removal.residual_blocks import ResidualBlock, residual_blocks
from onnx_admm.removal.tidying import tidy
from onnx_admm.selection.layers import choose_sites
from onnx_admm.settings.ranges import NonNegative, PositiveShare, Rounds, Samples

_MOST_JUDGED, _JUDGED = 128, 4
"""Samples that candidates are judged on: the most, and one in so many of all samples."""

_DEFAULT_SHARE = 0.5
_CLOSE = 1.0005
"""Shares up to this factor above the one asked for count as met."""


@dataclass(frozen=True, kw_only=True)
class RemoveBlocks:
    """Remove residual blocks, or replace each by one linear layer, until a share of the cost is left.

    A dropped block leaves its shortcut. A merged one becomes one convolution or product from its input to its
    sum, fitted by least squares; an activation after the sum stays. The layers after it are refitted. Blocks
    are taken one by one: each time the one that adds the least error of the outputs for the cost that it
    saves. Uses no labels and no training.

    Attributes:
        keep: share of the cost that may be left, above 0 and at most 1; None: 0.5, or no share where
            ``most_blocks`` is given.
        most_blocks: number of blocks to remove or merge, at most; None: as many as the share takes.
        quantity: the cost: ``"macs"`` (multiply-accumulates), or ``"latency"`` and others that the cost model
            prices.
        blocks: what may become of a block: ``"dropped"``, ``"merged"`` or both.
        samples: calibration samples, taken from the training data: equally many of each predicted class.
        ridge: weight of the distance to the original weights, in units of the mean energy of a layer's
            inputs; None: by the number of samples.
        include, exclude: patterns of layer names or operators; a block may go if all layers in it are
            included and none is excluded.
    """

    name: ClassVar[str] = "remove_blocks"
    idempotent: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    keep: PositiveShare | None = None
    most_blocks: Rounds | None = None
    quantity: Literal["macs", "latency", "energy", "size"] = "macs"
    blocks: tuple[Kind, ...] = (DROPPED, MERGED)
    samples: Samples = 512
    ridge: NonNegative | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        check_cost(_DEFAULT_SHARE if self.keep is None else self.keep, self.quantity, context)
        if self.most_blocks is not None and self.most_blocks < 1:
            raise PassRefused(
                "impossible number of blocks", where="most_blocks", got=self.most_blocks, expected="1 or more"
            )
        if not self.blocks or not {DROPPED, MERGED}.issuperset(self.blocks):
            raise PassRefused(
                "nothing may become of a block" if not self.blocks else "unknown form of a block",
                where="blocks",
                got=list(self.blocks),
                expected=f"{DROPPED!r}, {MERGED!r} or both",
            )

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        chosen, left = self._choose_blocks(model)
        if not chosen:
            raise _nothing(left)
        original = model.fork()
        calibration = Calibration(
            original=original,
            samples=calibration_samples(context, self.samples),
            ridge=self.ridge,
            seed=context.seed,
            threads=context.settings.threads,
        )
        require_cost(costs_of(original, self.quantity, context))
        candidates, reasons = self._candidates(calibration, residual_blocks(original)[0], chosen)
        left = reasons | left
        if not candidates:
            raise _nothing(left)
        judged, fitted = _split(calibration.samples)
        search = DepthSearch(
            calibration=calibration,
            judged=judged,
            fitted=fitted,
            cost=lambda each: sum(costs_of(each, self.quantity, context).values()),
            memory_bytes=context.memory_bytes,
        )
        whole = search.start().cost
        goal = Goal(None if self._share is None else self._share * whole * _CLOSE, self.most_blocks)
        with context.progress.task("blocks", len(candidates)) as task:
            found = choose(search, candidates, goal, lambda name: task.advance(note=name))
        depth = found.depth
        if depth.chosen:
            with context.progress.task("refit", len(model.sites())) as task:
                depth = search.refitted(depth, lambda name: task.advance(note=name))
            tidy(depth.model)
            model.become(depth.model)
        return self._report(found, depth, whole, left, basis_of_cost(self.quantity, context))

    # -- which blocks ------------------------------------------------------------------------

    def _choose_blocks(self, model: ModelView) -> tuple[set[str], dict[str, str]]:
        """Return the names of blocks that may go, and the reasons for the others."""
        blocks, left = residual_blocks(model)
        if not blocks:
            return set(), left
        sites, skipped = choose_sites(model.sites(), self.include, self.exclude)
        named, reasons = {site.name for site in sites}, {skip.layer: skip.why for skip in skipped}
        chosen = set[str]()
        for block in blocks:
            others = [name for name in block.layers if name not in named]
            if others:
                left[block.name] = f"{others[0]}: {reasons.get(others[0], 'its weight is computed')}"
            else:
                chosen.add(block.name)
        return chosen, left

    def _candidates(
        self, calibration: Calibration, blocks: Sequence[ResidualBlock], chosen: set[str]
    ) -> tuple[list[Candidate], dict[str, str]]:
        """Return the forms that blocks may take, and why others take none."""
        offered = [block for block in blocks if block.name in chosen]
        names = [value.name for block in offered for value in (block.entry, block.shortcut, block.output)]
        values = calibration.first_values(names)
        shapes = shapes_by_name(calibration.original)
        candidates, left = list[Candidate](), dict[str, str]()
        for block in offered:
            broadcasts = why_broadcast(block, shapes)
            forms, why = ((), broadcasts) if broadcasts else forms_of(block, values, self.blocks)
            candidates += [Candidate(block, form) for form in forms]
            if not forms:
                left[block.name] = why or "its shortcut has no other form"
        return candidates, left

    # -- how many ----------------------------------------------------------------------------

    @property
    def _share(self) -> float | None:
        return _DEFAULT_SHARE if self.keep is None and self.most_blocks is None else self.keep

    # -- the report --------------------------------------------------------------------------

    def _report(
        self, found: DepthChoice, depth: Depth, whole: float, left: dict[str, str], basis: str
    ) -> PassReport:
        rows: dict[str, dict[str, Any]] = {}
        before = (0.0, whole)
        for step in found.steps:
            name, candidate = list(step.chosen.items())[-1]
            rows[name] = {
                "done": candidate.form.kind,
                "form": candidate.form.what,
                "layers": list(candidate.block.layers),
                "added_error": step.error - before[0],
                "saved": (before[1] - step.cost) / whole,
            }
            before = (step.error, step.cost)
        edits = tuple(Edit(name, self._what(row)) for name, row in rows.items())
        stays = {name: "; ".join(why.values()) for name, why in found.left.items() if name not in rows}
        reached = depth.cost / whole
        figures = {
            "quantity": self.quantity,
            "basis": basis,
            "asked": self._share,
            "reached": reached,
            "error": depth.error,
            "blocks": rows,
        }
        unmet = None
        if self._share is not None and reached > self._share * _CLOSE and self.most_blocks is None:
            unmet = f"{self.quantity} of {reached:.3g}x remain where {self._share:g}x was asked for"
        skipped = tuple(Skip(name, why) for name, why in (left | stays).items())
        return PassReport(bool(edits), edits, skipped, figures, unmet)

    def _what(self, row: dict[str, Any]) -> str:
        """Return the report's sentence for one block."""
        return (
            f"{row['done']}: {row['form']}; it adds {row['added_error']:.2g} to the error of the outputs "
            f"and saves {row['saved']:.2g} of the {self.quantity}"
        )


def _split(samples: Dataset) -> tuple[Dataset, Dataset]:
    """Return samples to judge candidates on, and others to fit them to; all for both where there are few."""
    places = np.arange(len(samples))
    judged = places[::_JUDGED][:_MOST_JUDGED]
    if len(judged) == len(samples):
        return samples, samples
    return samples.select(judged), samples.select(np.setdiff1d(places, judged))


def _nothing(left: dict[str, str]) -> NothingToDo:
    first = next(iter(left.items()), ("the model", "it has no residual block"))
    return NothingToDo("no block can be removed", got=f"{first[0]}: {first[1]}")
