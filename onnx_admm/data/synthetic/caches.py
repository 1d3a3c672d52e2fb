"""Inputs of decoders that keep keys and values of earlier tokens, and how their axes are tied.

A step reads ``seq`` new tokens beside ``past`` earlier ones, so a mask over all of them has ``past + seq``
places and positions count from ``past`` on. Exporters write these sizes as symbols (``past_sequence_length``,
``total_sequence_length``, ``past_sequence_length + 1``), and not always the same for the same thing.
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
    """Whether an input holds keys or values of earlier tokens."""
    return (
        port.dtype.startswith("float")
        and len(port.shape or ()) >= _FEWEST_AXES
        and _CACHE.search(port.name) is not None
    )


def is_cache_switch(port: PortSpec) -> bool:
    """Whether an input chooses the branch of a merged decoder: with the cache or without it."""
    return port.dtype == "bool" and _BRANCH.search(port.name) is not None


def is_of_encoder(name: str) -> bool:
    """Whether an input or a size belongs to the encoder of a model that has both."""
    return _OF_ENCODER.search(_DECODER.sub("", name)) is not None


def is_sequence(symbol: str) -> bool:
    """Whether a symbol names the length of a sequence, which is no batch."""
    return _SEQUENCE.search(symbol) is not None


def tokens_axis(port: PortSpec) -> int | None:
    """The axis of a cache that counts tokens; None where the input is none, or keeps what an encoder gave."""
    if not is_cache(port) or is_of_encoder(port.name) or port.shape is None:
        return None
    shape = port.shape
    inner = [axis for axis in range(1, len(shape)) if not isinstance(shape[axis], int)]
    if not inner:
        return len(shape) - 2
    named = [axis for axis in inner if isinstance(shape[axis], str) and is_sequence(str(shape[axis]))]
    return len(shape) - 2 if not named and len(shape) - 2 in inner else (named or inner)[0]


def known_size(symbol: str, past: int, length: int) -> int | None:
    """What a symbol says about itself: earlier tokens, or these and the new ones; None where neither."""
    if is_of_encoder(symbol):
        return None
    if _TOTAL.search(symbol):
        return past + length
    return past if _PAST.search(symbol) else None
