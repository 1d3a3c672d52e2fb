"""Lowering the IR version a file states, for a runtime that reads no newer one."""

from __future__ import annotations

import onnx


def lower_ir_version(source: bytes | str, ir_version: int) -> bytes:
    """The same model, serialised whole, stating at most ``ir_version``.

    Only the number changes: a runtime still refuses what that IR version cannot hold (a tensor type it
    does not know), so nothing is computed differently.

    Args:
        source: a serialised model, or the path of one.
    """
    proto = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    proto.ir_version = min(proto.ir_version, ir_version)
    lowered: bytes = proto.SerializeToString()
    return lowered
