"""Comparison of a node's older and newer form on made-up inputs.

Both are run by the ONNX reference implementation, as models of one node and of one fragment. Its operators
are those of the newest opset where it has no older ones; the meaning of older versions of Softmax, Upsample
and the like is therefore implemented here, separately from their conversion.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_grid_sample import GridSample
from onnx.reference.ops.op_roi_align import RoiAlign
from onnx.reference.ops.op_scatter_elements import ScatterElements

from onnx_admm.model.loading.checker import first_line

Array = npt.NDArray[Any]

TOLERANCE = 1e-5
"""Share of the largest output by which the forms may differ; for float16 and bfloat16: their precision."""

_DRAWS = 3
_MOST_ELEMENTS = 1 << 16
_SMALL_EXTENT = 6
_RANKS = (4, 3, 2, 1, 5)
_FILLINGS = (4, 1, 2, 3)


@dataclass(frozen=True)
class Known:
    """Known facts of one input: type, extents (None for unknown ones; None where the rank is), content."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None
    content: Array | None = None


@dataclass(frozen=True)
class Form:
    """Nodes that compute the same outputs from the same inputs, and their opset."""

    nodes: Sequence[onnx.NodeProto]
    opset: int


def difference(older: Form, newer: Form, inputs: Mapping[str, Known]) -> str | None:
    """Return how the newer form differs on made-up inputs; None where it does not.

    Args:
        older: one node.
        newer: the nodes that replace it.
        inputs: inputs of the node, by name.

    Returns:
        A clause such as "gives other values"; "cannot be compared ..." where the older form never runs.
    """
    given = {name for node in newer.nodes for name in node.output}
    outputs = [name for name in older.nodes[0].output if name in given - {""}]
    before = _evaluator(older, inputs, outputs)
    reason = "has no inputs"
    for drawn in _samples(inputs):
        try:
            expected = [_run(before, sample) for sample in drawn]
        except Exception as error:  # noqa: BLE001 - the reference raises whatever numpy does
            reason = first_line(error)
            continue
        if not all(map(_tells, expected)):
            reason = "only empty or infinite outputs"
            continue
        after = _evaluator(newer, inputs, outputs)
        try:
            got = [_run(after, sample) for sample in drawn]
        except Exception as error:  # noqa: BLE001
            return f"fails ({first_line(error)})"
        return next((why for pair in zip(expected, got, strict=True) if (why := _compare(*pair))), None)
    return f"cannot be compared with the older one, which does not run on synthetic inputs ({reason})"


def _tells(outputs: Sequence[Array]) -> bool:
    """Return whether there is anything to compare."""
    return any(array.size for array in outputs) and all(
        array.dtype.kind not in "fc" or bool(np.isfinite(array).all()) for array in outputs
    )


def _evaluator(form: Form, inputs: Mapping[str, Known], outputs: Sequence[str]) -> ReferenceEvaluator:
    infos = [
        onnx.helper.make_tensor_value_info(name, ir.DataType.from_numpy(known.dtype).value, None)
        for name, known in inputs.items()
    ]
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    nodes = [_with_defaults(node, form.opset) for node in form.nodes]
    graph = onnx.helper.make_graph(nodes, "node", infos, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", form.opset)])
    return ReferenceEvaluator(model, new_ops=[op for op in _OLDER if form.opset < op.until])


def _with_defaults(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    """Return the node with its opset's defaults set: the reference uses those of the newest."""
    complete = onnx.NodeProto()
    complete.CopyFrom(node)
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, opset, "").attributes.items():
        if name not in given and attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
            complete.attribute.append(attribute.default_value)
    return complete


def _run(evaluator: ReferenceEvaluator, sample: Mapping[str, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return [np.asarray(array) for array in evaluator.run(None, dict(sample))]


def _compare(expected: Sequence[Array], got: Sequence[Array]) -> str | None:
    for one, other in zip(expected, got, strict=True):
        if one.shape != other.shape:
            return f"gives another shape, {list(other.shape)} and not {list(one.shape)}"
        if one.dtype != other.dtype:
            return f"gives another type, {other.dtype} and not {one.dtype}"
        if not _is_close(one, other):
            return "gives other values"
    return None


def _is_close(one: Array, other: Array) -> bool:
    if one.dtype.kind in "iubOSU":
        return bool(np.array_equal(one, other))
    left, right = (array.astype(np.complex128) for array in (one, other))
    finite = np.isfinite(left)
    if (
        not np.array_equal(left[~finite], right[~finite], equal_nan=True)
        or not np.isfinite(right[finite]).all()
    ):
        return False
    share = TOLERANCE if one.dtype.itemsize >= 4 else 4 * 2.0**-8
    largest = float(np.abs(left[finite]).max(initial=0.0))
    return float(np.abs(left[finite] - right[finite]).max(initial=0.0)) <= share * max(largest, 1e-30)


# -- made-up inputs --------------------------------------------------------------------------


def _samples(inputs: Mapping[str, Known]) -> Iterator[list[dict[str, Array]]]:
    """Yield a few samples for each guess at extents and values; the first keep equal extents equal."""
    ranks = _RANKS if any(known.shape is None for known in inputs.values()) else _RANKS[:1]
    guesses = itertools.product((_SMALL_EXTENT, None), _FILLINGS, ranks, (False, True))
    for cap, filling, rank, positive in guesses:
        shapes = {name: _extents(known, cap, filling, rank) for name, known in inputs.items()}
        if sum(map(math.prod, shapes.values())) > _MOST_ELEMENTS:
            continue
        rng = np.random.default_rng(0)
        yield [
            {name: _draw(known, shapes[name], rng, positive) for name, known in inputs.items()}
            for _ in range(_DRAWS)
        ]


def _extents(known: Known, cap: int | None, filling: int, rank: int) -> tuple[int, ...]:
    if known.content is not None:
        return known.content.shape
    shape = (None,) * rank if known.shape is None else known.shape
    return tuple(
        filling if extent is None else extent if cap is None else min(extent, cap) for extent in shape
    )


def _draw(known: Known, shape: tuple[int, ...], rng: np.random.Generator, positive: bool) -> Array:
    if known.content is not None:
        return known.content
    if known.dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(known.dtype)
    if known.dtype.kind in "OSU":
        return rng.choice(np.array(["a", "b"], object), shape)
    values = rng.normal(0.0, 2.0, shape)
    return (1 + np.abs(values) if positive else values).astype(known.dtype)


# -- what operators were ---------------------------------------------------------------------


class Softmax(OpRun):
    """Softmax before opset 13: on a matrix, all axes before ``axis`` by all from it on."""

    op_domain = ""
    until = 13

    def _run(self, x: Array, axis: int | None = None) -> tuple[Array]:
        axis = (1 if axis is None else axis) % max(1, x.ndim)
        rows = x.reshape(math.prod(x.shape[:axis]), -1)
        return (self.of_rows(rows).reshape(x.shape).astype(x.dtype),)

    @staticmethod
    def of_rows(rows: Array) -> Array:
        """Return the result for each row."""
        raised = np.exp(rows - rows.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


class LogSoftmax(Softmax):
    """LogSoftmax before opset 13; see `Softmax`."""

    @staticmethod
    def of_rows(rows: Array) -> Array:
        """Return the result for each row."""
        return np.asarray(np.log(Softmax.of_rows(rows)))


class Hardmax(Softmax):
    """Hardmax before opset 13; see `Softmax`."""

    @staticmethod
    def of_rows(rows: Array) -> Array:
        """Return the result for each row."""
        return np.asarray(np.arange(rows.shape[1]) == rows.argmax(axis=1)[:, None])


class BatchNormalization(OpRun):
    """BatchNormalization before opset 14: by stored statistics with one output, unlike the reference."""

    op_domain = ""
    until = 14

    def _run(self, x: Array, *parameters: Array, epsilon: float | None = None, **_: object) -> tuple[Array]:
        scale, shift, mean, spread = (p.reshape(-1, *(1,) * (x.ndim - 2)) for p in parameters)
        y = scale * (x - mean) / np.sqrt(spread + (1e-5 if epsilon is None else epsilon)) + shift
        return (y.astype(x.dtype),)


class Resize(OpRun):
    """Resize before opset 11: the place of an output is its number over the scale."""

    op_domain = ""
    until = 11

    def _run(self, x: Array, scales: Array, mode: str | None = None, **_: object) -> tuple[Array]:
        return (self.resized(x, np.asarray(scales, np.float32), mode or "nearest", shrinks=True),)

    @staticmethod
    def resized(x: Array, scales: Array, mode: str, *, shrinks: bool) -> Array:
        """Resize one axis after the other; ``shrinks``: the nearest lies above where an axis shrinks."""
        for axis, scale in enumerate(scales):
            extent = x.shape[axis]
            places = (np.arange(int(np.floor(np.float32(extent) * scale))) / scale).astype(np.float32)
            if mode == "nearest":
                near = np.ceil(places) if shrinks and scale < 1 else np.floor(places)
                x = np.take(x, np.minimum(near.astype(np.int64), extent - 1), axis)
                continue
            low = np.minimum(np.floor(places).astype(np.int64), extent - 1)
            part = (places - low).reshape(-1, *(1,) * (x.ndim - 1 - axis))
            part = np.where(low.reshape(part.shape) == extent - 1, 0, part)
            one, other = np.take(x, low, axis), np.take(x, np.minimum(low + 1, extent - 1), axis)
            x = (one + (other - one) * part).astype(x.dtype)
        return x


class Upsample(OpRun):
    """Upsample until opset 9: a Resize that only enlarges; scales were an attribute first."""

    op_domain = ""
    until = 10

    def _run(self, x: Array, *given: Array, mode: str | None = None, scales: Any = None) -> tuple[Array]:
        factors = np.asarray(given[0] if given else scales, np.float32)
        return (Resize.resized(x, factors, mode or "nearest", shrinks=False),)


class Scatter(ScatterElements):
    """Scatter until opset 10: the former name of ScatterElements."""

    op_domain = ""
    until = 11


def _of_class(base: type[Any], name: str, until: int, **fixed: object) -> type[Any]:
    """Return an operator of the reference implementation whose attributes have other values."""

    def _run(self: Any, *inputs: Array, **attributes: Any) -> Any:
        changed = {
            key: value(attributes.get(key)) if callable(value) else value for key, value in fixed.items()
        }
        return base._run(self, *inputs, **(attributes | changed))

    return type(name, (base,), {"_run": _run, "until": until, "op_domain": ""})


_MODES = {None: "linear", "bilinear": "linear", "bicubic": "cubic"}

_OLDER: tuple[type[Any], ...] = (
    BatchNormalization,
    Softmax,
    LogSoftmax,
    Hardmax,
    Resize,
    Upsample,
    Scatter,
    _of_class(GridSample, "GridSample", 20, mode=lambda mode: _MODES.get(mode, mode)),
    _of_class(RoiAlign, "RoiAlign", 16, coordinate_transformation_mode="output_half_pixel"),
)
