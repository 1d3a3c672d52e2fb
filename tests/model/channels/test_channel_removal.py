"""Removing channels equals masking them where they are read, to rounding, whatever passes them on."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from channel_masks import masked, random_masks, removed

from onnx_admm.contracts import ModelView
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.channels.groups import channel_map
from onnx_admm.model.channels.labels import Labels
from onnx_admm.runtime.sessions import open_session

HEAD = '<ir_version: 10, opset_import: ["" : %d]>\ng (float[N,3,8,8] x) => (%s) <%s> {\n%s\n}'
TAIL = "p = GlobalAveragePool (t)\n f = Flatten (p)\n y = Gemm (f, wy)"


def image_net(middle: str, weights: str, classes: int, *, opset: int = 17) -> str:
    """A convolution ``a`` of 12 channels, then ``middle``, which ends in ``t`` of ``classes`` channels."""
    constants = f"float[12,3,3,3] wa, float[12] ba, float[{classes},5] wy{', ' + weights if weights else ''}"
    body = f"a = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)\n {middle}\n {TAIL}"
    return HEAD % (opset, "float[N,5] y", constants, body)


def sequence_net(middle: str, weights: str, *, opset: int = 17) -> str:
    """Rows of 8 numbers, (2, 6, 8), to rows of 5."""
    return (
        f'<ir_version: 10, opset_import: ["" : {opset}]>\n'
        f"g (float[2,6,8] x) => (float[2,6,5] y) <{weights}> {{\n{middle}\n}}"
    )


PASSED_ON = {
    "unary and pools": image_net(
        "b = HardSwish (a)\n c = AveragePool <kernel_shape = [2, 2]> (b)\n t = LeakyRelu (c)", "", 12
    ),
    "normalisations": image_net(
        "b = BatchNormalization (a, s, o, m, v)\n c = InstanceNormalization (b, s, o)\n t = PRelu (c, k)",
        "float[12] s, float[12] o, float[12] m, float[12] v = {1,1,1,1,1,1,2,2,2,2,2,2}, float[12,1,1] k",
        12,
    ),
    "vectors of every rank": image_net(
        "b = Mul (a, k)\n c = Add (q, b)\n d = Sub (c, one)\n t = Div (d, z)",
        "float[12,1,1] k, float[1,12,1,1] q, float one = {0.5}, float[12,8,1] z",
        12,
    ),
    "residual": image_net(
        "r = Relu (a)\n b = Conv <pads = [1, 1, 1, 1]> (r, wb)\n c = Add (b, r)\n"
        " d = Conv <pads = [1, 1, 1, 1]> (c, wc)\n t = Sum (d, c, r)",
        "float[12,12,3,3] wb, float[12,12,3,3] wc",
        12,
    ),
    "concat and slice": image_net(
        "b = Conv (a, wb)\n c = Concat <axis = 1> (a, b, a)\n"
        " st = Constant <value = int64[1] {5}> ()\n en = Constant <value = int64[1] {25}> ()\n"
        " ax = Constant <value = int64[1] {1}> ()\n d = Slice (c, st, en, ax)\n t = Conv (d, wc)",
        "float[7,12,1,1] wb, float[6,20,1,1] wc",
        6,
    ),
    "split": image_net(
        "sizes = Constant <value = int64[2] {5, 7}> ()\n b, c = Split <axis = 1> (a, sizes)\n"
        " d = Conv (b, wb)\n e = Conv (c, wc)\n t = Add (d, e)",
        "float[6,5,1,1] wb, float[6,7,1,1] wc",
        6,
    ),
    "split into equal parts": image_net(
        "b, c = Split <axis = 1> (a)\n d = Sigmoid (c)\n t = Mul (b, d)", "", 6, opset=13
    ),
    "split by attribute": image_net(
        "b, c = Split <axis = 1, split = [4, 8]> (a)\n d = Conv (c, wb)\n t = Add (b, d)",
        "float[4,8,1,1] wb",
        4,
        opset=11,
    ),
    "depthwise": image_net(
        "b = Conv <group = 12> (a, wb, bb)\n t = Conv (b, wc)",
        "float[12,1,3,3] wb, float[12] bb, float[6,12,1,1] wc",
        6,
    ),
    "depthwise with several outputs": image_net(
        "b = Conv <group = 12> (a, wb)\n t = Conv (b, wc)", "float[24,1,3,3] wb, float[6,24,1,1] wc", 6
    ),
    "grouped": image_net(
        "b = Conv <group = 3> (a, wb)\n t = Conv (b, wc)", "float[9,4,3,3] wb, float[6,9,1,1] wc", 6
    ),
    "transposed": image_net(
        "b = ConvTranspose <strides = [2, 2]> (a, wb, bb)\n c = ConvTranspose <group = 2> (b, wc)\n"
        " d = ConvTranspose <group = 6> (c, wd)\n t = Relu (d)",
        "float[12,8,2,2] wb, float[8] bb, float[8,3,2,2] wc, float[6,1,2,2] wd",
        6,
    ),
    "depth to space": image_net(
        'b = DepthToSpace <blocksize = 2, mode = "CRD"> (a)\n c = DepthToSpace <blocksize = 2> (d)\n'
        " t = Concat <axis = 1> (b, c)".replace(" c = ", " d = Conv (a, wd)\n c = "),
        "float[16,12,1,1] wd",
        7,
    ),
    "space to depth": image_net("t = SpaceToDepth <blocksize = 2> (a)", "", 48),
    "shuffle": image_net(
        "s1 = Constant <value = int64[5] {-1, 2, 6, 8, 8}> ()\n b = Reshape (a, s1)\n"
        " c = Transpose <perm = [0, 2, 1, 3, 4]> (b)\n s2 = Constant <value = int64[4] {-1, 12, 8, 8}> ()\n"
        " d = Reshape (c, s2)\n e, h = Split <axis = 1> (d)\n t = Concat <axis = 1> (e, h)",
        "",
        12,
        opset=13,
    ),
    "resize and pad": image_net(
        "sc = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()\n b = Resize (a, , sc)\n"
        " pads = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}> ()\n t = Pad (b, pads)",
        "",
        12,
    ),
    "resize by sizes": image_net(
        "ss = Constant <value = int64[4] {2, 12, 5, 5}> ()\n b = Resize (a, , , ss)\n t = Relu (b)", "", 12
    )
    .replace("float[N,3,8,8]", "float[2,3,8,8]")
    .replace("float[N,5]", "float[2,5]"),
    "gate": image_net(
        "p0 = GlobalAveragePool (a)\n b = Conv (p0, wb)\n c = Relu (b)\n d = Conv (c, wc)\n"
        " e = HardSigmoid (d)\n t = Mul (a, e)",
        "float[4,12,1,1] wb, float[12,4,1,1] wc",
        12,
    ),
    "chosen by indices": image_net(
        "i = Constant <value = int64[5] {11, 2, -3, 7, 2}> ()\n t = Gather <axis = 1> (a, i)", "", 5
    ),
    "group normalisation": image_net(
        "t = GroupNormalization <num_groups = 4> (a, s, o)", "float[12] s, float[12] o", 12, opset=21
    ),
    "weights behind operators": image_net(
        "sh = Constant <value = int64[4] {6, 12, 1, 1}> ()\n w2 = Reshape (wb, sh)\n"
        " w3 = DequantizeLinear <axis = 0> (wq, sq)\n b = Conv (a, w2)\n t = Conv (b, w3)",
        "float[6,12] wb, int8[4,6,1,1] wq = {1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,-5,-6,-7,-8,-9,1,2,3,4,5,6},"
        " float[4] sq = {0.1, 0.2, 0.3, 0.4}",
        4,
    ),
    "neurons": sequence_net(
        "a = MatMul (x, w1)\n b = Add (a, b1)\n c = Gelu (b)\n d = MatMul (c, w2)\n e = Add (x, d)\n"
        " y = MatMul (e, w3)",
        "float[8,16] w1, float[16] b1, float[16,8] w2, float[8,5] w3",
        opset=20,
    ),
    "gated neurons": sequence_net(
        "a = MatMul (x, w1)\n b = MatMul (x, w2)\n c = Sigmoid (a)\n d = Mul (a, c)\n e = Mul (d, b)\n"
        " y = MatMul (e, w3)",
        "float[8,12] w1, float[8,12] w2, float[12,5] w3",
    ),
    "heads": sequence_net(
        "s = Constant <value = int64[4] {2, 6, 4, 3}> ()\n q0 = MatMul (x, wq)\n k0 = MatMul (x, wk)\n"
        " v0 = MatMul (x, wv)\n q1 = Reshape (q0, s)\n k1 = Reshape (k0, s)\n v1 = Reshape (v0, s)\n"
        " q = Transpose <perm = [0, 2, 1, 3]> (q1)\n k = Transpose <perm = [0, 2, 3, 1]> (k1)\n"
        " v = Transpose <perm = [0, 2, 1, 3]> (v1)\n qk = MatMul (q, k)\n"
        " half = Constant <value_float = 0.5> ()\n"
        " sc = Mul (qk, half)\n so = Softmax (sc)\n o = MatMul (so, v)\n"
        " o1 = Transpose <perm = [0, 2, 1, 3]> (o)\n"
        " s2 = Constant <value = int64[3] {0, -1, 12}> ()\n o2 = Reshape (o1, s2)\n y = MatMul (o2, wo)",
        "float[8,12] wq, float[8,12] wk, float[8,12] wv, float[12,5] wo",
    ),
    "heads from one product": sequence_net(
        "s = Constant <value = int64[5] {2, 6, 3, 4, 3}> ()\n a = MatMul (x, w)\n b = Reshape (a, s)\n"
        " c = Transpose <perm = [2, 0, 3, 1, 4]> (b)\n i0 = Constant <value_int = 0> ()\n"
        " i1 = Constant <value_int = 1> ()\n i2 = Constant <value_int = 2> ()\n q = Gather (c, i0)\n"
        " k0 = Gather (c, i1)\n v = Gather (c, i2)\n k = Transpose <perm = [0, 1, 3, 2]> (k0)\n"
        " qk = MatMul (q, k)\n so = Softmax (qk)\n o = MatMul (so, v)\n"
        " o1 = Transpose <perm = [0, 2, 1, 3]> (o)\n s2 = Constant <value = int64[3] {2, 6, 12}> ()\n"
        " o2 = Reshape (o1, s2)\n y = MatMul (o2, wo)",
        "float[8,36] w, float[12,5] wo",
    ),
    "both directions of an LSTM": sequence_net(
        'a, h, c = LSTM <hidden_size = 7, direction = "bidirectional"> (x, w, r, b)\n'
        " t = Transpose <perm = [0, 2, 1, 3]> (a)\n s = Constant <value = int64[3] {0, 0, -1}> ()\n"
        " f = Reshape (t, s)\n y = MatMul (f, wy)",
        "float[2,28,8] w, float[2,28,7] r, float[2,56] b, float[14,5] wy",
    ),
    "GRU behind GRU": sequence_net(
        "a = GRU <hidden_size = 6> (x, w, r)\n s = Squeeze (a, one)\n"
        " b = GRU <hidden_size = 9> (s, w2, r2)\n t = Squeeze (b, one)\n y = MatMul (t, wy)",
        "float[1,18,8] w, float[1,18,6] r, float[1,27,6] w2, float[1,27,9] r2, float[9,5] wy,"
        " int64[1] one = {1}",
    ),
    "shape from the graph": image_net(
        "n = Shape <start = 0, end = 1> (a)\n m = Constant <value = int64[2] {12, 64}> ()\n"
        " s = Concat <axis = 0> (n, m)\n b = Reshape (a, s)\n"
        " back = Constant <value = int64[4] {0, 0, 8, 8}> ()\n t = Reshape (b, back)",
        "",
        12,
    ),
}


def outputs(view: ModelView) -> dict[str, np.ndarray]:
    (port,) = view.signature().inputs
    shape = [extent if isinstance(extent, int) else 3 for extent in port.shape or ()]
    feeds = {port.name: np.random.default_rng(2).standard_normal(shape).astype(np.float32)}
    return dict(open_session(view, threads=1).run(feeds))


@pytest.mark.parametrize("case", PASSED_ON)
def test_removed_equals_masked(case: str) -> None:
    view = parse_text(PASSED_ON[case])
    before = outputs(view)
    channels = channel_map(view)
    last = ("output of the model", "others that stay")  # what is added to an input stays too
    inner = [group for group in channels.groups if not any(why in (group.blocked or "") for why in last)]
    assert inner
    assert all(group.blocked is None for group in inner), [group.blocked for group in inner]
    changed = False
    for seed in range(4):
        keep = random_masks(channels, seed)
        small, plain = removed(view, keep), masked(view, keep)
        assert small.signature() == view.signature()
        expected = outputs(plain)
        for name, values in outputs(small).items():
            scale = float(np.abs(expected[name]).max()) + 1e-6
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-5 * scale)
            changed |= not np.allclose(values, before[name])
        assert len(small.to_bytes()) < len(view.to_bytes()) or all(mask.all() for mask in keep.values())
    assert changed


def test_indices_of_several_axes_keep_their_shape() -> None:
    middle = (
        "i = Constant <value = int64[2,2] {0, 1, 1, 0}> ()\n j = Gather <axis = 1> (a, i)\n"
        " k = ReduceMax <axes = [1, 2], keepdims = 0> (j)\n c = Conv (a, wc)\n t = Add (c, one)"
    )
    text = image_net(middle, "float[6,12,1,1] wc, float one = {0.5}", 6)
    view = parse_text(text.replace("(float[N,5] y)", "(float[N,5] y, float[N,8,8] k)"))
    channels = channel_map(view)
    keep = random_masks(channels, 1)
    assert channels.groups[0].stays.sum() == 2
    small, plain = removed(view, keep), masked(view, keep)
    for name, values in outputs(small).items():
        np.testing.assert_allclose(values, outputs(plain)[name], rtol=0, atol=1e-5)


REFUSED = {
    "an output": (
        image_net("t = Relu (a)", "", 12).replace("(float[N,5] y)", "(float[N,5] y, float[N,12,8,8] a)"),
        "wa",
        "an output of the model",
    ),
    "a softmax": (image_net("t = Softmax <axis = 1> (a)", "", 12), "wa", "mixes channels"),
    "an unknown operator": (image_net("t = LRN <size = 3> (a)", "", 12), "wa", "may not keep channels apart"),
    "a mean over channels": (
        image_net("m = ReduceMean <axes = [1]> (a)\n t = Mul (a, m)", "", 12),
        "wa",
        "mixes channels",
    ),
    "an input": (
        image_net("i = Concat <axis = 1> (x, x, x, x)\n t = Add (a, i)", "", 12),
        "wa",
        "others that stay",
    ),
    "layer normalisation": (
        sequence_net(
            "a = MatMul (x, w1)\n b = LayerNormalization (a, s)\n y = MatMul (b, w2)",
            "float[8,6] w1, float[6] s, float[6,5] w2",
        ),
        "w1",
        "normalises over them together",
    ),
    "a computed product": (
        sequence_net(
            "a = MatMul (x, w1)\n b = MatMul (x, w1)\n bt = Transpose <perm = [0, 2, 1]> (b)\n"
            " c = MatMul (a, bt)\n y = MatMul (c, w2)",
            "float[8,6] w1, float[6,5] w2",
        ),
        "w1",
        "by a computed value",
    ),
    "their number": (
        image_net("n = Shape <start = 1, end = 2> (a)\n c = Cast <to = 1> (n)\n t = Mul (a, c)", "", 12),
        "wa",
        "computes with their number",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_stays_with_its_reason(case: str) -> None:
    text, name, reason = REFUSED[case]
    view = parse_text(text)
    group = next(group for group in channel_map(view).groups if group.name == name)
    assert group.blocked is not None
    assert reason in group.blocked


def test_one_unit_of_every_axis_stays() -> None:
    view = parse_text(PASSED_ON["concat and slice"])
    channels = channel_map(view)
    keep = channels.allowed({i: np.zeros(g.units, np.bool_) for i, g in enumerate(channels.groups)})
    assert all(mask.any() for mask in keep.values())
    assert outputs(removed(view, keep))


def test_heads_are_units_of_queries_keys_values_and_output() -> None:
    channels = channel_map(parse_text(PASSED_ON["heads"]))
    (group,) = (group for group in channels.groups if group.blocked is None)
    assert group.units == 4
    assert [port.weight.name for port in group.writers] == ["wq", "wk", "wv"]
    assert [port.weight.name for port in group.readers] == ["wo"]


REPEATED = {
    "Tile": ("k = Tile (h, r)", "int64[3] r = {1, 1, 200000000}"),
    "Pad": ("k = Pad (h, r)", "int64[6] r = {0, 0, 0, 0, 0, 1000000000}"),
}


@pytest.mark.parametrize("op_type", REPEATED)
def test_channels_are_not_followed_along_any_number_of_positions(op_type: str) -> None:
    node, constant = REPEATED[op_type]
    model = parse_text(f"""
        <ir_version: 8, opset_import: ["" : 17]> g (float[1,3,4] x) => (float[1,3,4] y)
        <float[4,9] a, float[9,4] b, {constant}, int64[1] z = {{0}}, int64[1] e = {{9}}, int64[1] at = {{2}}>
        {{ h = MatMul (x, a) {node} s = Slice (k, z, e, at) y = MatMul (s, b) }}""")
    tracemalloc.start()
    group = next(each for each in channel_map(model).groups if each.name == "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert group.blocked == "more than 16,777,216 positions would have to be followed"
    assert peak < 64 << 20


def test_labels_keep_their_sets_while_their_number_grows() -> None:
    labels = Labels()
    first = labels.fresh(3)
    assert first is not None
    for _ in range(12):
        more = labels.fresh(500)
        assert more is not None
        labels.unite(first, more[:3])
    assert len(labels) == 6003
    assert labels.roots(more[:4]).tolist() == [0, 1, 2, int(more[3])]
