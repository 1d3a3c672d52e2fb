"""Lowers the IR version that a file states, for a runtime that reads no newer one."""

from __future__ import annotations

import onnx


def lower_ir_version(source: bytes | str, ir_version: int) -> bytes:
    """Return the same model, serialised, stating at most ``ir_version``.

    Only the number changes: a runtime still refuses what that IR version does not allow (an unknown tensor
    type), so nothing is computed differently.

    Args:
        source: a serialised model, or the path of one.
        ir_version: the newest IR version to state.
    """
    proto = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    proto.ir_version = min(proto.ir_version, ir_version)
    lowered: bytes = proto.SerializeToString()
    return lowered
