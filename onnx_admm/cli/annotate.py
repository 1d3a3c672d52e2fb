"""``onnx-admm annotate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_admm.cli.console import say
from onnx_admm.cli.target import BIND, COST_MODEL, parse_bindings


def annotate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The model.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Path of the annotated copy; never IN.")],
    cost_model: Annotated[str, COST_MODEL] = "storage",
    bind: Annotated[list[str] | None, BIND] = None,
) -> None:
    """Write a copy with the cost of each node.

    Writes the predicted cost, the compression option and the break-even pruning ratio of each node into its
    metadata. Viewers such as Netron show them.

    \b
      onnx-admm annotate net.onnx annotated.onnx
      onnx-admm annotate net.onnx annotated.onnx --cost-model admm-nn --bind N=1
    """
    from onnx_admm import api
    from onnx_admm.config.registry import cost_model as find
    from onnx_admm.config.registry import profile_file

    facts = api.annotate(
        source, target, find(cost_model), parse_bindings(bind or ()), profile=profile_file(cost_model)
    )
    nodes = {(row.scope, row.node) for row in facts.rows}
    say(f"{target} written: {len(nodes)} nodes priced by '{cost_model}', {len(facts.unpriced)} not.")
