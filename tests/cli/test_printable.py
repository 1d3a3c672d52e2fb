"""Names from files never act on the terminal: in errors, tables, lines and progress bars."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import RunCommand
from rich.console import Console

import onnx_admm.cli
import onnx_admm.report
from onnx_admm.cli.console import show
from onnx_admm.cli.progress_bars import TerminalProgress
from onnx_admm.printable import printable
from onnx_admm.report.plain_table import PlainTable

HOSTILE = "w\x1b[2J\nall 0\r\x07\x9b1m\u202eabc\u2066\u200b[red]:smile:[/nothing]"
ESCAPED = r"w\x1b[2J\nall 0\r\x07\x9b1m\u202eabc\u2066\u200b[red]:smile:[/nothing]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOSTILE, ESCAPED),
        ("plain name/0.weight", "plain name/0.weight"),
        ("Gewicht für λ 层 🙂", "Gewicht für λ 层 🙂"),
        ("\udcff", r"\udcff"),
        ("\u2028\u2029\x85\xa0", r"\u2028\u2029\x85\xa0"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def hostile_model(folder: Path) -> Path:
    """Save a model whose weight, node and operator domain have a hostile name."""
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), HOSTILE)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", HOSTILE], ["y"], HOSTILE)],
        HOSTILE,
        [onnx.helper.make_tensor_value_info("x", 1, [1, 4])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 4])],
        [weight],
    )
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def test_in_the_table_of_a_model(run: RunCommand, tmp_path: Path) -> None:
    code, out, _ = run("inspect", hostile_model(tmp_path))
    assert code == 0
    assert ESCAPED in out
    assert out.count("\n") == 4  # summary, header, the layer, the sum
    assert out.replace("\n", "").isprintable()


def test_in_the_table_of_costs(run: RunCommand, tmp_path: Path) -> None:
    code, out, _ = run("inspect", hostile_model(tmp_path), "--cost-model", "macs")
    assert code == 0
    assert ESCAPED in out
    assert out.replace("\n", "").isprintable()


def test_in_errors(run: RunCommand, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((4, 4), np.float32))
    (tmp_path / "d.npz").rename(tmp_path / f"{HOSTILE.replace('/', '')}.npz")
    data = tmp_path / f"{HOSTILE.replace('/', '')}.npz"
    data.write_bytes(b"damaged")
    code, out, err = run("compress", hostile_model(tmp_path), tmp_path / "out.onnx", "--data", data)
    assert (code, out) == (2, "")
    assert ESCAPED.replace("/", "") in err
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()


def test_in_the_verbose_report_of_a_compression(run: RunCommand, tmp_path: Path) -> None:
    code, out, err = run("compress", hostile_model(tmp_path), tmp_path / "out.onnx", "-v")
    assert code == 0, err
    assert ESCAPED in out
    assert out.replace("\n", "").isprintable()


def test_in_progress_bars() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=300, color_system=None)
    with TerminalProgress(console).task(HOSTILE, 2) as task:
        task.advance(note=HOSTILE)
    shown = text.getvalue()
    assert ESCAPED in shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown


def test_text_is_no_markup_and_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    table = PlainTable(HOSTILE)
    table.add_row(HOSTILE)
    show([HOSTILE, table])
    assert capsys.readouterr().out.split("\n") == [ESCAPED] * 3 + [""]


def test_views_make_text_and_tables_by_the_functions_that_escape() -> None:
    """Reads the sources of the views: ``rich``'s own text and table are imported in one module alone."""
    packages = [Path(package.__file__ or "").parent for package in (onnx_admm.report, onnx_admm.cli)]
    files = [file for package in packages for file in package.rglob("*.py")]
    assert len(files) > 10
    direct = {
        file.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module in ("rich.text", "rich.table", "rich.markup")
    }
    assert direct == {"plain_table.py"}
