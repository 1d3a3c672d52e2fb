"""Prints pip constraints that pin every dependency to its lowest declared version.

``python lowest_versions.py EXTRA...`` reads the dependencies in pyproject.toml and those of the extras named.
Each must read ``name>=version``, with a version that exists: pip is to install exactly that one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest_versions(requirements: Iterable[str]) -> dict[str, str]:
    """Return the lowest version of each distribution named.

    Raises:
        ValueError: a requirement without a lowest version, or a distribution with two.
    """
    lowest: dict[str, str] = {}
    for requirement in requirements:
        found = re.fullmatch(r"([\w.-]+)>=([\w.]+)(;.*)?", requirement.replace(" ", ""))
        if not found:
            raise ValueError(f"{requirement!r} does not read name>=version")
        name, version = found[1], found[2]
        if lowest.setdefault(name, version) != version:
            raise ValueError(f"{name} is declared from {lowest[name]} on and from {version} on")
    return lowest


def main(extras: list[str]) -> None:
    """Print one constraint a line, or exit with a sentence."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    try:
        lowest = lowest_versions(requirement for group in groups for requirement in group)
    except ValueError as error:
        sys.exit(f"{PYPROJECT}: {error}")
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in lowest.items())


if __name__ == "__main__":
    main(sys.argv[1:])
