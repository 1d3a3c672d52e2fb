"""The contract tests of passes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from onnx_admm.contracts import Feeds, ModelView, Pass, PassContext, PortSpec
from onnx_admm.errors import OnnxAdmmError, WorkError
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.pipeline import UNDONE, Pipeline, PipelineResult
from onnx_admm.runtime.equivalence import TOLERANCE, TOLERANCE_16
from onnx_admm.runtime.installed import installed_runtimes
from onnx_admm.runtime.sessions import open_session
from onnx_admm.testing.contract import demand
from onnx_admm.testing.models import model_family


def check_pass(
    step: Pass,
    models: Mapping[str, ModelView] | None = None,
    context: Callable[[ModelView], PassContext] | None = None,
) -> dict[str, str]:
    """Check a pass's contract on every model of a family.

    The result is valid and has the same inputs and outputs; the input model does not change; the same seed
    gives the same model; ``changed`` is true to fact; figures can be written as JSON; a second run of an
    idempotent pass changes nothing; running twice equals saving and loading in between; an exact pass keeps
    the outputs (where a runtime is installed); a refusal is a named error.

    Args:
        step: the pass, with its settings.
        models: models by name; the built-in family if None.
        context: returns the context for a model; without data and trainer if None.

    Returns:
        By model: ``changed``, ``unchanged`` or the message of its refusal.

    Raises:
        ContractBroken: names the pass, the model and the requirement.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> from onnx_admm.contracts import Edit, PassReport
        >>> from onnx_admm.testing import check_pass
        >>> @dataclass(frozen=True)
        ... class Cut:
        ...     '''Sets weights below ``limit`` to zero.'''
        ...     name: ClassVar[str] = "cut"
        ...     idempotent: ClassVar[bool] = True
        ...     exact: ClassVar[bool] = False
        ...     limit: float = 0.05
        ...     def requires(self, model, context):
        ...         pass
        ...     def run(self, model, context):
        ...         edits = []
        ...         for site in (site for site in model.sites() if site.editable):
        ...             weights = model.read(site)
        ...             small = (abs(weights) < self.limit) & (weights != 0)
        ...             if small.any():
        ...                 model.replace(site, weights * ~small)
        ...                 edits.append(Edit(site.name, f"{small.sum()} weights are zero now"))
        ...         return PassReport(changed=bool(edits), edits=tuple(edits))
        >>> outcomes = check_pass(Cut())
        >>> outcomes["conv_net"], outcomes["no_weights"]
        ('changed', 'unchanged')
    """
    check_declaration(step)
    make = context or (lambda model: PassContext(reference=model))
    family = model_family() if models is None else models
    return {
        name: _check(step, f"{step.name} on {name}", model, make(model)) for name, model in family.items()
    }


def check_declaration(step: Pass) -> None:
    """Check a pass's declaration: a frozen dataclass with a name, a one-line description and two flags.

    Raises:
        ContractBroken: names the missing part.
    """
    cls = type(step)
    subject = getattr(cls, "name", cls.__name__)
    parameters = getattr(cls, "__dataclass_params__", None)
    demand(parameters is not None and parameters.frozen, subject, "is a frozen dataclass")
    demand(isinstance(step, Pass), subject, "has all members of the Pass protocol")
    for flag in ("idempotent", "exact"):
        demand(isinstance(getattr(step, flag), bool), subject, f"says {flag} as True or False")
    generated = f"{cls.__name__}("
    demand(not (cls.__doc__ or generated).startswith(generated), subject, "has a docstring")


def _check(step: Pass, subject: str, model: ModelView, context: PassContext) -> str:
    before = fingerprint(model)
    once = _run([step], subject, model, context)
    again = _run([step], subject, model, context)
    demand(fingerprint(model) == before, subject, "leaves the given model as it was")
    if isinstance(once, str) or isinstance(again, str):
        demand(once == again, subject, "refuses the same model with the same sentence", (once, again))
        return str(once)
    for entry in (*once.reports, *again.reports):
        undone = entry.report.figures.get(UNDONE)
        demand(undone is None, subject, "is exact: outputs stay", undone)
    after = fingerprint(once.model)
    demand(after == fingerprint(again.model), subject, "gives the same model for the same seed")
    _check_figures(subject, once)
    twice = _run([step, step], subject, model, context)
    _check_second_run(step, subject, once, twice)
    if not isinstance(twice, str):
        _check_cut(step, subject, once, twice, context)
    if step.exact and installed_runtimes():
        _check_outputs(subject, model, once.model)
    return "changed" if once.changed else "unchanged"


def _run(steps: list[Pass], subject: str, model: ModelView, context: PassContext) -> PipelineResult | str:
    """Return the result, or the message of a refusal."""
    try:
        return Pipeline(steps).run(model, context)
    except OnnxAdmmError as error:
        # A pipeline reports a pass that failed or broke its contract by a bare WorkError.
        demand(type(error) is not WorkError, subject, "works or refuses with a named error", error)
        demand(bool(error.what), subject, "says why it refuses")
        return f"refused: {error.what}"


def _check_figures(subject: str, result: PipelineResult) -> None:
    for entry in result.reports:
        try:
            json.dumps(dict(entry.report.figures), allow_nan=False)
        except (TypeError, ValueError) as error:
            demand(False, subject, "reports figures that are JSON", error)


def _check_second_run(step: Pass, subject: str, once: PipelineResult, twice: PipelineResult | str) -> None:
    if not step.idempotent:
        return
    if isinstance(twice, str):
        demand(False, subject, "is idempotent: a second run changes nothing", twice)
    elif once.changed:
        demand(not twice.reports[1].report.changed, subject, "is idempotent: a second run changes nothing")


def _check_cut(
    step: Pass, subject: str, once: PipelineResult, twice: PipelineResult, context: PassContext
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.onnx"
        once.model.save(path)
        resumed = _run([step], subject, ModelView.load(path), context)
    same = not isinstance(resumed, str) and fingerprint(resumed.model) == fingerprint(twice.model)
    demand(same, subject, "gives the same model when the run is cut by saving and loading")


def _check_outputs(subject: str, before: ModelView, after: ModelView) -> None:
    """Compare the models as they are written, as a pipeline does: a runtime's optimisations may round."""
    feeds = _feeds(before)
    expected, got = (open_session(model, threads=1, optimize=False).run(feeds) for model in (before, after))
    is_narrow = any(site.dtype in ("float16", "bfloat16") for site in before.sites())
    share = TOLERANCE_16 if is_narrow else TOLERANCE
    for name, expected_output in expected.items():
        tolerance = share * max(1e-6, float(np.abs(expected_output).max(initial=0.0)))
        difference = float(np.abs(expected_output - got[name]).max(initial=0.0))
        demand(
            difference <= tolerance,
            subject,
            f"is exact: output {name} stays",
            f"a difference of {difference:g}",
        )


def _feeds(model: ModelView) -> Feeds:
    rng = np.random.default_rng(0)
    return {port.name: _array(port, rng) for port in model.signature().inputs}


def _array(port: PortSpec, rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    shape = [extent if isinstance(extent, int) else 4 for extent in port.shape or ()]
    return rng.normal(0.0, 1.0, shape).astype(port.dtype)
