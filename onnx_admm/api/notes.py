"""Notes of a report: what a user should know before and after a run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from onnx_admm.api.measure import DECIDING_SAMPLES, SYNTHETIC
from onnx_admm.contracts import CostModel, Dataset
from onnx_admm.pipeline import MODEL, UNDONE, PipelineResult
from onnx_admm.report import Comparison

FEW_SAMPLES = 100

NO_DATA = (
    "No data was given, so the layers were measured and the result was compared on synthetic inputs. Data "
    "(--data; no labels needed) make pruning and low bits possible: much smaller files of known accuracy."
)
NOTHING_ASKED = (
    "Neither --prune nor --bits was given, so each layer was only rounded as far as the outputs tolerate. "
    "With this data, try --prune 0.5 --bits 4."
)
ONE_AT_A_TIME = (
    "The inputs of the model allow several samples in a run, but it fails with them (a Reshape may fix their "
    "number), so samples are run one at a time."
)
UNCHANGED = "No pass changed the model."
ONLY_EXACT = "No layer was pruned or rounded: the model was only rewritten, and its outputs stay."
NOT_SMALLER = "No form that was tried makes the file smaller, so OUT is a copy of IN."
LARGER = "The result is no smaller than the original."

FRAGILE_DB = 20.0
FRAGILE = (
    "The outputs change a lot on random inputs. They may change less on real inputs. Compare both models on "
    "real samples: onnx-admm compare IN OUT --data D."
)

_FALLEN = (
    "The accuracy fell by more than half, from {before:.1%} to {after:.1%}. With --max-drop such a result is "
    "not written."
)

_FROZEN = (
    "initializers that were listed as inputs are constants now, and a caller can no longer override them"
)
_NAMES_SHOWN = 3


INSTEAD = (
    "4 bits without zeros would be smaller and more accurate. The pruned layers take about "
    "{pruned_bytes:,} bytes and leave the outputs {pruned_sqnr_db:.1f} dB. --bits 4 without --prune takes "
    "about {four_bits_bytes:,} bytes and leaves {four_bits_sqnr_db:.1f} dB."
)
_MUCH = 0.25
"""Share of a result's bytes from which on unchanged weights are mentioned in a note."""


def target_note(priced: CostModel | None, *, integers: bool) -> tuple[str, ...]:
    """Return the note that the target is another processor than this machine's; empty where it is not.

    Args:
        priced: the cost model.
        integers: whether layers may become integer.
    """
    target = getattr(priced, "target", None)
    if target is None or getattr(priced, "is_this_machine", False):
        return ()
    where = f"The target is {target.name}, and this machine is another one. Costs for it are predicted"
    measured = "very latency in the comparison was measured here."
    if not integers:
        return (f"{where}. E{measured}",)
    steps = ", 8-bit activations have 127 steps, since sums saturate there" if target.saturates else ""
    return (
        f"{where}{steps}. Which layers are faster with integers was timed here, which only predicts it for "
        f"the target, and e{measured}",
    )


BY_BATCH = (
    "Layers with dynamic int8 ({count}, such as {first}) take the range of their data from the whole batch: "
    'in a batch, the outputs of a sample depend on the others. linear = "weight_only" avoids it.'
)


BYTES_OF_INTEGERS = (
    "{count} layers are computed with integers for speed, and their weights have 8 bits. --weights-only "
    "leaves them in float: a slower file, and often a smaller one."
)


def few_note(validation: Dataset | None, *, few_decide: bool) -> list[str]:
    """Return the note on few validation samples, and whether they decide; empty where they are enough."""
    count = FEW_SAMPLES if validation is None else len(validation)
    if count >= FEW_SAMPLES:
        return []
    counted = "1 validation sample" if count == 1 else f"{count} validation samples"
    if count < DECIDING_SAMPLES and not few_decide:
        too_few = "is too few" if count == 1 else "are too few"
        return [f"{counted} {too_few} to decide: the result is judged on synthetic inputs."]
    return [f"{counted} {'gives' if count == 1 else 'give'} only a rough estimate of the result."]


def _counted(operators: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(operators.items()))


def random_note(operators: Mapping[str, int]) -> tuple[str, ...]:
    """Return the note that a model draws random numbers; empty where it does not.

    Args:
        operators: number of nodes that draw, by operator.
    """
    if not operators:
        return ()
    return (
        f"The model draws random numbers ({_counted(operators)}), so its outputs differ from run to run. "
        "They are compared with the same draws in every run; the result draws as the original does.",
    )


def choices_note(operators: Mapping[str, int]) -> tuple[str, ...]:
    """Return the note that a model chooses rows by their scores; empty where it does not.

    Args:
        operators: number of nodes that choose, by operator.
    """
    if not operators:
        return ()
    return (
        f"The model chooses rows by their scores ({_counted(operators)}), so rows of nearly equal scores "
        "change places after any rounding. Outputs are compared with the same rows chosen in both models; "
        "the result chooses as the original does.",
    )


def frozen_note(frozen: tuple[str, ...], freeze: bool | None) -> tuple[str, ...]:
    """Return the note on inputs that callers can no longer override; empty where there are none.

    Args:
        frozen: their names.
        freeze: the user's setting; None: they were frozen because nearly all initializers are listed.
    """
    if not frozen:
        return ()
    names = ", ".join(frozen[:_NAMES_SHOWN]) + (", ..." if len(frozen) > _NAMES_SHOWN else "")
    why = "" if freeze else " Exporters list all of them by habit; --keep-defaults keeps them."
    return (f"{len(frozen)} {_FROZEN} ({names}).{why}",)


def outcome_notes(
    planned: tuple[str, ...],
    result: PipelineResult,
    comparison: Comparison,
    *,
    changed: bool,
    exact: Collection[str],
) -> tuple[str, ...]:
    """Return the notes of the plan that still apply, and those on the result.

    Args:
        planned: notes from before the work.
        result: result of the pipeline.
        comparison: original and result.
        changed: whether the written model differs from the original.
        exact: names of passes that keep the outputs. Where no other changed anything, the reasons are given.
    """
    notes = [note for note in planned if changed or _FROZEN not in note]
    notes += [
        f"Pass {step.name} was undone: it changes what the model computes ({step.report.figures[UNDONE]})."
        for step in result.reports
        if UNDONE in step.report.figures
    ]
    by_batch = [
        layer
        for step in result.reports
        if step.report.changed
        for figures in (step.report.figures, step.report.figures.get("integers") or {})
        for layer in figures.get("by_batch", ())
    ]
    notes += [BY_BATCH.format(count=len(by_batch), first=by_batch[0])] if by_batch else []
    integers = sum(len(step.report.edits) for step in result.reports if step.name == "quantize_activations")
    notes += [BYTES_OF_INTEGERS.format(count=integers)] if integers > 1 else []
    if not any(step.report.changed for step in result.reports if step.name not in exact):
        notes += [UNCHANGED if not result.changed else ONLY_EXACT]
        reasons = (skip for step in result.reports for skip in step.report.skipped if skip.layer == MODEL)
        notes += dict.fromkeys(skip.why.removesuffix(".") + "." for skip in reasons)
    if result.changed and not changed:
        notes.append(NOT_SMALLER)
    elif result.changed and comparison.after.file_bytes >= comparison.before.file_bytes:
        notes.append(LARGER)
    notes += _accuracy_note(comparison)
    notes += [
        INSTEAD.format(**step.report.figures["instead"])
        for step in result.reports
        if "instead" in step.report.figures
    ]
    notes += _left_note(result, comparison) if changed else ()
    judged = comparison.quality[0]
    if judged.data == SYNTHETIC and judged.sqnr_db is not None and judged.sqnr_db < FRAGILE_DB:
        notes.append(FRAGILE)
    return tuple(notes)


def _accuracy_note(comparison: Comparison) -> list[str]:
    """Return the note that most correct predictions are lost, where no limit was stated."""
    judged = comparison.quality[0]
    before, after = judged.accuracy_before, judged.accuracy_after
    is_stated = any(promise.name == "max_drop" for promise in comparison.promises)
    if judged.metric != "accuracy":  # other metrics may be negative
        return []
    if before is None or after is None or is_stated or 2 * after >= before:
        return []
    return [_FALLEN.format(before=before, after=after)]


def _left_note(result: PipelineResult, comparison: Comparison) -> list[str]:
    """Return the note on unchanged weights that make up much of the result, with the reason."""
    stored = {layer.weight: layer.sizes.decode for layer in comparison.before.layers}
    encoded = {edit.layer for step in result.reports for edit in step.report.edits}
    reasons: dict[str, list[tuple[int, str]]] = {}
    for step in result.reports:
        for skip in step.report.skipped:
            stated = _BYTES.match(skip.why)
            size = int(stated[1].replace(",", "")) if stated else stored.get(skip.layer, 0)
            if size and skip.layer not in encoded:
                why = _WITHOUT_SIZE.sub("", skip.why)
                reasons.setdefault(_NUMBER.sub("N", why), []).append((size, why))
                encoded.add(skip.layer)
    sums = {kind: sum(size for size, _ in weights) for kind, weights in reasons.items()}
    total = sum(sums.values())
    if total < _MUCH * comparison.after.file_bytes:
        return []
    weights = reasons[max(sums, key=lambda kind: sums[kind])]
    what = "one weight" if len(weights) == 1 else f"{len(weights)} weights"
    whys = dict.fromkeys(why for _, why in sorted(weights, reverse=True))
    of_largest = ". The largest" if len(whys) > 1 else ""
    return [
        f"{total:,} bytes were left as they are, most of them in {what}{of_largest}: {next(iter(whys))}. "
        "-v lists every layer."
    ]


_BYTES = re.compile(r"([\d,]+) bytes ")
_WITHOUT_SIZE = re.compile(r"^[\d,]+ bytes:? ?")
_NUMBER = re.compile(r"-?\d[\d,.]*\d|\d")
