"""Rows of X times the weight's matrix are what the operator computes, bias aside."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_admm.calibration.layer_inputs import extractor_of
from onnx_admm.calibration.row_sampling import SampledRows
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.model.rewrite.expose_values import expose_values, weight_uses
from onnx_admm.runtime.sessions import open_session

ALL = 1 << 20


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def axes(rank: int) -> str:
    """That many symbolic extents."""
    return ", ".join("abcdef"[:rank])


def design_and_output(
    text: str, feeds: dict[str, np.ndarray], *, site: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of X times W', (group, n, rows of a group), and what the node computed."""
    view = parse_text(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    chosen = view.sites()[site]
    use = weight_uses(view, chosen)[0]
    extractor = extractor_of(chosen, use)
    assert extractor is not None
    rows = extractor.input_rows(feeds, SampledRows(ALL, (0,)))
    layout = extractor.layout
    matrix = layout.matrix(view.read(chosen))
    np.testing.assert_array_equal(layout.tensor(matrix), view.read(chosen))
    blocks = matrix.reshape(layout.group, -1, layout.columns)
    output = next(iter(open_session(expose_values(view, [use.node.outputs[0].name])).run(feeds).values()))
    return rows @ np.swapaxes(blocks, 1, 2), output


def channels_last(output: np.ndarray, group: int) -> np.ndarray:
    """(n, c, *spatial) as (group, n * positions, c / group)."""
    flat = np.moveaxis(output.reshape(*output.shape[:2], -1), 1, 2).reshape(-1, output.shape[1])
    return np.moveaxis(flat.reshape(len(flat), group, -1), 1, 0)


CONVOLUTIONS = {
    "plain": ("[6, 4, 3, 3]", "pads = [1, 1, 1, 1]", (4, 7, 6), 1),
    "strided and dilated": (
        "[6, 4, 3, 2]",
        "strides = [2, 1], dilations = [1, 2], pads = [0, 1, 2, 0]",
        (4, 9, 8),
        1,
    ),
    "grouped": ("[6, 2, 3, 3]", "group = 2, pads = [1, 0, 0, 1]", (4, 5, 6), 2),
    "depthwise": ("[4, 1, 3, 3]", "group = 4", (4, 5, 6), 4),
    "same upper": ("[3, 4, 4, 3]", 'auto_pad = "SAME_UPPER", strides = [2, 2]', (4, 7, 6), 1),
    "same lower": ("[3, 4, 4, 3]", 'auto_pad = "SAME_LOWER", strides = [2, 3]', (4, 7, 6), 1),
    "one axis": ("[5, 4, 3]", "pads = [1, 1]", (4, 9), 1),
    "three axes": ("[2, 3, 2, 2, 2]", "strides = [1, 2, 1]", (3, 4, 4, 3), 1),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: str, rng: np.random.Generator) -> None:
    weight, attributes, extents, group = CONVOLUTIONS[case]
    shape = ", ".join(map(str, ("n", *extents)))
    x = rng.normal(size=(3, *extents)).astype(np.float32)
    products, output = design_and_output(
        f"g (float[{shape}] x) => (float[{axes(1 + len(extents))}] y) <float{weight} w>"
        f" {{ y = Conv<{attributes}>(x, w) }}",
        {"x": x},
    )
    np.testing.assert_allclose(products, channels_last(output, group), rtol=1e-4, atol=1e-4)


TRANSPOSED = {
    "plain": ("[4, 6, 3, 3]", "", (4, 5, 4), 1),
    "strided": (
        "[4, 6, 3, 2]",
        "strides = [2, 3], pads = [1, 0, 0, 1], output_padding = [1, 0]",
        (4, 5, 4),
        1,
    ),
    "grouped and dilated": ("[4, 3, 3, 3]", "group = 2, dilations = [2, 1], strides = [2, 2]", (4, 5, 4), 2),
    "same upper": ("[4, 2, 3, 3]", 'auto_pad = "SAME_UPPER", strides = [2, 2]', (4, 5, 4), 1),
    "output shape": ("[4, 2, 4, 4]", "strides = [2, 2], output_shape = [9, 9]", (4, 4, 4), 1),
    "one axis": ("[4, 2, 5]", "strides = [3], pads = [1, 2]", (4, 6), 1),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolution(case: str, rng: np.random.Generator) -> None:
    weight, attributes, extents, group = TRANSPOSED[case]
    shape = ", ".join(map(str, ("n", *extents)))
    x = rng.normal(size=(2, *extents)).astype(np.float32)
    attributes = f"<{attributes}>" if attributes else ""
    products, output = design_and_output(
        f"g (float[{shape}] x) => (float[{axes(1 + len(extents))}] y) <float{weight} w>"
        f" {{ y = ConvTranspose{attributes}(x, w) }}",
        {"x": x},
    )
    np.testing.assert_allclose(products, channels_last(output, group), rtol=1e-4, atol=1e-4)


PRODUCTS = {
    "matmul": ("[n, 5, 4]", "[4, 6]", "MatMul(x, w)", (3, 5, 4), False),
    "matmul, weight first": ("[n, 4, 5]", "[6, 4]", "MatMul(w, x)", (3, 4, 5), True),
    "matmul of a vector": ("[4]", "[4, 6]", "MatMul(x, w)", (4,), False),
    "matmul of a vector, weight first": ("[4]", "[6, 4]", "MatMul(w, x)", (4,), False),
    "gemm": ("[n, 4]", "[4, 6]", "Gemm<alpha = 0.5>(x, w)", (3, 4), False),
    "gemm, weight turned": ("[n, 4]", "[6, 4]", "Gemm<transB = 1>(x, w)", (3, 4), False),
    "gemm, input turned": ("[4, n]", "[4, 6]", "Gemm<transA = 1>(x, w)", (4, 3), False),
    "gemm, weight first": ("[4, n]", "[6, 4]", "Gemm(w, x)", (4, 3), True),
    "gemm, weight first, both turned": (
        "[n, 4]",
        "[4, 6]",
        "Gemm<transA = 1, transB = 1>(w, x)",
        (3, 4),
        True,
    ),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case: str, rng: np.random.Generator) -> None:
    given, weight, call, extents, across = PRODUCTS[case]
    x = rng.normal(size=extents).astype(np.float32)
    products, output = design_and_output(
        f"g (float{given} x) => (float[{axes(len(extents))}] y) <float{weight} w> {{ y = {call} }}", {"x": x}
    )
    expected = np.swapaxes(output, -1, -2) if across else output
    np.testing.assert_allclose(products[0], expected.reshape(-1, expected.shape[-1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_steps_are_rebuilt_from_both_matrices(direction: str, rng: np.random.Generator) -> None:
    """h = tanh(x W' + h_before R'): an RNN's outputs follow from the rows of both of its matrices."""
    d = 2 if direction == "bidirectional" else 1
    view = parse_text(
        '<ir_version: 10, opset_import: ["" : 21]>\n'
        f"g (float[7, n, 3] x, float[{d}, n, 4] h) => (float[7, {d}, n, 4] y)"
        f" <float[{d}, 4, 3] w, float[{d}, 4, 4] r>"
        f' {{ y, last = RNN<hidden_size = 4, direction = "{direction}">(x, w, r, , , h) }}'
    )
    feeds = {
        "x": rng.normal(size=(7, 2, 3)).astype(np.float32),
        "h": rng.normal(size=(d, 2, 4)).astype(np.float32),
    }
    feeds["y"] = open_session(view).run(feeds)["y"]  # (7, d, n, 4)
    total = np.zeros((d, 14, 4))
    assert len(view.sites()) == 2
    for site in view.sites():
        extractor = extractor_of(site, weight_uses(view, site)[0])
        assert extractor is not None
        rows = extractor.input_rows(feeds, SampledRows(ALL, (0,)))
        matrix = extractor.layout.matrix(view.read(site)).reshape(d, 4, -1)
        total += rows @ np.swapaxes(matrix, 1, 2)
    expected = np.moveaxis(feeds["y"], 1, 0).reshape(d, 14, 4)
    np.testing.assert_allclose(np.tanh(total), expected, rtol=1e-4, atol=1e-5)


def test_entries_of_a_table_weigh_as_often_as_they_are_looked_up() -> None:
    view = parse_text(
        '<ir_version: 10, opset_import: ["" : 21]>\n'
        "g (int64[n, 2] ids) => (float[n, 2, 6] e) <float[9, 6] table> { e = Gather(table, ids) }"
    )
    site = view.sites()[0]
    extractor = extractor_of(site, weight_uses(view, site)[0])
    assert extractor is not None
    layout = extractor.layout
    assert (layout.group, layout.rows, layout.columns, layout.together) == (9, 54, 1, 6)
    np.testing.assert_array_equal(layout.tensor(layout.matrix(view.read(site))), view.read(site))
    ids = np.array([[0, 0], [0, 3], [-1, 3]] * 100)
    rows = extractor.input_rows({"ids": ids}, SampledRows(ALL, (0,)))
    assert rows.shape == (9, 1, 1)
    energy = np.square(rows[:, 0, 0])
    np.testing.assert_allclose(energy[[0, 3, 8]], [300, 200, 100], rtol=0.01)
    unmet = energy[[1, 2, 4, 5, 6, 7]]
    np.testing.assert_allclose(unmet, 600 / 9 * 0.01)


def test_rows_are_drawn_without_repetition(rng: np.random.Generator) -> None:
    view = parse_text(
        '<ir_version: 10, opset_import: ["" : 21]>\n'
        "g (float[n, 4] x) => (float[n, 6] y) <float[4, 6] w> { y = MatMul(x, w) }"
    )
    extractor = extractor_of(view.sites()[0], weight_uses(view, view.sites()[0])[0])
    assert extractor is not None
    x = rng.normal(size=(50, 4)).astype(np.float32)
    drawn = extractor.input_rows({"x": x}, SampledRows(20, (1,)))[0]
    assert drawn.shape == (20, 4)
    assert len({row.tobytes() for row in drawn}) == 20


def test_what_has_no_rows_is_not_an_extractor() -> None:
    view = parse_text(
        '<ir_version: 10, opset_import: ["" : 21]>\n'
        "g (int64[n] ids, float[n, 2, 4, 5] s) => (float[9, n] e, float[n, 2, 4, 3] y)"
        " <float[9, 6] table, float[2, 5, 3] w>"
        " { e = Gather<axis = 1>(table, ids)\n y = MatMul(s, w) }"
    )
    assert [extractor_of(site, weight_uses(view, site)[0]) for site in view.sites()] == [None, None]
