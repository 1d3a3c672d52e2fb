"""What is done with a mutant of each format: the public way a command takes it, to the end."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import fuzz_mutations as mutate
import fuzz_seeds as seeds
import onnx
from hypothesis import strategies as st
from rich.console import Console

from onnx_admm.api import compress, inspect_costs, inspect_model
from onnx_admm.api.files.checkpoints import Checkpoints, _content_digest
from onnx_admm.config.recipe import Recipe
from onnx_admm.config.registry import cost_model
from onnx_admm.contracts import Edit, ModelView, PassReport, Skip
from onnx_admm.data import open_dataset
from onnx_admm.data.readers.preprocessing import Preprocessing
from onnx_admm.model.analysis.text import parse_text
from onnx_admm.pipeline import StepReport
from onnx_admm.report import to_json
from onnx_admm.report.tables import model_table
from onnx_admm.runtime import timing_cache
from onnx_admm.settings.tables import build, read_toml

Files = dict[str, bytes]
"""Content by name, in the folder that a mutant lies in."""


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        files: draws the files of a mutant.
        judge: takes the folder they lie in; raises what the program raises.
        share: of all mutants, in parts.
    """

    files: st.SearchStrategy[Files]
    judge: Callable[[Path], None]
    share: int


def one(name: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[Files]:
    """A mutant that is one file."""
    return content.map(lambda data: {name: data})


# -- models ----------------------------------------------------------------------------------


def inspect(folder: Path) -> None:
    """Show a model as ``inspect`` does, and its costs."""
    facts = inspect_model(folder / "m.onnx")
    to_json(facts)
    Console(file=io.StringIO(), width=160, markup=False).print(model_table(facts))
    to_json(inspect_costs(folder / "m.onnx", cost_model("storage"), {}))


def compress_bare(folder: Path) -> None:
    """Compress a model as the bare command does."""
    compress(folder / "m.onnx", folder / "out.onnx", threads=1)


@st.composite
def external(draw: st.DrawFn) -> Files:
    """A model with its weights beside it: what it says of them is mutated, or the weights are."""
    model = onnx.ModelProto.FromString(draw(st.sampled_from(seeds.models()[:5])))
    content = b""
    for tensor in model.graph.initializer:
        if tensor.raw_data:
            entries = {"location": "m.data", "offset": str(len(content)), "length": str(len(tensor.raw_data))}
            content += tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    for _ in range(draw(st.integers(0, 2))):
        entry = draw(st.sampled_from(draw(st.sampled_from(outside)).external_data))
        values = (
            "-1",
            "0",
            "4",
            "99999999999999999999",
            "4096",
            "",
            "nan",
            "1e3",
            "m.onnx",
            "../m.data",
            "/dev/zero",
            ".",
            "é",
        )
        if draw(st.booleans()):
            entry.value = draw(st.sampled_from(values))
        else:
            entry.key = draw(st.sampled_from(("location", "offset", "length", "checksum", "x", "")))
    data = draw(mutate.mutated_bytes([content])) if draw(st.booleans()) else content
    return {"m.onnx": model.SerializeToString(), "m.data": data}


# -- data ------------------------------------------------------------------------------------


def opening(name: str) -> Callable[[Path], None]:
    """Open a file as data for a model of images, and read all of it."""

    def judge(folder: Path) -> None:
        scale = Preprocessing(scale=1 / 255)
        dataset = open_dataset(folder / name, seeds.data_model(), preprocessing=scale)
        for batch in dataset.batches(4):
            assert {array.shape[1:] for array in batch.feeds.values()} == {(1, 8, 8)}

    return judge


@st.composite
def zipped(draw: st.DrawFn, seeds_of_zips: Sequence[bytes]) -> bytes:
    """A zip of which a member is mutated and stored whole, or which is mutated itself."""
    if draw(st.integers(0, 3)) == 0:
        return draw(mutate.mutated_bytes(seeds_of_zips))
    with zipfile.ZipFile(io.BytesIO(draw(st.sampled_from(seeds_of_zips)))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = draw(st.sampled_from(sorted(members)))
    members[chosen] = draw(mutate.mutated_bytes([members[chosen]]))
    stream = io.BytesIO()
    method = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@st.composite
def gzipped(draw: st.DrawFn) -> bytes:
    """A gzipped idx file that is mutated before or after it is compressed."""
    plain, packed = seeds.idx_files()
    if draw(st.booleans()):
        return draw(mutate.mutated_bytes([packed]))
    return gzip.compress(draw(mutate.mutated_bytes([plain])), mtime=0)


@st.composite
def feeds(draw: st.DrawFn) -> Files:
    """A folder of an ONNX test set."""
    return {"test_data_set_0/input_0.pb": draw(mutate.mutated_message(seeds.tensors(), onnx.TensorProto))}


# -- settings --------------------------------------------------------------------------------


def recipe(folder: Path) -> None:
    """Read a recipe, write it out and read it again."""
    read = Recipe.load(folder / "r.toml")
    assert Recipe.parse(read.dump()) == read


def profile(folder: Path) -> None:
    """Price a model under a profile."""
    to_json(inspect_costs(folder / "m.onnx", cost_model(f"roofline:{folder / 'p.toml'}"), {"N": 1}))


def preprocessing(folder: Path) -> None:
    """Read a preprocessing, and apply it to a batch."""
    table = read_toml(folder / "p.toml")
    build(Preprocessing, table, "p.toml").apply(seeds.np.full((1, 1, 8, 8), 255, seeds.np.uint8), 1)


# -- files of our own ------------------------------------------------------------------------


def checkpoint(folder: Path) -> None:
    """Take up a run at a checkpoint."""
    found = Checkpoints(folder, ("01-encode-0",), ("key",))
    if found.found():
        found.recall(0)


def timings(folder: Path) -> None:
    """Read the cache of measured times, and add to it."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    place = timing_cache.cache_file(1)
    place.parent.mkdir(parents=True)
    (folder / "t.json").rename(place)
    timing_cache._MEMORY.clear()
    known = timing_cache.known_timings(1)
    assert all(timing.seconds >= 0 and timing.spread >= 0 for timing in known.values())
    timing_cache.keep_timings(1, known)


@cache
def written_checkpoint() -> Files:
    """A checkpoint as a run keeps it."""
    report = PassReport(
        changed=True, edits=(Edit("w1", "4 bits"),), skipped=(Skip("b", "small"),), figures={"a": 1.5}
    )
    folder = Path(tempfile.mkdtemp(prefix="onnx-admm-fuzz-"))
    try:
        found = Checkpoints(folder, ("01-encode-0",), ("key",))
        found.keep(0, ModelView.from_bytes(seeds.models()[1]), StepReport("encode", report, 0.5))
        return {file.name: file.read_bytes() for file in folder.iterdir()}
    finally:
        shutil.rmtree(folder)


def signed(report: bytes) -> bytes:
    """The report with a digest that fits its content; as it is where it is no JSON table."""
    try:
        content = json.loads(report)
        content.pop("digest", None)
        return json.dumps({**content, "digest": _content_digest(content)}).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return report


@st.composite
def checkpoints(draw: st.DrawFn) -> Files:
    """A model and its report; one of them is mutated, the report perhaps with a digest that fits."""
    files = dict(written_checkpoint())
    name = draw(st.sampled_from(("01-encode-0.json", "01-encode-0.json", "01-encode-0.onnx")))
    mutated = mutate.mutated_json if name.endswith("json") else mutate.mutated_bytes
    files[name] = draw(mutated([files[name]]))
    if draw(st.booleans()):
        files["01-encode-0.json"] = signed(files["01-encode-0.json"])
    return files


def targets() -> dict[str, Target]:
    """Return every format by name."""
    models = seeds.models()
    plain = parse_text(seeds.CONV).to_bytes()
    by_bytes = one("m.onnx", mutate.mutated_bytes(models))
    by_fields = one("m.onnx", mutate.mutated_message(models))
    return {
        "model bytes": Target(by_bytes, inspect, 30),
        "model fields": Target(by_fields, inspect, 40),
        "compressed model": Target(by_fields | by_bytes, compress_bare, 4),
        "external data": Target(external(), inspect, 20),
        "npz": Target(one("d.npz", zipped(seeds.npz_files())), opening("d.npz"), 20),
        "idx": Target(
            one("images-idx3-ubyte", mutate.mutated_bytes(seeds.idx_files()[:1])),
            opening("images-idx3-ubyte"),
            5,
        ),
        "idx.gz": Target(
            one("images-idx3-ubyte.gz", gzipped()),
            opening("images-idx3-ubyte.gz"),
            5,
        ),
        "images": Target(one("d.zip", zipped(seeds.image_zips())), opening("d.zip"), 20),
        "tensors": Target(feeds(), opening("."), 10),
        "recipe": Target(one("r.toml", mutate.mutated_toml(seeds.RECIPES)), recipe, 20),
        "profile": Target(
            mutate.mutated_toml(seeds.PROFILES).map(lambda data: {"p.toml": data, "m.onnx": plain}),
            profile,
            10,
        ),
        "preprocessing": Target(one("p.toml", mutate.mutated_toml(seeds.PREPROCESSING)), preprocessing, 5),
        "description": Target(
            mutate.mutated_toml(seeds.DESCRIPTIONS).map(
                lambda data: {"d.toml": data, "data.npz": seeds.npz_files()[0]}
            ),
            opening("d.toml"),
            5,
        ),
        "checkpoint": Target(checkpoints(), checkpoint, 10),
        "timing cache": Target(one("t.json", mutate.mutated_json(seeds.TIMINGS)), timings, 5),
    }
