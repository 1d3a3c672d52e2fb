"""Outputs of a large model, computed in a separate process, whose memory is freed at its end.

The process is ``python -m onnx_admm.runtime.children.child_outputs MODEL FEEDS OUTPUTS OPTIMIZE``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from onnx_admm.contracts import Array, Feeds, ModelView
from onnx_admm.errors import OnnxAdmmError, OutputError, RuntimeMissing, UnsupportedModel, WorkError
from onnx_admm.local_files.named_arrays import read_npz, write_npz
from onnx_admm.local_files.temporary_folder import TemporaryFolder
from onnx_admm.model.rewrite.comparing.fixed_draws import with_fixed_draws
from onnx_admm.runtime.children.child_process import run_module, text_of
from onnx_admm.runtime.feeding import run_samples
from onnx_admm.runtime.sessions import open_session

LIMIT_S = 120.0
"""Seconds that the process may take, its start included."""

_ERROR = ".error"


def outputs_in_child(model: ModelView, feeds: Mapping[str, Array], *, optimize: bool = False) -> list[Feeds]:
    """Return the outputs of a batch of samples, one item for each run; texts are left out.

    Raises:
        UnsupportedModel: the runtime does not know an operator or the opset, or there is no runtime.
        WorkError: it fails, kills its process, or takes over `LIMIT_S`.
    """
    with TemporaryFolder() as name:
        folder = Path(name)
        model = with_fixed_draws(model)
        try:
            model.save(folder / "model.onnx")
        except OutputError:  # the checker needs types of exposed values, which the runtime infers
            (folder / "model.onnx").write_bytes(model.to_bytes())
        write_npz(folder / "feeds.npz", feeds)
        files = [str(folder / file) for file in ("model.onnx", "feeds.npz", "outputs.npz")]
        end = run_module(__spec__.name, [*files, str(int(optimize))], limit_s=LIMIT_S)
        kind, _, message = text_of(folder / f"outputs.npz{_ERROR}").partition("\n")
        if kind:
            raise UnsupportedModel(message) if kind == UnsupportedModel.__name__ else WorkError(message)
        if end is not None:
            raise WorkError(f"a run of the model {end}")
        runs: dict[int, Feeds] = {}
        for key, array in read_npz(folder / "outputs.npz").items():
            number, _, output = key.partition(":")
            runs.setdefault(int(number), {})[output] = array
        return [runs[number] for number in sorted(runs)]


def _work(model: str, feeds: str, outputs: str, optimize: bool) -> None:
    """Write the outputs, or the reason why there are none; runs in the other process."""
    try:
        session = open_session(model, threads=1, optimize=optimize)
        arrays = {
            f"{number}:{name}": array
            for number, run in enumerate(run_samples(session, read_npz(feeds)))
            for name, array in run.outputs.items()
            if array.dtype.kind in "fiubc"
        }
        write_npz(outputs, arrays)
    except OnnxAdmmError as error:
        is_unsupported = isinstance(error, UnsupportedModel | RuntimeMissing)
        kind = UnsupportedModel if is_unsupported else WorkError
        Path(f"{outputs}{_ERROR}").write_text(f"{kind.__name__}\n{error}", encoding="utf-8")


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "1")
