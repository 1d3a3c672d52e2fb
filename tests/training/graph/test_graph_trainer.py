"""What the graph trainer alone can do: operators, branches, runs of a batch, the check of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from onnx_admm.contracts import Dataset, ModelView, TrainingSettings
from onnx_admm.data import from_arrays
from onnx_admm.errors import NoGradient, TrainingError, UsageError
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.training.gradients import lookup
from onnx_admm.training.gradients.node import GradientNode
from onnx_admm.training.gradients.registry import BUILT_IN, Rule
from onnx_admm.training.gradients.tape import Tape
from onnx_admm.training.graph.trainer import GraphTrainer, GraphTrainingRun

IMAGES = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2,6,6] x) => (float[N,3] y)
    <float[4,2,3,3] w1, float[4] b1, float[{width},3] w2, {more}>
    {{ a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) {nodes} f = Flatten (r) y = MatMul (f, w2) }}"""


def images(n: int = 32) -> Dataset:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, 2, 6, 6)).astype(np.float32)
    return from_arrays({"x": x}, np.argmax(x.mean((2, 3)) @ rng.normal(size=(2, 3)), axis=1))


def model_with(nodes: str, width: int, more: str) -> ModelView:
    return parse_text(IMAGES.format(nodes=nodes, width=width, more=more), 0)


def open_run(model: ModelView, data: Dataset | None = None, **others: object) -> GraphTrainingRun:
    settings = TrainingSettings(**{"loss": "cross_entropy", "batch_size": 16, "threads": 1, **others})  # type: ignore[arg-type]
    return GraphTrainer().open(model, model.sites(), data or images(), settings, model)


OPERATORS = {
    "ConvTranspose": ("r = ConvTranspose <strides = [2, 2]> (a, v)", 288, "float[4,2,2,2] v"),
    "PRelu": ("r = PRelu (a, v)", 144, "float[4,1,1] v"),
    "HardSwish": ("r = HardSwish (a)", 144, "float[1] v"),
    "InstanceNormalization": ("r = InstanceNormalization (a, v, b1)", 144, "float[4] v"),
    "DepthToSpace": ("r = DepthToSpace <blocksize = 2> (a)", 144, "float[1] v"),
    "Resize": ("r = Resize <mode = \"linear\"> (a, , v)", 576, "float[4] v = {1, 1, 2, 2}"),
    "LayerNormalization": ("r = LayerNormalization (a, v)", 144, "float[6] v"),
    "Selu, by its function body": ("r = Selu (a)", 144, "float[1] v"),
    "BatchNormalization": (
        "r = BatchNormalization (a, v, b1, b1, s)", 144, "float[4] v, float[4] s = {1, 2, 1, 2}",
    ),
    "If of a stored condition": (
        "r = If (v) <then_branch = t () => (float[N,4,6,6] o) { o = Tanh (a) }, "
        "else_branch = e () => (float[N,4,6,6] q) { q = Neg (a) }>", 144, "bool v = {1}",
    ),
    "If of a shape": (
        "s = Size (b1) c = Equal (s, v) r = If (c) <then_branch = t () => (float[N,4,6,6] o) "
        "{ h = Tanh (a) o = Mul (h, h) }, else_branch = e () => (float[N,4,6,6] q) { q = Neg (a) }>", 144,
        "int64 v = {4}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OPERATORS))
def test_operators_that_the_retired_runtime_has_no_gradient_for_are_trained(name: str) -> None:
    model = model_with(*OPERATORS[name])
    with open_run(model) as run:
        losses = [run.epoch(1e-2, 1e-2, seed=epoch) for epoch in range(8)]
        assert not np.array_equal(run.weights()["w1"], model.read("w1"))
    assert losses[-1] < losses[0]


LSTM = """<ir_version: 8, opset_import: ["" : 17]> g (int64[N,7] x) => (float[N,2] y)
    <float[9,5] table, float[1,24,5] w, float[1,24,6] r, float[1,48] b, float[6,2] head, int64[1] first = {0}>
    {
        e = Gather (table, x)
        t = Transpose <perm = [1, 0, 2]> (e)
        all, last = LSTM <hidden_size = 6> (t, w, r, b)
        s = Squeeze (last, first)
        y = MatMul (s, head)
    }"""
RMS = """<ir_version: 8, opset_import: ["" : 17]> g (int64[N,7] x) => (float[N,2] y)
    <float[9,8] table, float[8] scale, float epsilon = {0.00001}, float two = {2},
     float[8,16] gate, float[8,16] up, float[16,8] down, float[8,2] head>
    {
        e = Gather (table, x)
        p = Pow (e, two)
        m = ReduceMean <axes = [-1], keepdims = 1> (p)
        q = Add (m, epsilon)
        d = Sqrt (q)
        n = Div (e, d)
        h = Mul (n, scale)
        g = MatMul (h, gate)
        s = Sigmoid (g)
        silu = Mul (g, s)
        u = MatMul (h, up)
        v = Mul (silu, u)
        o = MatMul (v, down)
        z = Add (o, e)
        a = ReduceMean <axes = [1], keepdims = 0> (z)
        y = MatMul (a, head)
    }"""


@pytest.mark.parametrize("text", [LSTM, RMS], ids=["LSTM", "gated block with RMS normalisation"])
def test_sequences_are_learned(text: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (64, 7))
    data = from_arrays({"x": x}, ((x > 4).sum(axis=1) > 3).astype(np.int64))
    model = parse_text(text, 0)
    with open_run(model, data) as run:
        losses = [run.epoch(2e-2, 2e-2, seed=epoch) for epoch in range(25)]
    assert losses[-1] < 0.9 * losses[0]


def test_runs_of_a_batch_add_up_to_the_batch() -> None:
    """Batches of 48 and 32, in runs of 32 and of 12: ignored labels count nothing in either."""
    model, data = model_with("r = Relu (a)", 144, "float[1] v"), images(80)
    batch = next(iter(data.batches(80)))
    labels = np.where(np.arange(80) % 3 == 0, 255, batch.labels)
    some = from_arrays(batch.feeds, labels, ignore_label=255)
    trained = []
    for size in (100, 12):
        with open_run(model, some, batch_size=48) as run:
            run._feeder.limit_runs(size)
            losses = [run.epoch(1e-3, 1e-3, seed=epoch) for epoch in range(2)]
            trained.append((losses, run.weights()["w1"]))
    assert trained[0][0] == pytest.approx(trained[1][0], rel=1e-5)
    assert np.abs(trained[0][1] - trained[1][1]).max() < 2e-5


def test_runs_fit_the_memory_and_add_up() -> None:
    """What a sample computes takes 0.3 MB: three fit into 1 MiB."""
    width = 96
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,2,{width},{width}] x) => (float[N,3] y)
        <float[4,2,3,3] w1, float[4,3] w2> {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1) r = Tanh (a) p = GlobalAveragePool (r) f = Flatten (p)
        y = MatMul (f, w2) }}"""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 2, width, width)).astype(np.float32)
    data = from_arrays({"x": x}, rng.integers(0, 3, 48))
    trained, runs = [], []
    for memory in (1, 1024):
        with open_run(parse_text(text, 0), data, batch_size=24, memory_mb=memory) as run:
            runs.append(len(next(run._feeder.epoch(0))))
            run.epoch(1e-3, 1e-3, seed=0)
            trained.append(run.weights()["w1"])
    assert runs == [24 // 3, 1]
    assert np.abs(trained[0] - trained[1]).max() < 2e-5


def test_values_on_a_grid_are_trained_through_it() -> None:
    """Rounding hides small changes from differences of the loss: the check leaves it out."""
    grid = "z = QuantizeLinear (a, s, o) d = DequantizeLinear (z, s, o) r = Relu (d)"
    model = model_with(grid, 144, "float s = {0.05}, uint8 o = {128}")
    with open_run(model) as run:
        losses = [run.epoch(1e-2, 1e-2, seed=epoch) for epoch in range(8)]
        assert not np.array_equal(run.weights()["w1"], model.read("w1"))
    assert losses[-1] < 0.9 * losses[0]


def test_layers_behind_an_integer_operator_are_trained() -> None:
    """Its codes stay rounded in the check of gradients: it reads integers."""
    nodes = "q = QuantizeLinear (a, s, o) k = Cast <to = 1> (q) r = Relu (k)"
    model = model_with(nodes, 144, "float s = {0.05}, uint8 o = {128}")
    settings = TrainingSettings(loss="cross_entropy", batch_size=16, threads=1)
    with GraphTrainer().open(model, [model.site("w2")], images(), settings, model) as run:
        losses = [run.epoch(1e-4, 1e-4, seed=epoch) for epoch in range(6)]
    assert losses[-1] < losses[0]


def test_the_given_threads_give_the_same_bytes_twice() -> None:
    def train() -> bytes:
        with open_run(model_with("r = Relu (a)", 144, "float[1] v"), threads=2) as run:
            run.epoch(1e-2, 1e-2, seed=0)
            return run.weights()["w1"].tobytes()

    assert train() == train()


def half(tape: Tape, node: GradientNode) -> Mapping[int, str]:
    rule = BUILT_IN["", "Sigmoid"]
    return {index: tape.scaled(value, 0.49, node.dtype) for index, value in rule(tape, node).items()}


def nothing(tape: Tape, node: GradientNode) -> Mapping[int, str]:
    return {}


@pytest.mark.parametrize("wrong", [half, nothing])
def test_a_path_that_is_lost_is_found_when_a_session_is_opened(
    monkeypatch: pytest.MonkeyPatch, wrong: Rule
) -> None:
    monkeypatch.setitem(lookup.gradient_rules(), ("", "Sigmoid"), wrong)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"w1.*the gradients of this model are not those of its loss"):
        open_run(model_with("r = Sigmoid (a)", 144, "float[1] v"))


def test_an_operator_without_a_rule_is_named_with_what_can_be_done() -> None:
    nodes = "k = Transpose <perm = [0, 1, 3, 2]> (a) d = Det (k) r = Mul (d, d)"
    with pytest.raises(
        NoGradient, match=r"node d: there is no gradient rule for Det. Leave out .*gradients.md"
    ):
        open_run(model_with(nodes, 4, "float[1] v"))


def det_rule(tape: Tape, node: GradientNode) -> Mapping[int, str]:
    """A wrong one, which is enough to be asked for."""
    shape = node.input_shapes[0]
    return {0: tape.write("Expand", tape.reshape(node.dy, [*shape[:-2], 1, 1]), tape.ints(shape))}


RULES: dict[tuple[str, str], Rule] = {("", "Det"): det_rule}


@pytest.mark.parametrize(
    ("target", "error", "sentence"),
    [
        ("test_graph_trainer:RULES", TrainingError, "not those of its loss"),
        ("test_graph_trainer:det_rule", UsageError, "no set of gradient rules"),
        ("test_graph_trainer:absent", UsageError, "cannot be loaded"),
    ],
)
def test_rules_of_other_packages_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, target: str, error: type[Exception], sentence: str
) -> None:
    entry = EntryPoint("theirs", target, lookup.GROUP)
    monkeypatch.setattr(lookup, "entry_points", lambda group: [entry] if group == lookup.GROUP else [])
    lookup.gradient_rules.cache_clear()
    try:
        with pytest.raises(error, match=sentence):
            open_run(model_with("d = Det (a) e = Mul (d, d) r = Unsqueeze (e, v)", 4, "int64[1] v = {2}"))
    finally:
        lookup.gradient_rules.cache_clear()
