"""What released ONNX Runtimes load and fuse: one table of versions, one of the forms that are written.

Measured on the CPU wheels of each release listed, with a model of each opset, IR version and form. A release
between two listed ones counts as the older of them, a newer one as the last. No operator of ``com.microsoft``
is ever written, so none has a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from onnx_admm.errors import UsageError

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Release:
    """A release of ONNX Runtime.

    Attributes:
        version: its major and minor number.
        opset: newest version of the default operator set that it loads.
        ir_version: newest IR version that it loads.
        ml: newest version of the domain ``ai.onnx.ml`` that it loads, used or not.
    """

    version: Version
    opset: int
    ir_version: int
    ml: int = 5


RELEASES = (
    Release((1, 15), 18, 9, ml=3),
    Release((1, 16), 19, 9, ml=3),
    Release((1, 17), 20, 9, ml=4),
    Release((1, 18), 21, 10),
    Release((1, 19), 21, 10),
    Release((1, 20), 21, 10),
    Release((1, 21), 22, 10),
    Release((1, 22), 22, 10),
    Release((1, 23), 23, 11),
    Release((1, 24), 25, 13),
    Release((1, 25), 26, 13),
    Release((1, 32), 28, 14),
)
"""In order of their versions."""


@dataclass(frozen=True, slots=True)
class RuntimeForm:
    """A form that passes write, as far as it depends on more than its opset.

    Attributes:
        what: the form, as the subject of a sentence in the plural.
        loads: oldest version that loads it.
        fuses: oldest version that makes one kernel of it; None where it needs none, or all do.
    """

    what: str
    loads: Version
    fuses: Version | None = None


INT4, BLOCKED, WEIGHT_ONLY = "int4", "blocked_scales", "weight_only"

FORMS: Mapping[str, RuntimeForm] = {
    INT4: RuntimeForm("int4 weights", (1, 19)),
    BLOCKED: RuntimeForm("scales of blocks", (1, 19), (1, 19)),
    WEIGHT_ONLY: RuntimeForm("dequantised weights of a float Gemm or MatMul", (1, 15), (1, 25)),
}
"""By name. Whatever is not listed loads wherever its opset does: Gelu from opset 20 (1.17), float8 from opset
19 (1.16), LayerNormalization from opset 17 (all). All releases listed fuse integer activations (QLinearConv,
QGemm), and DynamicQuantizeLinear in front of MatMulInteger."""


@dataclass(frozen=True, slots=True)
class OldestRuntime:
    """The oldest ONNX Runtime that a result must run in.

    Attributes:
        text: version as it was given.
        version: major and minor number.
        opset, ir_version, ml: newest ones that it loads, as of a `Release`.
    """

    text: str
    version: Version
    opset: int
    ir_version: int
    ml: int

    def __str__(self) -> str:
        return f"onnxruntime {self.text}"

    def why_not_opset(self, opset: int) -> str | None:
        """Return why a model of that opset does not load, as a clause; None where it does."""
        if opset <= self.opset:
            return None
        since = next((each.version for each in RELEASES if each.opset >= opset), None)
        known = (
            "no known release loads" if since is None else f"onnxruntime {_text(since)} is the first to load"
        )
        return f"{known} opset {opset}, and the result must load in {self.text} (min_runtime)"

    def why_not(self, form: str) -> str | None:
        """Return why a form does not load, as a clause; None where it does."""
        known = FORMS[form]
        if self.version >= known.loads:
            return None
        return f"{known.what} load from onnxruntime {_text(known.loads)} on, not in {self.text} (min_runtime)"

    def why_slow(self, form: str) -> str | None:
        """Return why a form is slow, as a clause; None where it has a kernel."""
        known = FORMS[form]
        if known.fuses is None or self.version >= known.fuses:
            return None
        return (
            f"{known.what} have a kernel from onnxruntime {_text(known.fuses)} on; {self.text} (min_runtime) "
            "dequantises them in every run"
        )


def parse_runtime(text: str, place: str) -> OldestRuntime:
    """Return the runtime of a version such as ``1.17`` or ``1.17.3``.

    Raises:
        UsageError: no version, or one older than the table.
    """
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(\.\d{1,3})?", text.strip(), re.ASCII)
    oldest = RELEASES[0].version
    expected = f"a version of ONNX Runtime from {_text(oldest)} on, such as 1.17"
    if found is None:
        raise UsageError("not a version", where=place, got=repr(text), expected=expected)
    version = int(found[1]), int(found[2])
    known = [release for release in RELEASES if release.version <= version]
    if not known:
        raise UsageError("older than what is known of runtimes", where=place, got=text, expected=expected)
    return OldestRuntime(text.strip(), version, known[-1].opset, known[-1].ir_version, known[-1].ml)


def _text(version: Version) -> str:
    return ".".join(map(str, version))
