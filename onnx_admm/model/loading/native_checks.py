"""Checks by the C++ code of ``onnx``: tasks of the worker process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

_REFUSALS = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError)


def check(arguments: Mapping[str, Any], content: bytes) -> tuple[str | None, bytes]:
    """Run the checker; with shape inference where ``full`` is true.

    Returns:
        Why it refuses the serialised model, None where it does not; no bytes.
    """
    try:
        onnx.checker.check_model(content, full_check=arguments["full"])
    except _REFUSALS as error:
        return str(error), b""
    return None, b""


def infer(arguments: Mapping[str, Any], content: bytes) -> tuple[str | None, bytes]:
    """Run shape inference; with type checks and errors where ``strict`` is true.

    Returns:
        Why it fails, None where it does not; where ``give`` is true, the serialised model with the shapes.
    """
    strict = arguments["strict"]
    try:
        inferred = onnx.shape_inference.infer_shapes(
            content, check_type=strict, strict_mode=strict, data_prop=False
        )
    except _REFUSALS as error:
        return str(error), b""
    return None, inferred.SerializeToString() if arguments["give"] else b""
