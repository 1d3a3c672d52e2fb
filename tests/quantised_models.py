"""Models whose weights lie on grids, for tests of how they are stored."""

from __future__ import annotations

import numpy as np

from onnx_admm.contracts import ModelView


def quantised(view: ModelView, density: float = 0.3, levels: int = 1, scale: float = 0.125) -> ModelView:
    """A fork whose weights are zero but for a share, and lie on +-1..+-levels times a scale."""
    fork, rng = view.fork(), np.random.default_rng(0)
    for site in fork.sites():
        codes = rng.integers(1, levels + 1, site.shape) * rng.choice([-1, 1], site.shape)
        fork.replace(site, codes * (rng.random(site.shape) < density) * scale)
    return fork
