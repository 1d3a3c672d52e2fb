"""Readers of the data users have."""

from onnx_admm.data.effort import affordable, macs_per_sample
from onnx_admm.data.feeds import from_iterable
from onnx_admm.data.fitting import fit_dataset
from onnx_admm.data.locating import data_files
from onnx_admm.data.opening import open_dataset
from onnx_admm.data.preprocessing import Preprocessing, as_preprocessing
from onnx_admm.data.samples import SampleSet, from_arrays, split
from onnx_admm.data.synthetic import synthetic_dataset

__all__ = [
    "Preprocessing",
    "SampleSet",
    "affordable",
    "as_preprocessing",
    "data_files",
    "fit_dataset",
    "from_arrays",
    "from_iterable",
    "macs_per_sample",
    "open_dataset",
    "split",
    "synthetic_dataset",
]
