"""What the public function `compress` gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx_admm.model.writing.in_memory import ModelProto
from onnx_admm.report import Report


@dataclass(frozen=True)
class Compressed:
    """What `compress` gives back.

    Attributes:
        report: what was gained and what it cost.
        target: the file that was written; None where none was named.
        model: the compressed model, where no target was named; else None, and the file has it.

    Example:
        >>> import onnx_admm
        >>> from onnx_admm.testing import varied_family
        >>> net = varied_family()["chain_of_scales"].to_bytes()
        >>> result = onnx_admm.compress(net, bits=6, threads=1)
        >>> result
        Compressed(in memory: 23,217 to ... bytes, ...x)
        >>> len(result.model.SerializeToString()) == result.report.file_bytes
        True
    """

    report: Report
    target: Path | None = None
    model: ModelProto | None = None

    def __repr__(self) -> str:
        comparison = self.report.comparison
        where = "in memory" if self.target is None else str(self.target)
        size = f"{comparison.before.file_bytes:,} to {comparison.after.file_bytes:,} bytes"
        return f"Compressed({where}: {size}, {comparison.file_ratio:.1f}x)"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()
