"""Write calibration samples for magika: byte tokens of files of many kinds.

    python benchmarks/prepare_files.py OUT.npz FOLDER [FOLDER ...] [--count 512] [--seed 0]
        [--without TEST.npz]

Takes as evenly as it can from every file name ending found under the folders. A sample is 2,048 tokens: the
first 1,024 bytes of the file's first 4,096 without leading white space, padded with 256 at the end, and the
last 1,024 of its last 4,096 without trailing white space, padded in front. Samples of TEST.npz (`bytes`) are
left out.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HALF = 1024
_BLOCK = 4096
_PADDING = 256


def tokens(content: bytes) -> npt.NDArray[np.int32]:
    """The 2,048 tokens of one file."""
    row = np.full(2 * _HALF, _PADDING, np.int32)
    head = content[:_BLOCK].lstrip()[:_HALF]
    tail = content[-_BLOCK:].rstrip()[-_HALF:]
    row[: len(head)] = np.frombuffer(head, np.uint8)
    row[len(row) - len(tail) :] = np.frombuffer(tail, np.uint8)
    return row


def by_ending(folders: list[Path]) -> dict[str, list[Path]]:
    """Regular files under the folders, by the end of their names."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in sorted(names):
                path = Path(place) / name
                if path.is_file() and not path.is_symlink() and path.stat().st_size > 0:
                    found[path.suffix.lower()].append(path)
    return found


def draw(found: dict[str, list[Path]], count: int, rng: np.random.Generator) -> list[Path]:
    """``count`` files, one from each ending in turn."""
    piles = [list(rng.permutation(np.array(paths, dtype=object))) for _, paths in sorted(found.items())]
    chosen: list[Path] = []
    while piles and len(chosen) < count:
        for index in rng.permutation(len(piles)):
            if len(chosen) < count:
                chosen.append(piles[index].pop())
        piles = [pile for pile in piles if pile]
    return chosen


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", type=Path, help="samples that are to be measured on")
    arguments = parser.parse_args()
    chosen = draw(by_ending(arguments.folders), arguments.count, np.random.default_rng(arguments.seed))
    rows = [tokens(path.read_bytes()) for path in chosen]
    if arguments.without is not None:
        measured = {row.astype(np.int32).tobytes() for row in np.load(arguments.without)["bytes"]}
        rows = [row for row in rows if row.tobytes() not in measured]
    np.savez(arguments.out, bytes=np.stack(rows))


if __name__ == "__main__":
    main()
