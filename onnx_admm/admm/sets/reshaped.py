"""A set of tensors of one shape, for tensors of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_admm.admm.sets.supports import Array, ConstraintSet


@dataclass(frozen=True, slots=True, eq=False)
class Reshaped:
    """Tensors that lie in ``inner`` when reshaped (C order).

    Projection: ``min ||z - v||^2  s.t.  reshape(z) in inner``; as exact as the inner one, for entries are
    neither added nor reordered. A layer is solved as a matrix (rows, d): N:M along a convolution's input
    channels is ``Reshaped(NofM(2, 4, axis=1), (rows, c_in, kh, kw))``, levels with a scale for every 32
    inputs ``Reshaped(Levels(4, axis=0), (rows * d // 32, 32))``.

    Args:
        inner: the set.
        shape: shape of its tensors.
    """

    inner: ConstraintSet
    shape: tuple[int, ...]

    def project(self, v: Array) -> Array:
        """Return the nearest point, projected in the inner shape."""
        return self.inner.project(np.reshape(v, self.shape)).reshape(np.shape(v))

    def contains(self, z: Array) -> bool:
        """Return whether the inner set contains z, reshaped."""
        return self.inner.contains(np.reshape(z, self.shape))
