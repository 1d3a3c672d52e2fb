"""``onnx-admm annotate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_admm.cli.console import say
from onnx_admm.cli.target import BIND, COST_MODEL, TARGET, cost_model_of, parse_bindings


def annotate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The model.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Path of the annotated copy; never IN.")],
    cost_model: Annotated[str | None, COST_MODEL] = None,
    processor: Annotated[str | None, TARGET] = None,
    bind: Annotated[list[str] | None, BIND] = None,
) -> None:
    """Write a copy with the cost of each node.

    Writes the cost (by default the bytes), the compression option and the break-even pruning ratio of each
    node into its metadata. Viewers such as Netron show them.

    \b
      onnx-admm annotate net.onnx annotated.onnx
      onnx-admm annotate net.onnx annotated.onnx --cost-model admm-nn --bind N=1
    """
    from onnx_admm import api
    from onnx_admm.config.registry import cost_model as find
    from onnx_admm.config.registry import profile_file

    spec = cost_model_of(processor, cost_model) or "storage"
    facts = api.annotate(source, target, find(spec), parse_bindings(bind or ()), profile=profile_file(spec))
    nodes = {(row.scope, row.node) for row in facts.rows}
    say(f"{target} written: {len(nodes)} nodes priced by '{spec}', {len(facts.unpriced)} not.")
