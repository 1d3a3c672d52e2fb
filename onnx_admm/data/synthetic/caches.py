"""Inputs of decoders that cache keys and values of earlier tokens, and the relations of their axes.

A step reads ``seq`` new tokens after ``past`` earlier ones, so a mask over all of them has ``past + seq``
places and positions count from ``past`` on. Exporters write these sizes as symbols (``past_sequence_length``,
``total_sequence_length``, ``past_sequence_length + 1``), not always the same for the same size.
"""

from __future__ import annotations

import re

from onnx_admm.contracts import PortSpec

_CACHE = re.compile(
    r"(^|[^a-z])(past|cache|caches|cached|[kv]_?cache|kv)([^a-z]|$)|[._](key|value)s?([._\d]|$)",
    re.IGNORECASE,
)
_OF_ENCODER = re.compile(r"encoder|cross", re.IGNORECASE)
_DECODER = re.compile(r"decoder", re.IGNORECASE)
_PAST = re.compile(r"past|cache|history", re.IGNORECASE)
_TOTAL = re.compile(r"total|all_?seq|full_?seq|kv_?(seq|len)", re.IGNORECASE)
_BRANCH = re.compile(r"use_?(cache|past)|cache_?branch|is_?(first|prefill)", re.IGNORECASE)
_SEQUENCE = re.compile(r"seq|len|time|frame|token|past|total", re.IGNORECASE)
_FEWEST_AXES = 3


def is_cache(port: PortSpec) -> bool:
    """Return whether an input holds keys or values of earlier tokens."""
    return (
        port.dtype.startswith("float")
        and len(port.shape or ()) >= _FEWEST_AXES
        and _CACHE.search(port.name) is not None
    )


def is_cache_switch(port: PortSpec) -> bool:
    """Return whether an input chooses the branch of a merged decoder: with the cache or without it."""
    return port.dtype == "bool" and _BRANCH.search(port.name) is not None


def is_of_encoder(name: str) -> bool:
    """Return whether an input or a size belongs to the encoder of a model that has both."""
    return _OF_ENCODER.search(_DECODER.sub("", name)) is not None


def is_sequence(symbol: str) -> bool:
    """Return whether a symbol names the length of a sequence rather than a batch."""
    return _SEQUENCE.search(symbol) is not None


def tokens_axis(port: PortSpec) -> int | None:
    """Return the axis of a cache that counts tokens; None for other inputs and caches of an encoder."""
    if not is_cache(port) or is_of_encoder(port.name) or port.shape is None:
        return None
    shape = port.shape
    inner = [axis for axis in range(1, len(shape)) if not isinstance(shape[axis], int)]
    if not inner:
        return len(shape) - 2
    named = [axis for axis in inner if isinstance(shape[axis], str) and is_sequence(str(shape[axis]))]
    return len(shape) - 2 if not named and len(shape) - 2 in inner else (named or inner)[0]


def known_size(symbol: str, past: int, length: int) -> int | None:
    """Return the size that a symbol implies: earlier tokens, or earlier and new ones; else None."""
    if is_of_encoder(symbol):
        return None
    if _TOTAL.search(symbol):
        return past + length
    return past if _PAST.search(symbol) else None
