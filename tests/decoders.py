"""Tiny decoders with a cache of keys and values, as exporters write them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh

from onnx_admm.model import ModelView

HEADS, SIZE, WORDS, ROWS = 3, 8, 50, 96
WIDTH = HEADS * SIZE

_FLOAT, _INT, _BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


def decoder(
    *, layers: int = 1, total: str = "total_sequence_length", positions: bool = True, seed: int = 0
) -> ModelView:
    """A decoder that adds its mask of all tokens to the scores, so that a mask of another length fails.

    Args:
        layers: attention layers, each with a cache of its own.
        total: how the length of the mask is written.
        positions: whether positions are an input (LLaMA) or counted from the cache on (GPT-2).
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {
        "words": rng.standard_normal((WORDS, WIDTH)),
        "places": rng.standard_normal((ROWS, WIDTH)),
        "head": rng.standard_normal((WIDTH, WORDS)) / 4,
    }
    ints = {
        "split": [0, 0, HEADS, SIZE],
        "joined": [0, 0, WIDTH],
        "heads_first": [1, 2],
        "two": 2,
        "one": 1,
        "zero": 0,
    }
    nodes = [oh.make_node("Gather", ["words", "input_ids"], ["x_words"])]
    inputs = [
        _port("input_ids", _INT, ["batch_size", "sequence_length"]),
        _port("attention_mask", _INT, ["batch_size", total]),
    ]
    if positions:
        inputs.append(_port("position_ids", _INT, ["batch_size", "sequence_length"]))
    else:
        nodes += [
            oh.make_node("Shape", ["past_key_values.0.key"], ["n_past1"], start=2, end=3),
            oh.make_node("Shape", ["input_ids"], ["n_new1"], start=1, end=2),
            oh.make_node("Squeeze", ["n_past1"], ["n_past"]),
            oh.make_node("Squeeze", ["n_new1"], ["n_new"]),
            oh.make_node("Add", ["n_past", "n_new"], ["n_all"]),
            oh.make_node("Range", ["n_past", "n_all", "one"], ["position_ids"]),
        ]
    nodes += [
        oh.make_node("Gather", ["places", "position_ids"], ["x_places"]),
        oh.make_node("Add", ["x_words", "x_places"], ["x0"]),
        oh.make_node("Unsqueeze", ["attention_mask", "heads_first"], ["mask4"]),
        oh.make_node("Cast", ["mask4"], ["mask_float"], to=_FLOAT),
    ]
    outputs = [_port("logits", _FLOAT, ["batch_size", "sequence_length", WORDS])]
    for n in range(layers):
        for part in ("q", "k", "v", "o"):
            weights[f"{part}{n}"] = rng.standard_normal((WIDTH, WIDTH)) / 5
        for part in ("q", "k", "v"):
            nodes += [
                oh.make_node("MatMul", [f"x{n}", f"{part}{n}"], [f"{part}_flat{n}"]),
                oh.make_node("Reshape", [f"{part}_flat{n}", "split"], [f"{part}_split{n}"]),
                oh.make_node("Transpose", [f"{part}_split{n}"], [f"{part}_new{n}"], perm=[0, 2, 1, 3]),
            ]
        for part, name in (("k", "key"), ("v", "value")):
            shape = ["batch_size", HEADS, "past_sequence_length", SIZE]
            inputs.append(_port(f"past_key_values.{n}.{name}", _FLOAT, shape))
            outputs.append(_port(f"present.{n}.{name}", _FLOAT, ["batch_size", HEADS, "all", SIZE]))
            joined = [f"past_key_values.{n}.{name}", f"{part}_new{n}"]
            nodes.append(oh.make_node("Concat", joined, [f"present.{n}.{name}"], axis=2))
        nodes += [
            oh.make_node("Transpose", [f"present.{n}.key"], [f"kt{n}"], perm=[0, 1, 3, 2]),
            oh.make_node("MatMul", [f"q_new{n}", f"kt{n}"], [f"scores{n}"]),
            oh.make_node("Add", [f"scores{n}", "mask_float"], [f"masked{n}"]),
            oh.make_node("Softmax", [f"masked{n}"], [f"shares{n}"], axis=-1),
            oh.make_node("MatMul", [f"shares{n}", f"present.{n}.value"], [f"mixed{n}"]),
            oh.make_node("Transpose", [f"mixed{n}"], [f"mixed_back{n}"], perm=[0, 2, 1, 3]),
            oh.make_node("Reshape", [f"mixed_back{n}", "joined"], [f"mixed_flat{n}"]),
            oh.make_node("MatMul", [f"mixed_flat{n}", f"o{n}"], [f"added{n}"]),
            oh.make_node("Add", [f"x{n}", f"added{n}"], [f"x{n + 1}"]),
        ]
    nodes.append(oh.make_node("MatMul", [f"x{layers}", "head"], ["logits"]))
    constants = [nh.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    constants += [nh.from_array(np.array(value, np.int64), name) for name, value in ints.items()]
    graph = oh.make_graph(nodes, "decoder", inputs, outputs, constants)
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return ModelView.from_bytes(model.SerializeToString())


def _port(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return oh.make_tensor_value_info(name, kind, shape)
