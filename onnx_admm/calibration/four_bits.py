"""Comparison of pruned weights with 4-bit ones: reported where 4 bits are smaller and more accurate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx_admm.calibration.roundings import decibels
from onnx_admm.contracts import Dataset, ModelView
from onnx_admm.encoding.compression_options import NIBBLES, Treated
from onnx_admm.measurement.sensitivity import OutputProbe


@dataclass(frozen=True)
class Compared:
    """Weights in one form: approximate bytes, and signal-to-noise ratio of the outputs."""

    nbytes: float
    sqnr_db: float


@dataclass(frozen=True)
class Instead:
    """Pruned weights, and the same weights on 16 levels.

    Attributes:
        pruned: as they were pruned and stored.
        levels: on 16 levels, nothing pruned; smaller and closer to the original.
    """

    pruned: Compared
    levels: Compared

    def figures(self) -> dict[str, float]:
        """Return the figures for the report of a pass."""
        return {
            "pruned_bytes": round(self.pruned.nbytes),
            "pruned_sqnr_db": self.pruned.sqnr_db,
            "four_bits_bytes": round(self.levels.nbytes),
            "four_bits_sqnr_db": self.levels.sqnr_db,
        }


def four_bits_instead(
    reference: ModelView, pruned: ModelView, names: Iterable[str], data: Dataset, nbytes: float
) -> Instead | None:
    """Compare pruned layers with the reference's on 16 levels, both rounded to the nearest.

    Args:
        reference: the original.
        pruned: the present model.
        names: layers that were pruned; those that the reference does not have are ignored.
        data: samples to compare the outputs on.
        nbytes: approximate bytes of the pruned layers in the file.

    Returns:
        None where 4 bits are not better in both.
    """
    known = {site.name: site for site in reference.sites() if site.editable}
    common = [name for name in names if name in known]
    treated = {name: Treated(reference.read(name), known[name].out_axis) for name in common}
    four_bytes = sum(layer.stored_bytes(NIBBLES) for layer in treated.values())
    if not common or four_bytes >= nbytes:
        return None
    nibbles = {name: layer.apply(NIBBLES) for name, layer in treated.items()}
    four = Compared(
        four_bytes, decibels(OutputProbe(reference, common, data, threads=1).relative_error(nibbles))
    )
    now = Compared(
        nbytes, decibels(OutputProbe(pruned, (), data, reference=reference, threads=1).relative_error({}))
    )
    return Instead(now, four) if four.sqnr_db > now.sqnr_db else None
