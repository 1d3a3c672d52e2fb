"""ONNX's own compressed forms: DequantizeLinear weights and sparse initializers."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np

from onnx_admm.contracts import ModelView, Skip
from onnx_admm.encoding.codebook import Grid, Weight
from onnx_admm.encoding.contents import read_contents
from onnx_admm.encoding.outcome import Outcome, Row, dense_row, stored_row
from onnx_admm.model.builder import insert_fragment
from onnx_admm.model.fragment import Fragment, content_bytes
from onnx_admm.model.opset import convert_opset
from onnx_admm.model.sparse_storage import index_bytes, mark_dense, mark_sparse, marked_sparse

_INT4_SINCE = 21
_CHANNELS_SINCE = 13
_LARGEST_INT4 = 7


def encode_qdq(view: ModelView) -> Outcome:
    """Store every weight that lies on an 8-bit grid as DequantizeLinear, int4 where opset and codes allow.

    The zero point is always written: without one, released runtimes compute int8 weights wrongly behind a
    Reshape. Note that runtimes do not fold DequantizeLinear at load: where it is not fused it runs each time.

    Source: operator DequantizeLinear, opset 10 (one scale), 13 (scale per channel), 21 (int4).
    """
    contents = read_contents(view)
    grids = {w.name: grid for w in contents.weights if (grid := _grid(w)) is not None}
    skipped = list(contents.skipped)
    skipped += [
        Skip(w.name, "its values lie on no 8-bit grid, with one scale or one per channel")
        for w in contents.weights
        if w.name not in grids
    ]
    if grids and view.opset < _CHANNELS_SINCE:
        view.become(convert_opset(view, at_least=_CHANNELS_SINCE))
    fragment, outputs, rows = Fragment(view.opset), dict[str, str](), list[Row]()
    for weight in contents.weights:
        if weight.name not in grids:
            rows.append(dense_row(weight))
            continue
        bits = _width(grids[weight.name], view.opset)
        outputs[weight.name] = _dequantize(fragment, weight, grids[weight.name], bits)
        rows.append(stored_row(weight, f"DequantizeLinear int{bits}", bits))
    if outputs:
        insert_fragment(view, fragment, outputs)
    left = [w.values for w in (*contents.weights, *contents.biases) if w.name not in outputs]
    return Outcome(
        format="qdq",
        rows=tuple(rows),
        biases=tuple(map(dense_row, contents.biases)),
        decode_bytes=fragment.content_bytes + sum(map(content_bytes, left)),
        oldest_opset=fragment.oldest_opset,
        skipped=tuple(skipped),
    )


def encode_sparse(view: ModelView) -> Outcome:
    """Have every weight written as ``sparse_initializer`` where that is smaller than its dense form."""
    contents = read_contents(view)
    chosen = {w.name for w in contents.weights if sum(_sparse_sizes(w)) < w.values.nbytes}
    skipped = [
        Skip(w.name, "too few zeros for a sparse form to be smaller")
        for w in contents.weights
        if w.name not in chosen
    ]
    mark_sparse(view, chosen)
    outcome = keep_forms(view)
    return replace(outcome, format="sparse", skipped=(*outcome.skipped, *skipped))


def encode_dense(view: ModelView) -> Outcome:
    """Have every weight written dense, also where it was read from a sparse initializer."""
    mark_dense(view)
    return keep_forms(view)


def keep_forms(view: ModelView) -> Outcome:
    """Leave everything as it is, and say what it takes."""
    contents, sparse = read_contents(view), marked_sparse(view)
    sizes = {w.name: _sparse_sizes(w) for w in contents.weights if w.name in sparse}
    rows = [_sparse_row(w, sizes[w.name]) if w.name in sizes else dense_row(w) for w in contents.weights]
    content = sum(sum(sizes[w.name]) if w.name in sizes else w.values.nbytes for w in contents.weights)
    return Outcome(
        format="sparse" if sizes else "dense",
        rows=tuple(rows),
        biases=tuple(map(dense_row, contents.biases)),
        decode_bytes=content + sum(bias.values.nbytes for bias in contents.biases),
        oldest_opset=1,
        skipped=contents.skipped,
    )


def _grid(weight: Weight) -> Grid | None:
    if not weight.is_exact or weight.values.dtype != np.float32:
        return None
    grids = [grid for grid in (weight.grid, weight.channel_grid) if grid is not None]
    return min(grids, key=lambda grid: np.max(np.abs(grid.codes)) > _LARGEST_INT4, default=None)


def _width(grid: Grid, opset: int) -> int:
    return 4 if opset >= _INT4_SINCE and np.max(np.abs(grid.codes)) <= _LARGEST_INT4 else 8


def _dequantize(fragment: Fragment, weight: Weight, grid: Grid, bits: int) -> str:
    dtype = np.dtype(np.int8) if bits == 8 else np.dtype(ml_dtypes.int4)
    codes = grid.codes.reshape(weight.values.shape).astype(np.int8).astype(dtype)
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


def _sparse_sizes(weight: Weight) -> tuple[int, int]:
    """Bytes of the values and of the indices."""
    return weight.values.itemsize * len(weight.positions), index_bytes(weight.flat)


def _sparse_row(weight: Weight, sizes: tuple[int, int]) -> Row:
    return Row(
        layer=weight.name,
        coding="sparse initializer",
        elements=weight.values.size,
        nonzeros=len(weight.positions),
        data_bits=8 * sizes[0],
        index_bits=8 * sizes[1],
    )
