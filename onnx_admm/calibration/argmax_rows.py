"""The rows of X that a maximum picks for each output channel: a least-squares problem of its own for each.

Behind a maximum over all places, a channel is asked for one row of each sample, and other channels for other
rows. What a channel's weights should reproduce is what the original makes of the rows where it has the
maximum, and of those where the compressed layer has: these must not come out on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_admm.admm.reconstruction.layer_problem import LayerProblem, ridge_for
from onnx_admm.calibration.moments import Moments
from onnx_admm.calibration.row_sampling import Positions
from onnx_admm.contracts import Array

_HARD_NEGATIVE = 0.7
"""Weight of a row that the compressed layer picks; one that the original picks has 1."""

_OTHERS = 0.3
"""Weight of all rows together, beside 1 for those that the original picks."""


@dataclass(frozen=True, eq=False)
class ArgmaxRows:
    """Inputs and targets where channels have their maxima.

    Attributes:
        x: what the compressed prefix hands to the layer, the rows where any channel has its maximum, float32
            (group, m, d).
        targets: what the original makes of its own inputs there, float32 (m, channels).
        best, hard_negatives: which of the rows the original, and which the compressed layer, picks for each
            channel of each sample: (samples, channels).
        is_centred: means are taken off, as those of the whole layer are.
        ridge: of the channels' problems; None: by how few rows each has its maximum in.
    """

    x: Array
    targets: Array
    best: Positions
    hard_negatives: Positions
    is_centred: bool
    ridge: float | None = None

    @classmethod
    def joined(cls, parts: Sequence[ArgmaxRows]) -> ArgmaxRows:
        """Of the samples of all parts."""
        firsts = np.cumsum([0, *(len(part.targets) for part in parts)])
        return cls(
            np.concatenate([part.x for part in parts], axis=1),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.best + first for part, first in zip(parts, firsts, strict=False)]),
            np.concatenate([part.hard_negatives + first for part, first in zip(parts, firsts, strict=False)]),
            parts[0].is_centred,
            parts[0].ridge,
        )

    def moments(self, channel: int, others: Moments) -> Moments:
        """Of one channel's own rows, a problem of one row.

        Args:
            channel: which.
            others: of the whole layer; they speak for the rows that nobody picks.
        """
        layer = others.problem
        group = channel // (len(layer.original) // layer.groups)
        counts = np.bincount(
            self.best[:, channel], minlength=len(self.targets)
        ) + _HARD_NEGATIVE * np.bincount(self.hard_negatives[:, channel], minlength=len(self.targets))
        chosen = np.flatnonzero(counts)
        total = counts.sum() / len(self.best) + _OTHERS
        shares, rest = counts[chosen] / (len(self.best) * total), _OTHERS / total
        x, t = self.x[group, chosen], self.targets[chosen, channel]
        mean = shares @ x + rest * others.input_mean[group]
        target = shares @ t + rest * others.target_mean[channel]
        if not self.is_centred:
            mean, target = np.zeros_like(mean), 0.0
        x, t = x - mean.astype(np.float32), t - target
        off, target_off = others.input_mean[group] - mean, others.target_mean[channel] - target
        weighted = shares.astype(np.float32)[:, None] * x
        problem = LayerProblem(
            gram=(x.T @ weighted + rest * (layer.gram[group] + np.outer(off, off)))[None],
            cross=(t @ weighted + rest * (layer.cross[channel] + target_off * off))[None],
            original=layer.original[channel][None],
            energy=np.array([shares @ t**2 + rest * (layer.energy[channel] + target_off**2)]),
            ridge=ridge_for(len(off), len(chosen)) if self.ridge is None else self.ridge,
        )
        return Moments(problem, mean[None], np.array([target]), len(chosen))
