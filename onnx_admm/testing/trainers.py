"""The contract tests that every trainer must pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_admm.contracts import Array, Dataset, ModelView, Trainer, TrainingRun, TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.errors import TrainingError
from onnx_admm.model.analysis.fingerprint import fingerprint
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.runtime.sessions import open_session
from onnx_admm.testing.contract import demand

_MLP = """
    <ir_version: 8, opset_import: ["" : 17]>
    mlp (float[{batch},6] x) => (float[{batch},3] {output})
    <float[6,12] w1, float[12] b1, float[12,3] w2, float[3] b2>
    {{
        a = Gemm (x, w1, b1)
        r = Relu (a)
        logits = Gemm (r, w2, b2)
        {head}
    }}"""
_CONV = """
    <ir_version: 8, opset_import: ["" : 17]>
    conv (float[N,1,6,6] x) => (float[N,3] y)
    <float[4,1,3,3] w, float[4] b, float[16,3] v>
    {
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (c)
        p = MaxPool <kernel_shape = [3, 3], strides = [3, 3]> (r)
        f = Flatten (p)
        y = MatMul (f, v)
    }"""
_DOUBLE = """
    <ir_version: 8, opset_import: ["" : 17]>
    mixed (float[N,6] x) => (float[N,1] y)
    <double[6,1] u = {1.0, 0.5, 0.25, 2.0, 1.5, 0.75}>
    { d = Cast <to = 11> (x) m = MatMul (d, u) y = Cast <to = 1> (m) }"""

_SAMPLES, _BATCH = 96, 32


def check_trainer(trainer: Trainer) -> tuple[str, ...]:
    """Hold a trainer to its contract on small models.

    - Epochs lower the loss: for labels, for the original's classes and for its outputs.
    - The loss is the one of its definition, and a rate of 0 moves nothing.
    - Frozen entries stay where they were put, to the bit.
    - A pull adds its penalty and draws weights to their targets; without rho it does nothing.
    - Gradients are scaled down to the largest norm that they may have.
    - The same seed gives the same bytes, and another seed does not.
    - A snapshot can be gone back to.
    - A fixed number of samples in a run trains as a free one does.
    - The given model stays as it was; the exported one has the weights and the same signature.
    - What cannot be trained is named, and so is a loss that is not finite.

    Args:
        trainer: opens sessions.

    Returns:
        What was checked, in sentences.

    Raises:
        ContractBroken: names the trainer and the promise.

    Example:
        >>> from onnx_admm.testing import check_trainer
        >>> from onnx_admm.training.graph.trainer import GraphTrainer
        >>> len(check_trainer(GraphTrainer())) > 5
        True
    """
    subject = type(trainer).__name__
    for check in _CHECKS:
        check(trainer, subject)
    return tuple((check.__doc__ or "").strip().splitlines()[0] for check in _CHECKS)


def _mlp(batch: str = "N", *, softmax: bool = False) -> ModelView:
    output, head = ("p", "p = Softmax (logits)") if softmax else ("logits", "")
    return parse_text(_MLP.format(batch=batch, output=output, head=head), 0)


def _data(*, labelled: bool = True) -> Dataset:
    x = np.random.default_rng(7).normal(size=(_SAMPLES, 6)).astype(np.float32)
    return from_arrays({"x": x}, np.argmax(x[:, :3], axis=1).astype(np.int64) if labelled else None)


def _settings(loss: str, **others: object) -> TrainingSettings:
    chosen = {"batch_size": _BATCH, "threads": 1, "loss": loss, **others}
    return TrainingSettings(**chosen)  # type: ignore[arg-type]


def _open(trainer: Trainer, model: ModelView, loss: str = "cross_entropy", **others: object) -> TrainingRun:
    labelled = loss in ("cross_entropy", "blend")
    settings = _settings(loss, **others)
    return trainer.open(model, model.sites(), _data(labelled=labelled), settings, model)


def _outputs(model: ModelView) -> Array:
    x = next(iter(_data().batches(_SAMPLES))).feeds["x"]
    [output] = open_session(model, threads=1).run({"x": x}).values()
    return output.astype(np.float64)


def _softmax(logits: Array) -> Array:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


def _without_second(model: ModelView) -> ModelView:
    changed = model.fork()
    changed.replace("w2", np.zeros((12, 3), np.float32))
    return changed


def _lowers_the_loss(trainer: Trainer, subject: str) -> None:
    """Epochs lower the loss, and the exported model has the weights."""
    model = _mlp()
    before = fingerprint(model)
    with _open(trainer, model) as run:
        losses = [run.epoch(1e-2, 1e-2, seed=epoch) for epoch in range(8)]
        exported, tensors = run.export(), run.tensors()
    demand(losses[-1] < 0.7 * losses[0], subject, "lowers the loss", losses)
    demand(set(tensors) == {"w1", "b1", "w2", "b2"}, subject, "trains weights and biases", set(tensors))
    kept = all(np.array_equal(exported.read(name), tensors[name]) for name in ("w1", "w2"))
    demand(kept, subject, "exports the weights it has")
    demand(exported.signature() == model.signature(), subject, "keeps the signature")
    demand(fingerprint(model) == before, subject, "leaves the given model as it was")


def _trains_convolutions(trainer: Trainer, subject: str) -> None:
    """Convolutions and pools are trained, on images of constant parts, too."""
    model = parse_text(_CONV, 0)
    x = np.zeros((64, 1, 6, 6), np.float32)
    labels = np.arange(64) % 3
    x[np.arange(64), 0, labels * 2, labels] = 1
    settings = _settings("cross_entropy", batch_size=16)
    with trainer.open(model, model.sites(), from_arrays({"x": x}, labels), settings, model) as run:
        losses = [run.epoch(1e-2, 1e-2, seed=epoch) for epoch in range(20)]
    demand(losses[-1] < 0.5 * losses[0], subject, "lowers the loss of a convolution", losses[::19])


def _learns_from_the_original(trainer: Trainer, subject: str) -> None:
    """Without labels, a model learns the classes of the original, and its outputs."""
    for loss, softmax in (("distillation", True), ("mse", False)):
        teacher = _mlp(softmax=softmax)
        student = _without_second(teacher)
        data = _data(labelled=False)
        with trainer.open(student, student.sites(), data, _settings(loss), teacher) as run:
            losses = [run.epoch(2e-2, 2e-2, seed=epoch) for epoch in range(12)]
        demand(losses[-1] < losses[0], subject, f"lowers the loss {loss!r}", losses)


def _gives_the_loss(trainer: Trainer, subject: str) -> None:
    """Check the loss against its definition, and that a rate of 0 moves nothing."""
    teacher = _mlp()
    student = _without_second(teacher)
    logits, taught = _outputs(student), _outputs(teacher)
    labels = np.argmax(next(iter(_data().batches(_SAMPLES))).feeds["x"][:, :3], axis=1)
    log_p = np.log(_softmax(logits))
    cooled = np.log(_softmax(logits / 3.0))
    expected = {
        "cross_entropy": -log_p[np.arange(_SAMPLES), labels].mean(),
        "distillation": -9.0 * (_softmax(taught / 3.0) * cooled).sum(axis=1).mean(),
        "mse": np.square(logits - taught).mean(),
    }
    for loss, requested in expected.items():
        data, settings = _data(labelled=loss == "cross_entropy"), _settings(loss, temperature=3.0)
        with trainer.open(student, student.sites(), data, settings, teacher) as run:
            got = run.epoch(0.0, 0.0, seed=0)
            moved = any(not np.array_equal(run.weights()[name], student.read(name)) for name in ("w1", "w2"))
        demand(
            abs(got - requested) <= 1e-5 * abs(requested),
            subject,
            f"gives the loss {loss!r}",
            (got, requested),
        )
        demand(not moved, subject, "moves nothing at a rate of 0")


def _holds_frozen_entries(trainer: Trainer, subject: str) -> None:
    """Frozen entries stay where they were put, to the bit; free ones move."""
    model = _mlp()
    free = {"w1": (model.read("w1") > 0).astype(np.float32), "w2": np.ones((12, 3), np.float32)}
    fixed = {"w1": np.where(free["w1"] == 0, 0.25, 0).astype(np.float32), "w2": np.zeros((12, 3), np.float32)}
    with _open(trainer, model) as run:
        run.freeze(free, fixed)
        run.epoch(1e-2, 1e-2, seed=0)
        weights, tensors = run.weights()["w1"], run.tensors()["w1"]
    kept = free["w1"] == 0
    demand(bool((weights[kept] == 0.25).all()), subject, "holds frozen entries", weights[kept])
    demand(np.array_equal(weights, tensors), subject, "gives effective weights as tensors")
    demand(not np.allclose(weights[~kept], model.read("w1")[~kept]), subject, "moves free entries")


def _pulls(trainer: Trainer, subject: str) -> None:
    """Check that the proximal term adds its penalty and moves weights to their targets."""
    model = _mlp()
    targets = {name: np.full(model.read(name).shape, 0.5, np.float32) for name in ("w1", "w2")}
    with _open(trainer, model) as run:
        plain = run.epoch(0.0, 0.0, seed=0)
        run.set_proximal_term(targets, {"w1": 2.0})
        penalty = run.epoch(0.0, 0.0, seed=0) - plain
        requested = float(np.square(model.read("w1") - 0.5).sum())
        run.set_proximal_term(targets, {})
        let_go = run.epoch(0.0, 0.0, seed=0)
        run.set_proximal_term(targets, {"w1": 100.0})
        for epoch in range(60):
            run.epoch(2e-2, 2e-2, seed=epoch)
        pulled, left = run.weights()["w1"], run.weights()["w2"]
    demand(abs(penalty - requested) <= 1e-3 * requested, subject, "adds the penalty", (penalty, requested))
    demand(abs(let_go - plain) <= 1e-6 * plain, subject, "lets go without rho", (let_go, plain))
    demand(float(np.abs(pulled - 0.5).max()) < 0.05, subject, "draws weights to their targets")
    demand(float(np.abs(left - 0.5).max()) > 0.2, subject, "leaves weights without rho alone")


def _clips_gradients(trainer: Trainer, subject: str) -> None:
    """Check that gradients are scaled down to the norm that they may have."""
    moved = []
    for most in (None, 1e6, 1e-9):
        model = _mlp()
        with _open(trainer, model, max_gradient_norm=most, batch_size=_SAMPLES) as run:
            run.epoch(1e-3, 1e-3, seed=0)
            moved.append(float(np.abs(run.weights()["w1"] - model.read("w1")).max()))
    free, above, clipped = moved
    demand(above == free, subject, "leaves gradients below the largest norm as they are", moved)
    demand(0 < clipped < 0.1 * free, subject, "scales gradients above the largest norm down", moved)


def _repeats_itself(trainer: Trainer, subject: str) -> None:
    """Check that the same seed gives the same bytes, and another seed does not."""

    def train(seed: int) -> bytes:
        with _open(trainer, _mlp()) as run:
            run.epoch(1e-2, 1e-3, seed=seed)
            return b"".join(array.tobytes() for _, array in sorted(run.tensors().items()))

    demand(train(3) == train(3), subject, "gives the same bytes for the same seed")
    demand(train(3) != train(4), subject, "gives other bytes for another seed")


def _goes_back(trainer: Trainer, subject: str) -> None:
    """Check that a snapshot can be restored, and that loaded weights are the weights."""
    model = _mlp()
    with _open(trainer, model) as run:
        kept, before = run.snapshot(), run.weights()["w1"]
        run.epoch(1e-2, 1e-2, seed=0)
        moved = run.weights()["w1"]
        run.restore(kept)
        after = run.weights()["w1"]
        run.load({"w1": np.full((6, 12), 0.125)})
        loaded = run.weights()["w1"]
    demand(not np.array_equal(moved, before), subject, "keeps a snapshot apart from the weights")
    demand(np.array_equal(after, before), subject, "goes back to a snapshot")
    demand(bool((loaded == 0.125).all()), subject, "has the weights that were loaded")


def _takes_fixed_runs(trainer: Trainer, subject: str) -> None:
    """Check that a fixed number of samples in a run trains as a free one does."""
    trained = []
    for model in (_mlp("2"), _mlp()):
        with _open(trainer, model) as run:
            run.epoch(1e-2, 1e-2, seed=0)
            trained.append(run.weights()["w1"])
    demand(np.allclose(trained[0], trained[1], atol=2e-3), subject, "trains in runs of a fixed size")


def _names_what_is_wrong(trainer: Trainer, subject: str) -> None:
    """Check that errors name what cannot be trained, and a loss that is not finite."""
    model = parse_text(_DOUBLE, 0)
    error = _error_of(lambda: _open(trainer, model, "mse"))
    demand(error is not None and error.where == "u", subject, "names a weight that is no float32", error)

    def overflow() -> None:
        with _open(trainer, _mlp()) as run:
            run.load({"w1": np.full((6, 12), 1e38, np.float32)})
            run.epoch(1e-2, 1e-2, seed=0)

    demand(_error_of(overflow) is not None, subject, "refuses a loss that is not finite")


def _error_of(work: Callable[[], object]) -> TrainingError | None:
    try:
        work()
    except TrainingError as error:
        return error
    return None


_CHECKS: tuple[Callable[[Trainer, str], None], ...] = (
    _lowers_the_loss,
    _trains_convolutions,
    _learns_from_the_original,
    _gives_the_loss,
    _holds_frozen_entries,
    _pulls,
    _clips_gradients,
    _repeats_itself,
    _goes_back,
    _takes_fixed_runs,
    _names_what_is_wrong,
)
