"""The contract tests of lint rules."""

from __future__ import annotations

from onnx_admm.config.recipe import Recipe
from onnx_admm.contracts import Level, LintRule, LintSubject, ModelView, PassContext, RuntimeTarget
from onnx_admm.errors import OnnxAdmmError
from onnx_admm.lint_rules.run import Found, run_rules
from onnx_admm.measurement.exactness import ExactnessCheck, NotComparable
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.runtime.installed import installed_runtimes
from onnx_admm.testing.contract import demand
from onnx_admm.testing.models import model_family

_TARGET = RuntimeTarget("x86-vnni", block=16)


def check_lint_rule(rule: LintRule) -> None:
    """Check a lint rule's contract.

    It has a name, a level and a docstring; it finds something in its own faulty model and nothing in the
    sound one; it runs on every model of the built-in family; it changes no model; every finding says why and
    what to do. Where it has a fix, the fix mends all findings that it says it mends, and keeps the outputs.

    Raises:
        ContractBroken: names the rule and the requirement.

    Example:
        >>> from onnx_admm.contracts import Finding, Level
        >>> from onnx_admm.testing import check_lint_rule, model_family
        >>> class Relus:
        ...     '''A Relu is there.'''
        ...     name = "relus"
        ...     level = Level.NOTE
        ...     fix = {}
        ...     def check(self, subject):
        ...         for node in subject.model.nodes("Relu"):
        ...             yield Finding((node.name,), "this is a Relu", "leave it")
        ...     def faulty(self):
        ...         return model_family()["no_weights"]
        ...     def sound(self):
        ...         return model_family()["constant_node_weights"]
        >>> check_lint_rule(Relus())
    """
    subject = getattr(rule, "name", type(rule).__name__)
    _check_declaration(rule, subject)
    faulty, sound = _as_subject(rule.faulty()), _as_subject(rule.sound())
    before = fingerprint(faulty.model)
    found = _run(rule, faulty, subject)
    demand(bool(found), subject, "finds something in its faulty model")
    demand(_run(rule, faulty, subject) == found, subject, "finds the same in the same model")
    demand(fingerprint(faulty.model) == before, subject, "leaves the model as it was")
    demand(not _run(rule, sound, subject), subject, "finds nothing in its sound model")
    for name, model in model_family().items():
        _run(rule, _as_subject(model), f"{subject} on {name}")
    if rule.fix and any(one.finding.is_mended for one in found):
        _check_fix(rule, subject, faulty)
    else:
        demand(not rule.fix, subject, "mends what its faulty model has, where it has a fix")


def _check_declaration(rule: LintRule, subject: str) -> None:
    demand(isinstance(rule, LintRule), subject, "has all members of the LintRule protocol")
    demand(isinstance(rule.level, Level), subject, "states a level")
    demand(rule.name.isidentifier() and rule.name.islower(), subject, "has a name in lower case", rule.name)
    demand(bool((type(rule).__doc__ or "").strip()), subject, "has a docstring")


def _as_subject(model: ModelView | LintSubject) -> LintSubject:
    return model if isinstance(model, LintSubject) else LintSubject(model, _TARGET)


def _run(rule: LintRule, subject: LintSubject, case: str) -> tuple[Found, ...]:
    found, unchecked = run_rules(subject, [rule])
    demand(not unchecked, case, "runs", unchecked or None)
    for one in found:
        demand(bool(one.finding.why and one.finding.cure), case, "says why, and what to do", one)
        slowdown = one.finding.slowdown
        demand(slowdown is None or slowdown > 0, case, "gives a positive slowdown, or none", slowdown)
    return found


def _check_fix(rule: LintRule, subject: str, faulty: LintSubject) -> None:
    table = {"pass": [dict(rule.fix)]} if "name" in rule.fix else dict(rule.fix)
    try:
        recipe = Recipe.parse(table, source=f"the fix of {subject}")
        fixed = faulty.model.fork()
        if recipe.freeze_defaults:
            fixed.freeze_defaults()
        fixed = recipe.pipeline().run(fixed, PassContext(reference=faulty.model)).model
    except OnnxAdmmError as error:
        demand(False, subject, "has a fix that works on its faulty model", error)
        return
    left = _run(rule, LintSubject(fixed, faulty.target), subject)
    mended = [one for one in left if one.finding.is_mended]
    demand(not mended, subject, "has a fix that mends what it says", mended or None)
    if not installed_runtimes():
        return
    try:
        difference = ExactnessCheck(PassContext(reference=fixed)).difference(faulty.model, fixed)
    except NotComparable:
        return  # the faulty model does not load: that is what is mended
    demand(difference is None, subject, "has a fix that keeps the outputs", difference)
