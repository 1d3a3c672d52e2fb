"""The processor at hand by its instruction sets, and findings that depend on the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_admm.config.registry import LINT_RULES
from onnx_admm.contracts import LintSubject
from onnx_admm.lint_rules.run import run_rules
from onnx_admm.pricing.processors import TARGETS, find_target, own_processor


@pytest.mark.parametrize(
    ("machine", "flags", "name"),
    [
        ("x86_64", {"avx2", "avx512f", "avx512_vnni"}, "x86-vnni"),
        ("x86_64", {"avx2", "avx_vnni"}, "x86-vnni"),
        ("x86_64", {"avx2", "avx512f"}, "x86-avx512"),
        ("AMD64", set(), "x86-avx2"),
        ("aarch64", {"asimddp"}, "arm64"),
    ],
)
def test_the_processor_at_hand(machine: str, flags: set[str], name: str, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: fpu {' '.join(sorted(flags))}\n", encoding="utf-8")
    assert own_processor(file, machine).name == name


def test_an_unknown_architecture_has_its_own_name(tmp_path: Path) -> None:
    found = own_processor(tmp_path / "none", "riscv64")
    assert (found.name, found.block, found.saturates) == ("riscv64", 4, False)


def test_this_is_one_of_them() -> None:
    assert find_target("this") in TARGETS.values()


@pytest.mark.parametrize(
    ("rule", "target", "found"),
    [
        ("uint8_weights", "x86-vnni", True),
        ("uint8_weights", "x86-avx2", False),
        ("half_precision", "x86-vnni", True),
        ("half_precision", "arm64", False),
        ("int8_activations", "x86-vnni", True),
        ("int8_activations", "arm64", False),
        ("width_off_grid", "x86-vnni", True),
    ],
)
def test_findings_depend_on_the_processor(rule: str, target: str, found: bool) -> None:
    one = LINT_RULES.get(rule)()
    told, _ = run_rules(LintSubject(one.faulty(), TARGETS[target]), [one])
    assert bool(told) is found
