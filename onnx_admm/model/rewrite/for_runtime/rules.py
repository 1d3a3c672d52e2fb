"""The table of rewrites: name, pattern, and whether it is applied by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_admm.model.rewrite.for_runtime.activations import find_gelus, find_hard_sigmoids, find_sigmoids
from onnx_admm.model.rewrite.for_runtime.functions_of_rows import find_functions_of_rows
from onnx_admm.model.rewrite.for_runtime.match import Finder
from onnx_admm.model.rewrite.for_runtime.normalisation.layer_norms import find_layer_norms
from onnx_admm.model.rewrite.for_runtime.one_hot import find_one_hot_products
from onnx_admm.model.rewrite.for_runtime.pooling import find_maxima_behind_functions, find_means_over_places
from onnx_admm.model.rewrite.for_runtime.quantised.activation_types import (
    find_int8_activations,
    find_views_behind_dequantise,
)
from onnx_admm.model.rewrite.for_runtime.quantised.dequantise_at_load import find_unfused_weights
from onnx_admm.model.rewrite.for_runtime.quantised.integer_weights import (
    find_blocks_of_512,
    find_int8_conv_integers,
    find_missing_zero_points,
    find_narrow_two_bit_weights,
    find_uint8_weights,
)
from onnx_admm.model.rewrite.for_runtime.quantised.linear_layers import (
    find_bias_scales,
    find_float_biases,
    find_relus_behind_weights,
    find_row_biases,
    find_transposed_weights,
)
from onnx_admm.model.rewrite.for_runtime.slices import find_whole_slices
from onnx_admm.model.rewrite.for_runtime.storage import (
    find_scales_of_channels,
    find_unused_constants,
    find_wrong_shapes,
)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One rewrite.

    Attributes:
        find: yields its places.
        is_default: whether it is applied unless others are named: only where that was measured to pay, in
            front of the encoding as behind it.
    """

    find: Finder
    is_default: bool = True


REWRITES: Mapping[str, Rewrite] = {
    "per_channel_opset": Rewrite(find_scales_of_channels),
    "wrong_shapes": Rewrite(find_wrong_shapes),
    "unused_constants": Rewrite(find_unused_constants),
    "two_bit_weights": Rewrite(find_narrow_two_bit_weights),
    "blocks_of_512": Rewrite(find_blocks_of_512),
    "missing_zero_point": Rewrite(find_missing_zero_points),
    "uint8_weights": Rewrite(find_uint8_weights),
    "int8_conv_integer": Rewrite(find_int8_conv_integers),
    "int8_activations": Rewrite(find_int8_activations),
    "view_behind_dequantise": Rewrite(find_views_behind_dequantise),
    "transposed_weight": Rewrite(find_transposed_weights),
    "row_bias": Rewrite(find_row_biases),
    "bias_scale": Rewrite(find_bias_scales),
    "float_bias": Rewrite(find_float_biases),
    "relu_after_weight": Rewrite(find_relus_behind_weights),
    "unfused_weight": Rewrite(find_unfused_weights),
    "whole_slice": Rewrite(find_whole_slices),
    "one_hot_product": Rewrite(find_one_hot_products),
    "gelu": Rewrite(find_gelus),
    "layer_norm": Rewrite(find_layer_norms),
    "hard_sigmoid": Rewrite(find_hard_sigmoids),
    "sigmoid": Rewrite(find_sigmoids),
    "mean_over_places": Rewrite(find_means_over_places, is_default=False),
    "maximum_behind_function": Rewrite(find_maxima_behind_functions),
    "function_of_rows": Rewrite(find_functions_of_rows, is_default=False),  # else no coder finds the table
}
"""By name, in the order in which they are applied: what one makes, a later one may read."""
