"""What a written file is worth where it is deployed: in another Python, which knows nothing of onnx-admm."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnx_admm.data.readers.preprocessing import Preprocessing


def deployed(
    model: Path, test: Path, preprocessing: Preprocessing | None, python: str | Path
) -> dict[str, Any]:
    """Accuracy and bytes of a file, and the onnxruntime of ``python`` that says so (``deployed.py``)."""
    script, how = Path(__file__).with_name("deployed.py"), asdict(preprocessing) if preprocessing else {}
    command = [str(each) for each in (python, script, model, test)]
    measured = subprocess.run([*command, json.dumps(how)], check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(measured.stdout)
    return figures
