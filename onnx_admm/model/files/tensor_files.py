"""Tensor files: the ``input_0.pb`` of ONNX test data sets."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper

from onnx_admm.errors import DataError, reading


def read_tensor(path: str | os.PathLike[str]) -> tuple[str, npt.NDArray[np.generic]]:
    """Return the name (empty if it has none) and values of a serialised TensorProto.

    Raises:
        DataError: missing, not a tensor, or one whose values lie in another file.
    """
    with reading(path, DataError, "not a serialised tensor"):
        if not os.path.isfile(path):
            raise DataError("not a plain file", where=path)
        proto = onnx.load_tensor(os.fspath(path))
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            raise DataError("a tensor whose values lie in another file", where=path)
        if not isinstance(proto.name, str):
            raise DataError("a name that is not UTF-8", where=path, got=repr(proto.name))
        return proto.name, onnx.numpy_helper.to_array(proto)
