"""Encode: store dense weights in the smallest form that standard operators decode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from onnx_admm.contracts import Dataset, Edit, ModelView, PassContext, PassReport, Skip
from onnx_admm.contracts.metrics import is_scored
from onnx_admm.data import synthetic_dataset
from onnx_admm.encoding.coders.encoding_report import EncodingReport
from onnx_admm.encoding.coders.vector_coder import BiasType
from onnx_admm.encoding.packed import encode_packed
from onnx_admm.encoding.standard_forms import (
    encode_dense,
    encode_qdq,
    encode_sound_rest,
    encode_sparse,
    measure_only,
)
from onnx_admm.errors import NothingToDo, PassRefused, RuntimeMissing, UnsupportedModel
from onnx_admm.model.analysis.fingerprint import same_model
from onnx_admm.model.rewrite.comparing.fixed_choices import with_fixed_choices
from onnx_admm.model.rewrite.expose_logits import output_roles
from onnx_admm.model.rewrite.weight_storage import model_bytes
from onnx_admm.model.runtimes import WEIGHT_ONLY
from onnx_admm.pipeline import MODEL
from onnx_admm.runtime.evaluation import evaluate
from onnx_admm.runtime.latency import compare_latency
from onnx_admm.runtime.timing_cache import cache_file, digest, form_ratio
from onnx_admm.settings.ranges import Finite, Positive

_logger = logging.getLogger(__name__)

_FORMATS = ("auto", "dense", "qdq", "sparse", "packed")
_SYNTHETIC_SAMPLES = 4
_MOST_SAMPLES = 1000
_THREADS = 1
_LATENCY_TRIES = 3
_LATENCY_ROUNDS = 31
_SLOWER = "slower"
_LINEAR = ("Gemm", "MatMul")
_FROM_START = "for another one, start from the model as it was before encoding"


@dataclass(frozen=True)
class Encode:
    """Store the weights of a pruned and quantised model in a smaller form, with equal outputs.

    - ``dense``: plain values. ``qdq``: DequantizeLinear on 8- or 4-bit grids. ``sparse``: sparse initializers
      (in memory they are dense: later passes see plain values, and new values are written dense).
    - ``packed``: packed codes, gaps and codebooks, decoded by standard operators that ONNX Runtime folds at
      load into plain dense weights, so the model runs as fast as before.
    - ``auto``: the smallest of these that keeps the outputs and is not slower; never a larger file. Weights
      without a packed or qdq form become sparse where that saves a hundredth of the file and onnx's full
      check passes.

    Zeros, codebooks and grids are found from the values alone, exactly. Other weights stay unchanged.

    Attributes:
        format: see above.
        bias_bits: with ``packed`` and ``auto``: round biases of layers to 8 or 16 bits where that saves
            bytes; None stores them as narrow as their values allow. No other key changes values. A bias that
            would change too much stays, with a line in the report.
        float8_biases: take float8 (e4m3fn: no scale, the smallest file; opset 19) for 8 bits, and not int8
            with one scale for all.
        slowdown: ``auto`` takes a form if its latency is at most so many times the model's before.
        least_sqnr_db: ``auto`` takes a form if the error of the outputs is at least so many dB below the
            outputs.
    """

    name: ClassVar[str] = "encode"
    idempotent: ClassVar[bool] = True
    format: Literal["auto", "dense", "qdq", "sparse", "packed"] = "auto"
    _: KW_ONLY
    bias_bits: Literal[8, 16] | None = None
    float8_biases: bool = False
    slowdown: Positive = 1.1
    least_sqnr_db: Finite = 40.0

    @property
    def exact(self) -> bool:
        """Whether the outputs stay: true unless biases are rounded."""
        return self.bias_bits is None

    def requires(self, model: ModelView, context: PassContext) -> None:
        """See ``contracts.Pass``."""
        if self.format not in _FORMATS:
            raise PassRefused("unknown format", got=self.format, expected=f"one of {', '.join(_FORMATS)}")
        if self.bias_bits not in (None, 8, 16):
            raise PassRefused("no form stores biases of that width", got=self.bias_bits, expected="8 or 16")
        if self.float8_biases and self.bias_bits != 8:
            raise PassRefused("float8 biases have 8 bits", got=f"bias_bits {self.bias_bits}", expected="8")
        if not model.sites():
            raise NothingToDo("the model has no weights to encode")

    def run(self, model: ModelView, context: PassContext) -> PassReport:
        """See ``contracts.Pass``."""
        before = model.fork()
        if self.format == "auto":
            outcome, trials = self._choose(model, context)
        else:
            outcome, trials = self._encoder(self.format)(model), []
        figures = outcome.figures() | ({"trials": trials} if trials else {})
        rows = (*outcome.rows, *outcome.biases)
        late = dict.fromkeys(outcome.looked_up, ", rows decoded as they are looked up")
        edits = tuple(Edit(r.layer, r.coding + late.get(r.layer, "")) for r in rows if r.is_encoded)
        slow = _why_slow(before) if outcome.format == "qdq" else None
        if self.format != "auto" and not any(site.editable for site in before.sites()):
            slow = f"every weight is encoded already and keeps its form; {_FROM_START}"
        skipped = (*outcome.skipped, *([] if slow is None else [Skip(MODEL, slow)]))
        return PassReport(not same_model(before, model), edits, skipped, figures)

    def _encoder(self, name: str) -> Callable[[ModelView], EncodingReport]:
        encoders: dict[str, Callable[[ModelView], EncodingReport]] = {
            "dense": encode_dense,
            "qdq": encode_qdq,
            "sparse": encode_sparse,
            "packed": lambda model: encode_packed(model, self._bias_type()),
        }
        return encoders[name]

    def _bias_type(self) -> BiasType | None:
        if self.bias_bits == 8:
            return "float8" if self.float8_biases else "int8"
        return None if self.bias_bits is None else "float16"

    def _choose(self, model: ModelView, context: PassContext) -> tuple[EncodingReport, list[dict[str, Any]]]:
        """Encode ``model`` in the best form; return its report, and every form that was tried."""
        trials, data = list[dict[str, Any]](), _samples(context)
        candidates = sorted(self._candidates(model, trials), key=lambda candidate: candidate.file_bytes)
        while candidates:
            candidate = candidates.pop(0)
            trial: dict[str, Any] = {"format": candidate.outcome.format, "bytes": candidate.file_bytes}
            trials.append(trial)
            if candidate.file_bytes >= model_bytes(model):
                trial["verdict"] = "no smaller than before"
                break
            trial |= self._try(model, candidate, data, context)
            _logger.info("form %s, %d bytes: %s", trial["format"], trial["bytes"], trial["verdict"])
            if trial["verdict"] == "taken":
                model.become(candidate.model)
                return candidate.outcome, trials
            if trial["verdict"] == _SLOWER and candidate.outcome.looked_up:
                candidates.insert(0, self._decoded_at_load(model))
        return measure_only(model), trials

    def _candidates(self, model: ModelView, trials: list[dict[str, Any]]) -> Iterator[_Candidate]:
        """Yield the forms to try; those that the model cannot have are noted in ``trials``."""
        for name in ("packed", "qdq", "sparse"):
            if name == "qdq" and (slow := _why_slow(model)) is not None:
                trials.append({"format": name, "verdict": slow})
                continue
            fork = model.fork()
            try:
                outcome = measure_only(fork) if name == "sparse" else self._encoder(name)(fork)
                outcome = encode_sound_rest(fork, outcome)
            except UnsupportedModel as error:  # its opset cannot be raised
                trials.append({"format": name, "verdict": str(error)})
                continue
            yield _Candidate(fork, outcome, model_bytes(fork))

    def _decoded_at_load(self, model: ModelView) -> _Candidate:
        """Return the packed form with every table decoded at load, where look-ups decode too slowly."""
        fork = model.fork()
        outcome = encode_sound_rest(fork, encode_packed(fork, self._bias_type(), late=False))
        return _Candidate(fork, outcome, model_bytes(fork))

    def _try(
        self, model: ModelView, candidate: _Candidate, data: Dataset, context: PassContext
    ) -> dict[str, Any]:
        try:
            roles = output_roles(model)
            compared = with_fixed_choices(candidate.model, model)
            reference = with_fixed_choices(model, candidate.model)
            after = evaluate(compared, data, reference=reference, roles=roles)
            before = evaluate(model, data, roles=roles) if is_scored(data) else None
            if before is not None and compared is not candidate.model:
                found = evaluate(candidate.model, data, reference=model, roles=roles)
                after = replace(after, accuracy=found.accuracy)
            figures: dict[str, Any] = {"sqnr_db": after.sqnr_db}
            if after.sqnr_db is not None and after.sqnr_db < self.least_sqnr_db:
                return figures | {"verdict": "changes the outputs"}
            if before is not None and before.accuracy is not None and after.accuracy is not None:
                figures["accuracy_drop_points"] = drop = 100 * (before.accuracy - after.accuracy)
                if drop > (context.max_drop or 0.0):
                    return figures | {"verdict": "loses accuracy"}
            return figures | self._time(model, candidate, data)
        except RuntimeMissing:
            folds = candidate.outcome.format != "qdq"
            return {"verdict": "taken" if folds else "not timed: no ONNX Runtime"}

    def _time(self, model: ModelView, candidate: _Candidate, data: Dataset) -> dict[str, Any]:
        """Return the latency before and after, measured once on a machine, then taken from its cache."""
        feeds, measured = next(data.batches(1)).feeds, dict[str, Any]()

        def ratio() -> float:
            for _ in range(_LATENCY_TRIES):  # again where it seems slow: other load slows timings
                latency = compare_latency(model, candidate.model, feeds, rounds=_LATENCY_ROUNDS)
                if latency.ratio <= self.slowdown:
                    break
            measured.update(load_ms_before=latency.before_load_ms, load_ms=latency.after_load_ms)
            return latency.ratio

        before, after = (digest(each.to_bytes(maps=False)) for each in (model, candidate.model))
        found = form_ratio(before, after, _THREADS, ratio)
        return {
            "latency_ratio": found,
            **measured,
            "timing_cache": cache_file(_THREADS).name,
            "verdict": "taken" if found <= self.slowdown else _SLOWER,
        }


@dataclass(frozen=True)
class _Candidate:
    model: ModelView
    outcome: EncodingReport
    file_bytes: int


def _why_slow(model: ModelView) -> str | None:
    """Return why the oldest runtime that the recipe names is slow with dequantised weights; None if not."""
    runtime = model.conditions.runtime
    is_read = any(site.op_type in _LINEAR for site in model.sites())
    return runtime.why_slow(WEIGHT_ONLY) if runtime is not None and is_read else None


def _samples(context: PassContext) -> Dataset:
    if context.validation is None:
        return synthetic_dataset(context.reference, _SYNTHETIC_SAMPLES, context.seed)
    return context.validation.select(np.arange(min(len(context.validation), _MOST_SAMPLES)))
