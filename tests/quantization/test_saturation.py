"""Steps of a grid by the processor: 127 where sums of 8-bit products saturate."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_admm.pricing.processors import TARGETS, own_processor
from onnx_admm.quantization.saturation import steps_on


@pytest.mark.parametrize(
    ("flags", "machine", "steps"),
    [
        ("sse4_2 avx2 avx512f avx512_vnni", "x86_64", 255),
        ("avx2 avx_vnni", "AMD64", 255),
        ("sse4_2 avx2 avx512f", "x86_64", 127),
        ("asimd fphp", "aarch64", 255),
    ],
)
def test_steps_by_processor_flags(tmp_path: Path, flags: str, machine: str, steps: int) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n", encoding="utf-8")
    assert steps_on(own_processor(file, machine)) == steps


def test_an_x86_whose_flags_are_unknown_counts_as_one_that_saturates(tmp_path: Path) -> None:
    assert steps_on(own_processor(tmp_path / "none", "x86_64")) == 127


def test_steps_by_target() -> None:
    assert {name: steps_on(target) for name, target in TARGETS.items()} == {
        "x86-avx2": 127,
        "x86-avx512": 127,
        "x86-vnni": 255,
        "arm64": 255,
    }


def test_products_of_seven_bits_do_not_saturate_sixteen() -> None:
    assert 2 * 127 * 127 < 2**15 <= 2 * 255 * 127
