"""Minify: less is said, the same is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CONV_NET

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.minify import Minify
from onnx_admm.runtime.sessions import open_session
from onnx_admm.testing import check_pass

WORDY = """
    <ir_version: 10, opset_import: ["" : 17, "ai.onnx.ml" : 3], producer_name: "a trainer",
     doc_string: "how it was made", metadata_props: ["author" : "somebody"]>
    a_wordy_network (float[N,1,8,8] pixels) => (float[N,2] the_scores)
    <float[2,1,3,3] first_weight, float[2,72] second_weight>
    {
        shape_of_rows = Constant <value = int64[2] {-1, 72}> ()
        convolved = Conv <group = 1, dilations = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0],
                          kernel_shape = [3, 3], auto_pad = "NOTSET"> (pixels, first_weight)
        same = Identity (convolved)
        positive = Relu (same)
        thinned = Dropout (positive)
        rows = Reshape <allowzero = 0> (thinned, shape_of_rows)
        the_scores = Gemm <transB = 1, alpha = 1.0, beta = 1.0> (rows, second_weight)
    }
"""


def shorten(view: ModelView, *, strip_metadata: bool = False) -> tuple[ModelView, PassReport]:
    fork = view.fork()
    return fork, Minify(strip_metadata=strip_metadata).run(fork, PassContext(reference=view))


def outputs(view: ModelView) -> dict[str, np.ndarray]:
    samples = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    return open_session(view, threads=1).run({view.signature().inputs[0].name: samples})


@pytest.mark.parametrize("text", [WORDY, CONV_NET])
def test_outputs_and_signature_stay(text: str) -> None:
    view = parse_text(text)
    short, report = shorten(view)
    assert report.changed
    assert short.signature() == view.signature()
    before, after = outputs(view), outputs(short)
    assert before.keys() == after.keys()
    assert before
    for name in before:
        assert np.array_equal(before[name], after[name])


def test_nothing_is_said_without_need(tmp_path: Path) -> None:
    short, _ = shorten(parse_text(WORDY), strip_metadata=True)
    short.save(tmp_path / "short.onnx")
    proto = onnx.load(tmp_path / "short.onnx")
    assert [node.op_type for node in proto.graph.node] == ["Conv", "Relu", "Reshape", "Gemm"]
    assert not any(node.name or node.doc_string for node in proto.graph.node)
    assert {a.name for node in proto.graph.node for a in node.attribute} == {"transB"}
    inner = {name for node in proto.graph.node for name in (*node.input, *node.output)} - {
        "pixels",
        "the_scores",
    }
    assert inner
    assert all(len(name) == 1 for name in inner)
    assert not proto.graph.value_info
    assert [entry.version for entry in proto.opset_import] == [17]
    assert (proto.producer_name, proto.doc_string, len(proto.metadata_props)) == ("", "", 0)
    # Every byte but those of names is needed: the file is what is left plus nothing.
    assert (tmp_path / "short.onnx").stat().st_size == proto.ByteSize()


def test_metadata_stays_unless_it_is_to_go() -> None:
    view = parse_text(WORDY)
    view.metadata["onnx_admm.passes"] = "fold_batchnorm"
    kept, _ = shorten(view)
    gone, _ = shorten(view, strip_metadata=True)
    assert kept.metadata["author"] == "somebody"
    assert dict(gone.metadata) == {"onnx_admm.passes": "fold_batchnorm"}


def test_a_short_file_stays_short_through_load_and_save(tmp_path: Path) -> None:
    short, _ = shorten(parse_text(WORDY))
    first = short.save(tmp_path / "a.onnx")
    assert ModelView.load(tmp_path / "a.onnx").save(tmp_path / "b.onnx") == first


def test_the_model_it_was_forked_from_keeps_its_names() -> None:
    view = parse_text(CONV_NET)
    before = view.to_bytes()
    shorten(view)
    assert view.to_bytes() == before


def test_many_values_get_names_of_two_letters() -> None:
    chain = "\n".join(f"value_{i + 1} = Relu (value_{i})" for i in range(80))
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
        chain (float[N] value_0) => (float[N] value_81) {{ {chain} value_81 = Abs (value_80) }}"""
    short, _ = shorten(parse_text(text))
    names = [output.name for node in short.nodes() for output in node.outputs]
    assert len(set(names)) == len(names)
    assert sorted({len(name) for name in names[:-1]}) == [1, 2]


def test_subgraphs_still_read_what_lies_around_them() -> None:
    assert check_pass(Minify())["branches"] == "changed"
    assert check_pass(Minify(strip_metadata=True))["branches"] == "changed"


@pytest.mark.parametrize(("share", "changes"), [(0.0, True), (0.1, True), (0.99, False)])
def test_nothing_is_done_where_weights_take_most_of_the_file(share: float, changes: bool) -> None:
    model = parse_text(WORDY)
    report = Minify(least_share=share).run(model, PassContext(reference=model))
    assert report.changed == changes
