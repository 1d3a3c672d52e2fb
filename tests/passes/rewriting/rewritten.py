"""What tests of rewrites share: apply them, list operators and kernels, compare outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from onnx_admm.contracts import ModelView, PassContext, PassReport
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.passes.exact.rewrite_for_runtime import RewriteForRuntime
from onnx_admm.runtime.sessions import open_session, optimised_model

Arrays = Mapping[str, npt.ArrayLike]


def rewritten(view: ModelView, *rules: str, **settings: int) -> tuple[ModelView, PassReport]:
    """The model behind the pass, with the pass's report."""
    fork = view.fork()
    report = RewriteForRuntime(rules=rules, **settings).run(fork, PassContext(reference=view))
    return fork, report


def operators(view: ModelView) -> list[str]:
    """Operators in alphabetical order, constants left out."""
    return sorted(node.op_type for node in view.nodes() if node.op_type != "Constant")


def kernels(view: ModelView) -> Counter[str]:
    """Operators of the graph that the runtime makes of a model."""
    optimised = onnx.load_from_string(optimised_model(view.to_bytes()))
    return Counter(node.op_type for node in optimised.graph.node)


def assert_same(before: ModelView, after: ModelView, feeds: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Equal outputs, to rounding."""
    expected = open_session(before, threads=1, optimize=False).run(feeds)
    got = open_session(after, threads=1, optimize=False).run(feeds)
    assert expected
    for name, array in expected.items():
        scale = max(1e-6, float(np.abs(array).max()))
        assert np.abs(array - got[name]).max() <= 2e-6 * scale, name


def elementwise(body: str, constants: Arrays, opset: int = 17) -> ModelView:
    """A model of nodes that keep the shape (N, 5, 7)."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net (float[N,5,7] x) => (float[N,5,7] y) {{ {body} }}"""
    return parse_text(text, constants=constants)
