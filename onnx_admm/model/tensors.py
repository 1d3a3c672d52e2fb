"""Tensor files: the ``input_0.pb`` of ONNX test data sets."""

from __future__ import annotations

import os

import google.protobuf.message
import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper

from onnx_admm.errors import DataError


def read_tensor(path: str | os.PathLike[str]) -> tuple[str, npt.NDArray[np.generic]]:
    """Name (empty if it has none) and values of a serialised TensorProto.

    Raises:
        DataError: missing, or not a tensor.
    """
    try:
        proto = onnx.load_tensor(os.fspath(path))
        return proto.name, onnx.numpy_helper.to_array(proto)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error
    except (google.protobuf.message.DecodeError, ValueError, TypeError, KeyError) as error:
        raise DataError("not a serialised tensor", where=path) from error
