"""Shows that the type check looks at every package: a wrong line planted in each, on a copy, is found.

mypy says "success" for a package it never opened, so a green run alone proves nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("onnx_admm", "passes", "cost_models")
CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Exit with a sentence when a planted error goes unnoticed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy2(CHECKOUT / "pyproject.toml", copy)
        if (CHECKOUT / ".mypy_cache").is_dir():  # what is known of numpy and others saves half a minute
            shutil.copytree(CHECKOUT / ".mypy_cache", copy / ".mypy_cache")
        for package in PACKAGES:
            shutil.copytree(CHECKOUT / package, copy / package)
            (copy / package / "planted.py").write_text('planted: int = "not a number"\n')
        checked = subprocess.run(
            [sys.executable, "-m", "mypy"], cwd=copy, capture_output=True, text=True, check=False
        )
    unseen = [name for name in PACKAGES if f"{name}/planted.py:1: error" not in checked.stdout]
    if unseen:
        sys.exit(
            f"mypy missed a type error planted in {', '.join(unseen)}:\n{checked.stdout}{checked.stderr}"
        )
    sys.stdout.write(f"mypy finds a type error planted in {', '.join(PACKAGES)}\n")


if __name__ == "__main__":
    main()
