"""Readers of sample data."""

from onnx_admm.data.compute_budget import cost_of_sample, limit_samples
from onnx_admm.data.feeds import from_iterable
from onnx_admm.data.fitting import fit_dataset
from onnx_admm.data.opening import open_dataset
from onnx_admm.data.readers.locating import data_files
from onnx_admm.data.readers.preprocessing import Preprocessing, as_preprocessing
from onnx_admm.data.samples import SampleSet, from_arrays, split_dataset
from onnx_admm.data.synthetic.dataset import synthetic_dataset

__all__ = [
    "Preprocessing",
    "SampleSet",
    "as_preprocessing",
    "cost_of_sample",
    "data_files",
    "fit_dataset",
    "from_arrays",
    "from_iterable",
    "limit_samples",
    "open_dataset",
    "split_dataset",
    "synthetic_dataset",
]
