"""Facts of a model file, all read from what the file stores."""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict

import numpy as np

from onnx_admm.contracts import Array, LayerProfile, ModelView, WeightSite
from onnx_admm.model import layer_profiles
from onnx_admm.model.analysis.stored_sizes import StoredConstant, stored_constants
from onnx_admm.model.analysis.unsupported_weights import unsupported_weights
from onnx_admm.model.writing.external_files import bytes_on_disk
from onnx_admm.pipeline import PROVENANCE
from onnx_admm.report.facts import LayerFacts, ModelFacts, OtherWeight, Sizes

_LEAST_BLOCK = 16
"""Fewest elements of a weight that share a scale."""

_LEVELS = 256
"""Number of distinct values above which a weight is not quantised."""


def describe_model(view: ModelView, path: str | os.PathLike[str]) -> ModelFacts:
    """Return the facts of a model that was loaded from ``path``."""
    constants = stored_constants(view)
    profiles: dict[str, list[LayerProfile]] = defaultdict(list)
    for profile in layer_profiles(view, reads_weights=False):
        profiles[profile.weight].append(profile)
    behind: dict[str, list[StoredConstant]] = defaultdict(list)
    for constant in constants:
        for name in constant.weights:
            behind[name].append(constant)
    sites: dict[str, WeightSite] = {}
    kept: dict[str, int] = {}
    bits: dict[str, int] = {}
    seen: set[object] = set()
    repeated: set[str] = set()
    for site, array in view.weights():
        sites[site.name] = site
        if (key := _content(array, behind[site.name])) is not None:
            repeated |= {site.name} if key in seen else set()
            seen.add(key)
        kept[site.name], bits[site.name] = int(np.count_nonzero(array)), _bits(site, array, behind[site.name])
    totals = {c: sum(kept[name] for name in c.weights) for c in constants}
    layers = tuple(
        _layer(site, bits[name], kept[name], profiles[name], {c: totals[c] for c in behind[name]})
        for name, site in sites.items()
    )
    payload = sum(
        constant.bytes
        for constant in constants
        if any(_is_payload(constant, sites[name]) for name in constant.weights)
    )
    return ModelFacts(
        path=os.fspath(path),
        parameters=sum(layer.parameters for layer in layers if layer.weight not in repeated),
        nonzeros=sum(layer.nonzeros for layer in layers if layer.weight not in repeated),
        macs=_total([layer.macs for layer in layers]),
        opset=view.opset,
        ir_version=view.ir_version,
        sizes=Sizes(
            # Weights cut from one stored tensor would count twice.
            data=min(payload, sum(layer.sizes.data for layer in layers)),
            data_index=payload,
            decode=sum(constant.bytes for constant in constants),
            file=bytes_on_disk(path),
        ),
        layers=layers,
        other_weights=tuple(
            OtherWeight(name=each.name, bytes=each.nbytes, why=each.why_left())
            for each in unsupported_weights(view)
        ),
        provenance=view.metadata.get(PROVENANCE, ""),
    )


def _content(array: Array, constants: list[StoredConstant]) -> object | None:
    """Return what tells whether a weight is an earlier one, read once more; None where nothing is shared.

    Several nodes may decode one stored tensor, such as branches of an If or steps of an unrolled loop.
    """
    shared = frozenset(id(constant) for constant in constants if len(constant.weights) > 1)
    if not shared or not array.any():
        return None
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
    return shared, array.shape, digest


def _layer(
    site: WeightSite,
    bits: int,
    nonzeros: int,
    profiles: list[LayerProfile],
    constants: dict[StoredConstant, int],
) -> LayerFacts:
    """Return the facts of one weight; ``constants`` are those behind it, with the nonzeros that they feed."""
    shares = {
        c: (nonzeros / total if total else 1.0 / len(c.weights)) * c.bytes for c, total in constants.items()
    }
    payload = sum(share for c, share in shares.items() if _is_payload(c, site))
    return LayerFacts(
        weight=site.name,
        node=site.users[0],
        op_type=site.op_type,
        shape=site.shape,
        parameters=site.size,
        nonzeros=nonzeros,
        bits=bits,
        macs=_total([profile.macs for profile in profiles]),
        sizes=Sizes(
            data=math.ceil(nonzeros * bits / 8),
            data_index=round(payload),
            decode=round(sum(shares.values())),
        ),
    )


def _is_payload(constant: StoredConstant, site: WeightSite) -> bool:
    """Return whether a constant behind a weight holds codes, gaps or values, not scales or the like.

    The weight itself is payload, and so is a tensor it is cut from. Streams of codes and gaps are integers of
    at most 32 bits. Values that are kept beside gaps are more floats than a codebook, or scales, have.
    """
    if constant.is_weight or constant.elements >= site.size:
        return True
    if constant.dtype.startswith("float"):
        return constant.elements > max(_LEVELS, site.size // _LEAST_BLOCK, *site.shape)
    return constant.dtype.startswith(("int", "uint")) and constant.bits <= 32


def _bits(site: WeightSite, array: Array, constants: list[StoredConstant]) -> int:
    """Return the bits of one weight: those of its stored elements, one each, else those of its levels."""
    for constant in constants:
        if constant.elements == site.size:
            streams = [other for other in constants if other is not constant and _is_payload(other, site)]
            streams = [stream for stream in streams if stream.elements > max(1, site.size // 8)]
            low_bits = sum(stream.bits * stream.elements for stream in streams) / site.size
            return constant.bits + round(low_bits)
    levels = _levels(array)
    if site.out_axis is not None and array.size:
        channels = site.shape[site.out_axis]
        if levels > _LEVELS or any(c.elements == channels > 1 and "float" in c.dtype for c in constants):
            levels = max(_levels(channel) for channel in np.moveaxis(array, site.out_axis, 0))
    return max(1, math.ceil(math.log2(max(levels, 1)))) if levels <= _LEVELS else 8 * array.dtype.itemsize


def _levels(array: Array) -> int:
    return len(np.unique(array[array != 0]))


def _total(figures: list[int | None]) -> int | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) if len(known) == len(figures) else None
