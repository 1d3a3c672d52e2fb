"""Tables 8 and 9 of the ADMM-NN paper (Ren et al., arXiv 1812.11677) from the cost model ``admm-nn``.

    python benchmarks/admm_nn_tables.py benchmarks/results/admm-nn-tables.json

The layers are those of AlexNet (two groups in CONV2, 4 and 5), their shapes inferred from a model. Table 8
counts operations, two for each multiply-accumulate. Its rows are turned into densities and bits, table 9's
into the densities at which the paper's own curve has the row's speed-up; the totals of CONV1-5 are then what
the cost model makes of these rows. Beside it: what both curves say of the pruning ratios alone (for ADMM-NN's
two models no test of the published curve, whose points beyond the plot come from them), and how far the
analytic curve is off.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from onnx_admm.contracts import CompressionOption, LayerProfile
from onnx_admm.cost_models.admm_nn import PUBLISHED, AdmmNnCostModel
from onnx_admm.model import node_profiles
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pricing.pricing import break_even, price_layers

LAYERS = ("CONV1", "CONV2", "CONV3", "CONV4", "CONV5")
ALEXNET = """
    <ir_version: 10, opset_import: ["" : 17]>
    alexnet (float[1,3,227,227] x) => (float[1,256,13,13] y)
    <float[96,3,11,11] CONV1, float[256,48,5,5] CONV2, float[384,256,3,3] CONV3,
     float[384,192,3,3] CONV4, float[256,192,3,3] CONV5>
    {
        a = Conv <strides = [4, 4]> (x, CONV1)
        b = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (a)
        c = Conv <group = 2, pads = [2, 2, 2, 2]> (b, CONV2)
        d = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (c)
        e = Conv <pads = [1, 1, 1, 1]> (d, CONV3)
        f = Conv <group = 2, pads = [1, 1, 1, 1]> (e, CONV4)
        y = Conv <group = 2, pads = [1, 1, 1, 1]> (f, CONV5)
    }"""
ORIGINAL = ((211, 448, 299, 224, 150), 1332)
"""Table 8, millions of operations: layers and total."""

TABLE_8: dict[str, dict[str, Any]] = {
    "ADMM-NN": {"operations": ((133, 31, 18, 16, 11), 209), "times_bits": ((931, 155, 90, 80, 55), 1311)},
    "Deep Compression": {
        "operations": ((177, 170, 105, 83, 56), 591),
        "times_bits": ((1416, 1360, 840, 664, 448), 4728),
    },
}
TABLE_9: dict[str, dict[str, Any]] = {
    "ADMM-NN, no loss": {"speedups": (1, 7, 7.5, 7.2, 7.1), "total": 3.6, "pruning": 13.1},
    "ADMM-NN, 1.5 points": {"speedups": (1, 8.6, 9.0, 8.8, 8.6), "total": 3.9, "pruning": 25.5},
    "Deep Compression": {"speedups": (0.16, 1.4, 1.6, 1.5, 1.5), "total": 0.64, "pruning": 2.7},
    "Mao": {"speedups": (0.17, 2.6, 3, 3, 3), "total": 0.81, "pruning": 4.1},
    "Wen": {"speedups": (0.15, 2.9, 4.6, 3.8, 2.9), "total": 0.77, "pruning": 5},
}
DEEP_COMPRESSION = (0.84, 0.38, 0.35, 0.37, 0.37)
"""Share of weights kept, Han et al., NIPS 2015, table 4."""

Densities = tuple[float, ...]


def tables() -> dict[str, Any]:
    """Everything, ready for JSON."""
    layers = [layer for layer in node_profiles(parse_text(ALEXNET)) if layer.weight]
    return {
        "table_8": {"original": original(layers), **{name: table_8(layers, name) for name in TABLE_8}},
        "table_9": {name: table_9(layers, name) for name in TABLE_9},
        "from_pruning_ratios": from_ratios(layers),
        "curves": curves(layers),
    }


def original(layers: list[LayerProfile]) -> dict[str, Any]:
    """Operations of the dense layers, from their shapes alone."""
    ours = [2e-6 * layer.known_macs() for layer in layers]
    return {"operations_millions": side_by_side([*ours, sum(ours)], [*ORIGINAL[0], ORIGINAL[1]])}


def table_8(layers: list[LayerProfile], name: str) -> dict[str, Any]:
    """Operations and operations times bits of CONV1-5, from the rows of one method."""
    (operations, total), (times_bits, bits_total) = TABLE_8[name]["operations"], TABLE_8[name]["times_bits"]
    densities = [kept / whole for kept, whole in zip(operations, ORIGINAL[0], strict=True)]
    bits = [round(product / kept) for product, kept in zip(times_bits, operations, strict=True)]
    cost = priced(layers, densities, bits).total
    ours = {"macs": 2e-6 * (cost.macs or 0), "mac_bits": 2e-6 * (cost.mac_bits or 0)}
    return {
        "densities": rounded(densities),
        "bits": bits,
        "operations_millions_total": side_by_side([ours["macs"]], [total]),
        "operations_times_bits_millions_total": side_by_side([ours["mac_bits"]], [bits_total]),
        "energy_uj": round(1e6 * (cost.energy_j or 0), 1),
    }


def table_9(layers: list[LayerProfile], name: str) -> dict[str, Any]:
    """Speed-up of CONV1-5, from the speed-ups of the rows of one method."""
    row = TABLE_9[name]
    densities = [density_of(speedup) for speedup in row["speedups"]]
    return {
        "speedups": list(row["speedups"]),
        "densities_on_the_curve": rounded(densities),
        "speedup_total": side_by_side([speedup(layers, densities)], [row["total"]]),
    }


def from_ratios(layers: list[LayerProfile]) -> dict[str, Any]:
    """Speed-ups of CONV1-5 by both curves, from pruning ratios alone; CONV1 of ADMM-NN's models is dense."""
    found: dict[str, Any] = {}
    for name in ("ADMM-NN, no loss", "ADMM-NN, 1.5 points", "Deep Compression"):
        densities = (
            DEEP_COMPRESSION if name == "Deep Compression" else evenly(layers, TABLE_9[name]["pruning"])
        )
        found[name] = {
            "densities": rounded(densities),
            "published_curve": side_by_side([speedup(layers, densities)], [TABLE_9[name]["total"]]),
            "analytic_curve": side_by_side(
                [speedup(layers, densities, "analytic")], [TABLE_9[name]["total"]]
            ),
        }
    return found


def curves(layers: list[LayerProfile]) -> dict[str, Any]:
    """Both curves point by point, and where they break even."""
    models = {curve: AdmmNnCostModel(curve=curve) for curve in ("published", "analytic")}
    analytic = models["analytic"]
    points = [
        {
            "pruned": pruned,
            "published": factor,
            "analytic": round(analytic.speedup(1 - pruned), 3),
            "misfit": round(analytic.speedup(1 - pruned) / factor - 1, 3),
            "area_formula_0.45_over_density": round(0.45 / (1 - pruned), 3),
        }
        for pruned, factor in PUBLISHED
    ]
    ratios = {name: round(break_even(model, layers[2]), 3) for name, model in models.items()}
    return {"break_even_ratio": {"paper": 2.22, **ratios}, "k": analytic.k, "q": analytic.q, "points": points}


def density_of(speedup: float) -> float:
    """Where the published curve has a speed-up; 1 for the dense design's own."""
    if speedup == 1:
        return 1.0
    shares, factors = zip(*PUBLISHED, strict=True)
    return 1 - float(np.interp(speedup, factors, shares))


def evenly(layers: list[LayerProfile], ratio: float) -> Densities:
    """CONV1 dense, the others alike, for a pruning ratio of CONV1-5 together."""
    first, total = layers[0].parameters, sum(layer.parameters for layer in layers)
    rest = (total / ratio - first) / (total - first)
    return (1.0, rest, rest, rest, rest)


def speedup(layers: list[LayerProfile], densities: Any, curve: Any = "published") -> float:
    """Of the dense layers' latency over the pruned ones'."""
    model = AdmmNnCostModel(curve=curve, dense_fallback=False)
    dense = price_layers(
        layers, model, {layer.weight: CompressionOption() for layer in layers}
    ).total.latency_s
    pruned = priced(layers, densities, [32] * len(layers), model).total.latency_s
    return (dense or 0) / (pruned or 1)


def priced(layers: list[LayerProfile], densities: Any, bits: Any, model: Any = None) -> Any:
    """The price list of the layers, treated so."""
    options = {
        layer.weight: CompressionOption(density, width)
        for layer, density, width in zip(layers, densities, bits, strict=True)
    }
    return price_layers(layers, model or AdmmNnCostModel(dense_fallback=False), options)


def side_by_side(ours: list[float], paper: list[float]) -> dict[str, Any]:
    """Figures of the cost model and the paper's."""
    pairs = zip(ours, paper, strict=True)
    return {
        "ours": rounded(ours),
        "paper": list(paper),
        "difference": [round(mine / theirs - 1, 4) for mine, theirs in pairs],
    }


def rounded(figures: Any) -> list[float]:
    return [round(float(figure), 4) for figure in figures]


def main() -> None:
    Path(sys.argv[1]).write_text(json.dumps(tables(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
