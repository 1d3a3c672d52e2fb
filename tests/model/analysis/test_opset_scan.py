"""Every standard operator whose version changes from opset 7 on, converted and run in both forms."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
import pytest
from opset_cases import Case, cases

from onnx_admm.errors import UnsupportedModel, WorkError
from onnx_admm.model import ModelView, convert_opset
from onnx_admm.runtime.sessions import open_session

TARGETS = (9, 10, 11, 13, 18, 21)
NEWEST = TARGETS[-1]
"""What the runtime of the tests reads."""

BY_OPERATOR: dict[str, list[Case]] = defaultdict(list)
for _case in cases():
    BY_OPERATOR[_case.op_type].append(_case)


VERSIONS: dict[str, list[int]] = defaultdict(list)
"""The opsets at which an operator's version changes."""

for _schema in onnx.defs.get_all_schemas_with_history():
    if _schema.domain == "":
        VERSIONS[_schema.name].append(_schema.since_version)


def test_every_operator_that_changes_has_a_case() -> None:
    changed = {name for name, since in VERSIONS.items() if len(since) > 1 and any(7 < v <= 20 for v in since)}
    random = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    structure = {"Constant", "If", "Loop", "Optional", "OptionalGetElement", "OptionalHasElement", "Scan"}
    others = {  # deprecated at once, a loss, or with no kernel in the runtime of the tests
        "RandomUniformLike", "GroupNormalization", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss",
        "MaxRoiPool", "MaxUnpool", "DeformConv", "QLinearMatMul", "Attention", "SplitToSequence", "Range",
        "SequenceMap",
    }  # fmt: skip
    assert len(changed) > 100
    assert changed - BY_OPERATOR.keys() <= random | structure | others


@pytest.mark.parametrize("op_type", sorted(BY_OPERATOR))
def test_a_conversion_keeps_the_values(op_type: str) -> None:
    compared = 0
    for case in BY_OPERATOR[op_type]:
        starts = {max(7, case.since), *VERSIONS[op_type]}
        for start in sorted(s for s in starts if case.since <= s <= min(case.until, NEWEST)):
            view = ModelView.from_bytes(case.model(start))
            try:
                expected = open_session(view, threads=1, optimize=False).run(case.feeds)
            except (
                UnsupportedModel,
                WorkError,
            ):  # the runtime's kernel of that opset does not take what the operator does
                continue
            for target in (target for target in TARGETS if target > start):
                converted = convert_opset(view, at_least=target)
                assert converted.opset == target
                assert converted.signature() == view.signature()
                got = open_session(converted, threads=1, optimize=False).run(case.feeds)
                for name, array in expected.items():
                    assert got[name].dtype == array.dtype
                    np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6, err_msg=f"{case}")
                compared += 1
    assert compared or max(VERSIONS[op_type]) > NEWEST
