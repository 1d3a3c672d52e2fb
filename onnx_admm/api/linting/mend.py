"""Mends what lint found, by the exact passes that its rules name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnx_admm.api.measure import made_up
from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import LintRule, LintSubject, ModelView, PassContext
from onnx_admm.errors import LimitReached, OnnxAdmmError, OutputError, WorkError
from onnx_admm.lint_rules.run import Found, run_rules
from onnx_admm.measurement.exactness import ExactnessCheck, NotComparable
from onnx_admm.model.rewrite.for_runtime.rules import REWRITES
from onnx_admm.model.rewrite.weight_storage import check_model
from onnx_admm.runtime.children.probe import runs_together

_MOST_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Mended:
    """A mended model.

    Attributes:
        model: the model; the original itself where nothing was done.
        rules: number of changed places, by rule.
        left: what was to be mended and was not, with the reason.
        compared: how the outputs before and after were compared, as a sentence.
    """

    model: ModelView
    rules: dict[str, int] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    compared: str = "not compared, nothing was changed"


def mend(subject: LintSubject, found: Sequence[Found], rules: Sequence[LintRule]) -> Mended:
    """Return the model with everything mended that its rules can mend exactly.

    Each rule's fix is a pass of its own, compared before and after: one that is not exact on this model is
    undone, and the others stay. What a fix brings to light is mended too. At the end the result is compared
    with the original.

    Raises:
        WorkError: the result computes something else than the original.
        OnnxAdmmError: the model cannot be run.
    """
    if not _to_fix(found, rules):
        return Mended(model=subject.model)
    if not subject.refusal:
        runs_together(subject.model, made_up(subject.model, 0))
    now, done = subject, _Done()
    for _ in range(_MOST_ROUNDS):
        model = _fixed(now, _to_fix(found, rules), done)
        if model is None:
            break
        now = replace(now, model=model, refusal="")
        found, _ = run_rules(now, rules)
    left = tuple(dict.fromkeys(done.left))
    if not done.counts:
        return Mended(model=subject.model, left=left)
    try:
        check_model(now.model, "after the fixes")
    except OutputError as error:
        return Mended(model=subject.model, left=(*left, f"all of it: the model stays invalid: {error.what}"))
    compared = _compare(subject, now.model)
    return Mended(model=now.model, rules=dict(done.counts), left=left, compared=compared)


@dataclass
class _Done:
    """What was done so far."""

    counts: Counter[str] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)


def _to_fix(found: Sequence[Found], rules: Sequence[LintRule]) -> list[LintRule]:
    """Return the rules whose fix has something to mend, in the order in which the fixes go."""
    names = {one.rule for one in found if one.finding.is_mended}
    return _ordered([rule for rule in rules if rule.name in names and rule.fix])


def _fixed(subject: LintSubject, fixing: Sequence[LintRule], done: _Done) -> ModelView | None:
    """Return the model after the fixes; None where none of them changed it."""
    model, changed = subject.model, False
    for rule in fixing:
        if rule.fix.get("freeze_defaults"):
            model = model.fork()
            frozen = len(model.freeze_defaults())
            done.counts[rule.name] += frozen
            changed |= bool(frozen)
    context = PassContext(reference=model)
    for rule in fixing:
        if "name" not in rule.fix:
            continue
        try:
            recipe = Recipe.parse({"pass": [_plain(rule)]}, source=f"the fix of {rule.name}")
            result = recipe.pipeline().run(model, context)
        except LimitReached:
            raise
        except OnnxAdmmError as error:
            done.left.append(f"{rule.name}: {error}")
            continue
        report = result.reports[0].report
        if report.changed:
            done.counts[rule.name] += len(report.edits)
            model, changed = result.model, True
        else:
            done.left += [f"{rule.name}: {skip.layer}: {skip.why}" for skip in report.skipped]
    return model if changed else None


def _plain(rule: LintRule) -> dict[str, Any]:
    """Return a fix as a recipe's table."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in rule.fix.items()}


def _ordered(rules: Sequence[LintRule]) -> list[LintRule]:
    """Return rules in the order of their fixes: what makes a file valid first, what others build on next."""
    order = list(REWRITES)

    def place(rule: LintRule) -> int:
        names = rule.fix.get("rules") or ()
        known = [order.index(name) for name in names if name in order]
        return min(known, default=len(order))

    return sorted(rules, key=place)


def _compare(subject: LintSubject, after: ModelView) -> str:
    """Compare the original with the result; return how, as a sentence.

    Raises:
        WorkError: they differ.
    """
    try:
        difference = ExactnessCheck(PassContext(reference=after)).difference(subject.model, after)
    except NotComparable as reason:
        return f"not compared: {reason}"
    if difference is not None:
        raise WorkError(
            "the mended model computes something else, so it was not written",
            got=str(difference),
            hint="This is a fault of a rule: please report it.",
        )
    return "equal before and after, up to rounding, on made-up inputs"
