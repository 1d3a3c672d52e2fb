"""What is asked of a compression, held against itself before any file is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_admm.errors import UsageError
from onnx_admm.ranges import MOST_MEBIBYTES, MOST_SEED, MOST_THREADS, check_number
from onnx_admm.registry import cost_model
from onnx_admm.targeting.figures import parse_budgets, require_given

if TYPE_CHECKING:
    from onnx_admm.api.compress import Compression


def check_request(job: Compression) -> None:
    """Refuse flags that contradict one another, impossible values, and what needs something that is missing.

    Raises:
        UsageError: names the flags.
    """
    rivals = {
        "--prune": job.prune,
        "--bits": job.bits,
        "--budget": job.budget or None,
        "--epochs": job.epochs,
        "--include": job.include or None,
        "--exclude": job.exclude or None,
    }
    given = [flag for flag, value in rivals.items() if value is not None]
    if job.format != "auto":
        given.append("--format")
    if job.recipe is not None and given:
        raise UsageError(
            "a recipe says what to run, and so do these flags",
            got=f"--recipe and {', '.join(given)}",
            hint="Put the values into the recipe, or leave it out.",
        )
    if job.budget:
        _check_budget(job)
    if job.data is None and job.validation is None and job.max_drop is not None:
        raise UsageError("nothing to measure a drop on", where="--max-drop", hint="Give --data or --val.")
    check_number(job.max_drop, 0, 100, "--max-drop")
    check_number(job.seed, 0, MOST_SEED, "--seed")
    check_number(job.threads, 0, MOST_THREADS, "--threads")
    check_number(job.memory_mb, 1, MOST_MEBIBYTES, "--memory")


def _check_budget(job: Compression) -> None:
    parse_budgets(job.budget)
    rivals = {"--prune": job.prune, "--bits": job.bits}
    given = [flag for flag, value in rivals.items() if value is not None]
    if given:
        raise UsageError(
            "a budget decides how much of each layer, and so do these flags",
            got=f"--budget and {', '.join(given)}",
            hint="Leave one of them out; --budget weights=10x is a limit beside others.",
        )
    if job.cost_model is None:
        raise UsageError(
            "a budget needs a cost model to say what layers cost",
            where="--budget",
            got=", ".join(job.budget),
            hint="Name the target with --cost-model; `onnx-admm plugins` lists them.",
        )
    require_given(parse_budgets(job.budget), cost_model(job.cost_model), "--budget")
