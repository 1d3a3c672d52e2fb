"""The cost model of the ADMM-NN paper's accelerator."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import CompressionOption
from onnx_admm.cost_models.admm_nn import PUBLISHED, AdmmNnCostModel, mac_picojoules
from onnx_admm.encoding.coders.accounting import gap_bits
from onnx_admm.errors import RecipeError
from onnx_admm.pricing.pricing import break_even
from onnx_admm.testing import layers

CONV = layers()[0]
DENSE = 16 * 144 * 8 * 9


def test_it_breaks_even_where_the_paper_does() -> None:
    assert break_even(AdmmNnCostModel(), CONV) == pytest.approx(2.22, abs=0.01)
    assert break_even(AdmmNnCostModel(curve="analytic"), CONV) == pytest.approx(2.22, rel=0.05)


@pytest.mark.parametrize(("pruned", "speedup"), PUBLISHED)
def test_latency_follows_the_published_curve(pruned: float, speedup: float) -> None:
    model = AdmmNnCostModel(dense_gmac_s=2.0, dense_fallback=False)
    dense = model.estimate(CONV, CompressionOption()).latency_s
    assert dense == DENSE / 2e9
    cost = model.estimate(CONV, CompressionOption(1 - pruned))
    assert cost.latency_s == pytest.approx(DENSE / 2e9 / speedup)


def test_the_curve_is_interpolated_and_held_at_its_ends() -> None:
    model = AdmmNnCostModel()
    assert model.speedup(0.45) == pytest.approx(1.0)
    assert (model.speedup(0.999), model.speedup(0.001)) == (0.07, 8.75)


def test_the_formula_fits_what_was_plotted_and_nothing_beyond() -> None:
    model = AdmmNnCostModel(curve="analytic")
    misfits = [model.speedup(1 - pruned) / speedup - 1 for pruned, speedup in PUBLISHED]
    assert max(abs(misfit) for misfit in misfits[:9]) < 0.06
    assert min(misfits[9:]) > 0.5


def test_bits_change_energy_and_bytes_but_not_the_time() -> None:
    model = AdmmNnCostModel()
    eight, four = (model.estimate(CONV, CompressionOption(0.1, bits)) for bits in (8, 4))
    assert eight.latency_s == four.latency_s
    index = gap_bits(0.1)
    assert four.energy_j == pytest.approx(0.1 * DENSE * (0.1 + 0.1 + (4 + 8 + index) * 20 / 64) * 1e-12)
    assert eight.bytes == pytest.approx(115.2 * (8 + index) / 8)
    assert (four.macs, four.mac_bits) == (pytest.approx(0.1 * DENSE), pytest.approx(0.4 * DENSE))


def test_energies_are_those_that_were_measured() -> None:
    memory = 20 / 64
    assert mac_picojoules(8) == pytest.approx(0.3 + 16 * memory)
    assert mac_picojoules(16) == pytest.approx(1.5 + 32 * memory)
    assert mac_picojoules(32) == pytest.approx(4.6 + 64 * memory)


def test_what_the_sparse_design_would_slow_down_runs_on_the_dense_one() -> None:
    for density in (0.5, 0.98):
        assert AdmmNnCostModel().estimate(CONV, CompressionOption(density)) == AdmmNnCostModel().estimate(
            CONV, CompressionOption()
        )
    fast = CompressionOption(0.4)
    forced = AdmmNnCostModel(dense_fallback=False)
    assert AdmmNnCostModel().estimate(CONV, fast) == forced.estimate(CONV, fast)
    assert (forced.estimate(CONV, CompressionOption(0.9)).latency_s or 0) == pytest.approx(DENSE / 1e9 / 0.07)
    assert break_even(forced, CONV) == break_even(AdmmNnCostModel(), CONV)


def test_removed_channels_stay_on_the_dense_design() -> None:
    half = AdmmNnCostModel().estimate(CONV, CompressionOption(0.5, 32, "channel"))
    assert half.latency_s == pytest.approx(DENSE / 2e9)
    assert half.bytes == 4 * 1152 / 2


def test_settings_are_checked() -> None:
    assert cost_model("admm-nn,curve=analytic,dense_gmac_s=3") == AdmmNnCostModel(
        curve="analytic", dense_gmac_s=3
    )
    with pytest.raises(RecipeError, match="key 'dense_gmac_s': input should be greater than 0"):
        cost_model("admm-nn,dense_gmac_s=0")
    with pytest.raises(RecipeError, match=r"key 'curve': input should be 'published' or 'analytic'"):
        cost_model("admm-nn,curve=measured")


# -- the paper's tables ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(repository: Path) -> dict[str, Any]:
    """What the benchmark makes of them now."""
    spec = importlib.util.spec_from_file_location("tables", repository / "benchmarks/admm_nn_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.tables()
    return found


def test_the_totals_of_the_papers_tables_come_from_their_rows(tables: dict[str, Any]) -> None:
    operations = {
        (name, what): figures
        for name, table in tables["table_8"].items()
        for what, figures in table.items()
        if what.startswith("operations")
    }
    assert len(operations) >= len(tables["table_8"]) > 0
    for where, figures in operations.items():
        assert max(map(abs, figures["difference"])) < 0.004, where
    assert tables["table_9"]
    for name, row in tables["table_9"].items():
        assert abs(row["speedup_total"]["difference"][0]) < 0.01, name


def test_the_committed_tables_are_those_of_the_code(repository: Path, tables: dict[str, Any]) -> None:
    committed = json.loads((repository / "benchmarks/results/admm-nn-tables.json").read_text())
    assert json.loads(json.dumps(tables)) == committed
