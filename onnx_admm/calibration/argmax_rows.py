"""Rows of X at the maximum of each output channel: a least-squares problem of its own for each channel.

Behind a global maximum, a channel needs one row of each sample, and different channels need different rows. A
channel's weights should reproduce the original's outputs for the rows where the original has its maximum, and
for those where the compressed layer has its maximum: these must not exceed the former.
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
"""Weight of a row where the compressed layer has its maximum; 1 where the original has it."""

_OTHERS = 0.3
"""Weight of all rows together, relative to 1 for those where the original has its maximum."""


@dataclass(frozen=True, eq=False)
class ArgmaxRows:
    """Inputs and targets where channels have their maxima.

    Attributes:
        x: inputs of the layer behind the compressed layers, at the rows where any channel has its maximum,
            float32 (group, m, d).
        targets: outputs of the original at these rows, float32 (m, channels).
        best, hard_negatives: row of the maximum of each channel of each sample, in the original and in the
            compressed layer: (samples, channels).
        is_centred: whether means are subtracted, as for the whole layer.
        ridge: ridge of the channels' problems; None: by the number of rows.
    """

    x: Array
    targets: Array
    best: Positions
    hard_negatives: Positions
    is_centred: bool
    ridge: float | None = None

    @classmethod
    def joined(cls, parts: Sequence[ArgmaxRows]) -> ArgmaxRows:
        """Return the rows of the samples of all parts."""
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
        """Return the moments of one channel's own rows, a problem of one row.

        Args:
            channel: number of the channel.
            others: moments of the whole layer; they represent the rows without a maximum.
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
