"""A pass that rounds weights to powers of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_admm.contracts import Edit, ModelView, PassContext, PassReport
from onnx_admm.errors import NothingToDo
from onnx_admm.selection.layers import choose_sites


@dataclass(frozen=True, kw_only=True)
class PowersOfTwo:
    """Round every weight to zero or to the nearest power of two.

    Attributes:
        octaves: number of powers of two, counted down from the largest of the layer; 1 or more.
        include, exclude: patterns of layer names or operators.

    Source: the levels of Zhou et al., Incremental Network Quantization, arXiv 1702.03044, section 2.1.
    """

    name: ClassVar[str] = "powers_of_two"
    idempotent: ClassVar[bool] = True  # a second run changes nothing
    exact: ClassVar[bool] = False  # outputs do not stay equal

    octaves: int = 7
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.octaves < 1:
            raise ValueError("at least one octave is needed")

    def requires(self, model: ModelView, context: PassContext) -> None:
        """Raise NothingToDo for a model without weights."""
        if not model.sites():
            raise NothingToDo("no layer to round", expected="a model with weights")

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """Round the chosen layers and report the relative error of each."""
        chosen, skipped = choose_sites(model.sites(), self.include, self.exclude, subgraphs=True)
        edits = []
        for site in chosen:
            weights = model.read(site)
            rounded = self._rounded(weights)
            if not np.array_equal(rounded, weights):
                model.replace(site, rounded)
                error = np.linalg.norm(rounded - weights) / np.linalg.norm(weights)
                edits.append(Edit(site.name, f"{self.octaves} powers of two, relative error {error:.3f}"))
        return PassReport(changed=bool(edits), edits=tuple(edits), skipped=skipped)

    def _rounded(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights rounded to the nearest level, in their own type."""
        size = np.abs(weights)
        if not size.any():
            return weights
        # 1.5 * 2^k lies half way between 2^k and 2^(k+1). The largest weight determines the largest level.
        top = np.floor(np.log2(size.max() / 0.75))
        least = top - self.octaves + 1
        with np.errstate(divide="ignore"):
            power = np.clip(np.floor(np.log2(size / 0.75)), least, top)
        kept = size >= 0.5 * 2.0**least
        return np.where(kept, np.sign(weights) * 2.0**power, 0).astype(weights.dtype)
