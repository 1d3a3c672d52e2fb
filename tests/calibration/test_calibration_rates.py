"""Measured relative errors by density and bits: what is measured, what follows, in which order."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CONV_NET

from onnx_admm.calibration.rates import Trial, measured_surfaces
from onnx_admm.calibration.stream import Calibration, calibrated_layer
from onnx_admm.contracts import ModelView, PassContext, SilentProgress
from onnx_admm.data import from_arrays
from onnx_admm.measurement.sensitivity import OutputProbe
from onnx_admm.model.analysis.text import parse_text

DENSITIES = (0.1, 0.3, 0.7)


@pytest.fixture(scope="module")
def model() -> ModelView:
    return parse_text(CONV_NET)


def trial_for(model: ModelView) -> tuple[Trial, OutputProbe]:
    x = np.random.default_rng(0).normal(size=(128, 1, 8, 8)).astype(np.float32)
    samples = from_arrays({"x": x})
    calibration = Calibration(original=model, samples=samples, threads=1)
    with SilentProgress().task("measure", 3) as task:
        trial = Trial(calibration, samples, PassContext(reference=model), task)
    return trial, OutputProbe(model, [site.name for site in model.sites()], samples, threads=1)


@pytest.mark.parametrize("are_seen", [True, False])
def test_fewer_weights_and_fewer_levels_do_more_error(model: ModelView, are_seen: bool) -> None:
    trial, _ = trial_for(model)
    sites = model.sites()
    layers = [layer for site in sites if are_seen and (layer := calibrated_layer(model, site)) is not None]
    surfaces = measured_surfaces(sites, layers, trial, densities=DENSITIES, bits=(2, 4, 8))
    assert set(surfaces) == {"w1", "w2", "w3"}
    for surface in surfaces.values():
        falling = surface.at(np.array([0.1, 0.2, 0.3, 0.5, 0.7, 1.0]))
        assert (np.diff(falling) <= 0).all()
        assert falling[-1] == pytest.approx(0, abs=1e-12)
        here = np.array([0.3])
        assert surface.at(here, 2) >= surface.at(here, 4) >= surface.at(here, 8) >= surface.at(here)
        here = np.array([1.0])
        assert surface.at(here, 2) > surface.at(here, 4) > surface.at(here, 8) > 0
        assert len(surface.rounded[4].errors)
        for measured, followed in zip(surface.rounded[4].errors, surface.rounded[8].errors, strict=True):
            assert followed == pytest.approx(measured / 256)


def test_a_error_is_what_the_outputs_suffer(model: ModelView) -> None:
    """Nearest weights can be made by hand: the largest ones kept, the rest zero."""
    trial, probe = trial_for(model)
    surface = measured_surfaces(model.sites(), [], trial, densities=DENSITIES)["w3"]
    weights = model.read("w3")
    kept = round(0.3 * weights.size)
    threshold = np.sort(np.abs(weights).ravel())[-kept]
    assert surface.rounded == {}
    assert surface.pruned.errors[1] == pytest.approx(
        probe.relative_error({"w3": np.where(np.abs(weights) >= threshold, weights, 0)})
    )
