"""ONNX's own compressed forms: DequantizeLinear weights and sparse initializers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import ml_dtypes
import numpy as np

from onnx_admm.contracts import ModelView, Skip
from onnx_admm.encoding.coders.codebook import Weight
from onnx_admm.encoding.coders.encoding_report import EncodingReport, TensorEncoding, dense_row, stored_row
from onnx_admm.encoding.coders.grids import Grid
from onnx_admm.encoding.coders.per_tensor_coder import grid_of
from onnx_admm.encoding.contents import read_contents
from onnx_admm.encoding.large import Alone, encode_large, on_byte_grid
from onnx_admm.model.files.sparse_tensors import index_bytes
from onnx_admm.model.opsets.convert_opset import convert_opset, raise_opset
from onnx_admm.model.rewrite.fragment import Fragment
from onnx_admm.model.rewrite.insert_fragment import insert_fragment
from onnx_admm.model.rewrite.sparse_marks import initializer_names, mark_dense, mark_sparse, marked_sparse
from onnx_admm.model.rewrite.weight_storage import model_bytes, passes_full_check
from onnx_admm.model.runtimes import INT4

_INT4_SINCE = 21
_CHANNELS_SINCE = 13
_NIBBLE, _BYTE = 4, 8
_INT4_CODES = (-8, 7)
_QDQ_TYPES = ("float32",)

_LEAST_GAIN, _LEAST_GAIN_BYTES = 0.01, 1024
"""Savings from which on sparse initializers are chosen by default: full checkers refuse them."""


def encode_qdq(view: ModelView) -> EncodingReport:
    """Store every weight that lies on an 8-bit grid as DequantizeLinear, int4 where its codes allow.

    The opset is raised to 13 for scales per channel and to 21 for int4, where the oldest runtime of the
    model's conditions loads it. A weight of few levels that still
    becomes int8 has a line with the reason.

    The zero point is always written: without one, released runtimes compute int8 weights wrongly behind a
    Reshape. Note that runtimes do not fold DequantizeLinear at load: where it is not fused it runs each time.

    Source: operator DequantizeLinear, opset 10 (one scale), 13 (scale per channel), 21 (int4).
    """
    why_int8 = _raise_for_grids(view, read_contents(view).weights)
    contents = read_contents(view)
    fitting = (weight for weight in contents.weights if weight.dtype.name in _QDQ_TYPES)
    encoded = encode_large(view, fitting, _dequantize_alone)
    skipped, fragment = list(contents.skipped), Fragment(view.opset)
    outputs, rows = dict[str, str](), {row.layer: row for row in encoded.rows}
    for weight in (weight for weight in contents.weights if weight.name not in rows):
        grid = _grid(weight)
        if grid is None:
            skipped.append(Skip(weight.name, _why_dense(weight)))
            rows[weight.name] = dense_row(weight)
            continue
        bits = _width(grid, view)
        outputs[weight.name] = _dequantize(fragment, weight, grid, bits)
        rows[weight.name] = stored_row(weight, f"DequantizeLinear int{bits}", bits)
        if bits == _BYTE and len(grid.levels) <= 1 << _NIBBLE:
            skipped.append(
                Skip(weight.name, f"stored as int8 and not int4: {_beyond_int4(grid) or why_int8}")
            )
    if outputs:
        insert_fragment(view, fragment, outputs)
    encoded_names = {*outputs, *(row.layer for row in encoded.rows)}
    left = sum(w.nbytes for w in (*contents.weights, *contents.biases) if w.name not in encoded_names)
    return EncodingReport(
        format="qdq",
        rows=tuple(rows[weight.name] for weight in contents.weights),
        biases=tuple(map(dense_row, contents.biases)),
        decode_bytes=fragment.content_bytes + encoded.content_bytes + left,
        oldest_opset=max(fragment.oldest_opset, encoded.oldest_opset),
        skipped=tuple(skipped),
    )


def encode_sparse(view: ModelView) -> EncodingReport:
    """Mark every weight to be written as ``sparse_initializer`` where that is smaller than its dense form."""
    contents = read_contents(view)
    possible = initializer_names(view)
    chosen = {w.name for w in contents.weights if w.name in possible and _is_smaller_sparse(w)}
    few, elsewhere = "too few zeros for a sparse form to be smaller", "no initializer of the main graph"
    skipped = [
        Skip(w.name, few if w.name in possible else elsewhere)
        for w in contents.weights
        if w.name not in chosen
    ]
    mark_sparse(view, chosen)
    outcome = measure_only(view)
    return replace(outcome, format="sparse", skipped=(*outcome.skipped, *skipped))


def encode_sound_rest(view: ModelView, outcome: EncodingReport) -> EncodingReport:
    """Apply ``encode_rest`` where it saves a hundredth of the file and onnx's full check still passes.

    A file that was read with sparse initializers does not pass in any case; there the saving decides.
    """
    fork = view.fork()
    encoded, dense_bytes = encode_rest(fork, outcome), model_bytes(view)
    gain = dense_bytes - model_bytes(fork)
    if gain < max(_LEAST_GAIN_BYTES, _LEAST_GAIN * dense_bytes):
        return outcome
    if passes_full_check(view) and not passes_full_check(fork):
        return outcome
    view.become(fork)
    return encoded


def encode_rest(view: ModelView, outcome: EncodingReport) -> EncodingReport:
    """Mark weights that another encoding left dense for ``sparse_initializer`` where that is smaller."""
    rest = {row.layer: row for row in encode_sparse(view).rows if row.is_encoded}
    rows = tuple(rest.get(row.layer, row) for row in outcome.rows)
    bits = (sum(row.data_bits + row.index_bits for row in each) for each in (outcome.rows, rows))
    return replace(
        outcome,
        rows=rows,
        decode_bytes=outcome.decode_bytes - (next(bits) - next(bits)) // 8,
        skipped=tuple(skip for skip in outcome.skipped if skip.layer not in rest),
    )


def encode_dense(view: ModelView) -> EncodingReport:
    """Mark every weight to be written dense, also where it was read from a sparse initializer."""
    mark_dense(view)
    return measure_only(view)


def measure_only(view: ModelView) -> EncodingReport:
    """Return the report of the model as it is, without a change."""
    contents, sparse = read_contents(view), marked_sparse(view)
    sizes = {w.name: _sparse_sizes(w) for w in contents.weights if w.name in sparse}
    rows = [_sparse_row(w, sizes[w.name]) if w.name in sizes else dense_row(w) for w in contents.weights]
    content = sum(sum(sizes[w.name]) if w.name in sizes else w.nbytes for w in contents.weights)
    return EncodingReport(
        format="sparse" if sizes else "dense",
        rows=tuple(rows),
        biases=tuple(map(dense_row, contents.biases)),
        decode_bytes=content + sum(bias.nbytes for bias in contents.biases),
        oldest_opset=1,
        skipped=contents.skipped,
    )


def _grid(weight: Weight) -> Grid | None:
    if weight.dtype.name not in _QDQ_TYPES:
        return None
    grids = [grid for grid in (weight.grid, weight.channel_grid) if grid is not None]
    return min(grids, key=lambda grid: _beyond_int4(grid) is not None, default=None)


def _why_dense(weight: Weight) -> str:
    if weight.dtype.name not in _QDQ_TYPES:
        return f"{weight.dtype.name} weights have no DequantizeLinear form here"
    return "its values lie on no 8-bit grid, with one scale or one per channel"


def _raise_for_grids(view: ModelView, weights: Iterable[Weight]) -> str | None:
    """Raise the opset as far as the weights' grids need it; return why it is too old for int4, if it is.

    Raises:
        UnsupportedModel: there are grids, and not even scales per channel are possible.
    """
    grids = [grid for weight in weights if (grid := _grid(weight)) is not None]
    if grids and view.opset < _CHANNELS_SINCE:
        view.become(convert_opset(view, at_least=_CHANNELS_SINCE))
    if all(_beyond_int4(grid) is not None for grid in grids):
        return None
    return view.conditions.why_not(INT4) or raise_opset(view, _INT4_SINCE)


def _beyond_int4(grid: Grid) -> str | None:
    """Return why int4 cannot represent the codes of a grid, as a sentence's end; None where it can."""
    least, most = int(grid.codes.min(initial=0)), int(grid.codes.max(initial=0))
    lowest, highest = _INT4_CODES
    if lowest <= least and most <= highest:
        return None
    return f"its codes reach from {least} to {most}, int4 from {lowest} to {highest}"


def _width(grid: Grid, view: ModelView) -> int:
    has_int4 = view.opset >= _INT4_SINCE and view.conditions.why_not(INT4) is None
    return _NIBBLE if has_int4 and _beyond_int4(grid) is None else _BYTE


def _dequantize_alone(weight: Weight) -> Alone | None:
    on_bytes = on_byte_grid(weight)
    if on_bytes is None:
        return None
    row = stored_row(on_bytes, "DequantizeLinear int8", 8)
    return Alone(row, lambda fragment: _dequantize(fragment, on_bytes, grid_of(on_bytes), 8))


def _dequantize(fragment: Fragment, weight: Weight, grid: Grid, bits: int) -> str:
    dtype = np.dtype(np.int8) if bits == 8 else np.dtype(ml_dtypes.int4)
    codes = grid.codes.reshape(weight.shape).astype(np.int8).astype(dtype)
    scale = grid.scale.reshape(-1) if grid.scale.ndim else grid.scale
    names = (
        fragment.constant(codes),
        fragment.constant(scale),
        fragment.constant(np.zeros(scale.shape, np.int8).astype(dtype)),
    )
    if scale.ndim == 0:
        return fragment.add("DequantizeLinear", *names)
    axis = int(np.argmax(grid.scale.shape)) if grid.scale.size > 1 else 0
    return fragment.add("DequantizeLinear", *names, axis=axis)


def _is_smaller_sparse(weight: Weight) -> bool:
    """Return whether the sparse form is smaller; counts decide most cases without the indices."""
    return (weight.dtype.itemsize + 1) * weight.nonzeros < weight.nbytes and sum(
        _sparse_sizes(weight)
    ) < weight.nbytes


def _sparse_sizes(weight: Weight) -> tuple[int, int]:
    """Return the bytes of the values and of the indices."""
    return weight.dtype.itemsize * weight.nonzeros, index_bytes(weight.flat)


def _sparse_row(weight: Weight, sizes: tuple[int, int]) -> TensorEncoding:
    return TensorEncoding(
        layer=weight.name,
        coding="sparse initializer",
        elements=weight.size,
        nonzeros=weight.nonzeros,
        data_bits=8 * sizes[0],
        index_bits=8 * sizes[1],
    )
