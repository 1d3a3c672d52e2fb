"""The packed form: bit-packed codes, gaps and codebooks, decoded inside the graph by standard operators."""

from __future__ import annotations

from dataclasses import replace

from onnx_admm.contracts import ModelView, Skip
from onnx_admm.encoding.biases import BIAS_SLOTS, RoundedBiases, round_biases
from onnx_admm.encoding.choice import choose_plan
from onnx_admm.encoding.coders.codebook import MOST_LEVELS, Weight
from onnx_admm.encoding.coders.encoding_report import EncodingReport, dense_row
from onnx_admm.encoding.coders.vector_coder import FLOAT8_SINCE, BiasType
from onnx_admm.encoding.contents import Contents, read_contents, zero_biases
from onnx_admm.encoding.large import encode_large, packed_alone
from onnx_admm.model.analysis.shapes import leave_out_implied_shapes
from onnx_admm.model.opsets.convert_opset import raise_opset
from onnx_admm.model.rewrite.insert_fragment import clear_input, insert_fragment
from onnx_admm.model.rewrite.late_lookups import decode_behind_lookups

_PLANNED_FOR = 11
"""Opset that decoders are planned for where the model's is older; only what they use is then required."""


def encode_packed(view: ModelView, bias_type: BiasType | None = None, *, late: bool = True) -> EncodingReport:
    """Store weights and biases packed, in place; outputs stay equal except for rounded biases.

    Where anything is packed, inner shapes that follow from the graph are removed.

    Args:
        view: dense; its opset is raised only as far as the decoders need. Where it cannot be raised, decoders
            are chosen among those it has.
        bias_type: round biases of layers to this type, where that saves bytes; None keeps their values.
        late: decode large tables behind the look-ups of their rows: a runtime never keeps them as floats.
    """
    for name in zero_biases(read_contents(view), view):
        clear_input(view, name, BIAS_SLOTS)
    view.strip_unused()
    contents = read_contents(view)
    encoded = encode_large(view, contents.weights, packed_alone)
    rows = {row.layer: row for row in encoded.rows}
    others = [weight for weight in contents.weights if weight.name not in rows]
    biases = _rounded(contents, bias_type)
    least = FLOAT8_SINCE if bias_type == "float8" else _PLANNED_FOR
    plan = choose_plan(others, biases.rounded, max(view.opset, least), biases.left)
    kept = raise_opset(view, plan.emit(_PLANNED_FOR)[0].oldest_opset)
    if kept is not None:
        plan = choose_plan(others, biases.rounded, view.opset, biases.left)
    fragment, outputs = plan.emit(view.opset)
    insert_fragment(view, fragment, outputs)
    rows |= {row.layer: row for row in plan.rows()}
    looked_up = decode_behind_lookups(view, [row.layer for row in encoded.rows]) if late else ()
    if outputs or encoded.rows:
        leave_out_implied_shapes(view)
    left = sum(weight.nbytes for weight in (*others, *contents.biases) if weight.name not in outputs)
    return EncodingReport(
        format="packed",
        rows=tuple(rows.get(weight.name, dense_row(weight)) for weight in contents.weights),
        biases=tuple(rows.get(bias.name, dense_row(bias)) for bias in contents.biases),
        decode_bytes=fragment.content_bytes + encoded.content_bytes + left,
        oldest_opset=max(fragment.oldest_opset, encoded.oldest_opset),
        looked_up=looked_up,
        skipped=(
            *contents.skipped,
            *biases.skipped,
            *(_skip(weight) for weight in others if weight.name not in rows),
            *_without_newer_decoders(view, kept or encoded.opset_kept),
        ),
    )


def _rounded(contents: Contents, bias_type: BiasType | None) -> RoundedBiases:
    """Return the biases as they are to be stored: together, or each by itself."""
    if bias_type is None:
        return RoundedBiases(contents.biases, (), ())
    roundable = [bias for bias in contents.biases if bias.name in contents.roundable]
    others = tuple(bias for bias in contents.biases if bias.name not in contents.roundable)
    biases = round_biases(roundable, bias_type)
    return replace(biases, left=(*biases.left, *others))


def _without_newer_decoders(view: ModelView, why: str | None) -> tuple[Skip, ...]:
    if why is None:
        return ()
    return (Skip("model", f"the opset stays {view.opset}, so newer decoders cannot be used: {why}"),)


def _skip(weight: Weight) -> Skip:
    if weight.levels is None and weight.channel_grid is None:
        return Skip(weight.name, f"over {MOST_LEVELS} distinct values, on no 8-bit grid: quantise it first")
    return Skip(weight.name, "no packed form is smaller")
