"""``onnx-admm plugins``."""

from __future__ import annotations

from onnx_admm.cli.console import show


def plugins() -> None:
    """List passes, cost models and lint rules.

    Prints name, class, package and purpose of each, built in and third party. A package adds its own by the
    entry-point groups onnx_admm.passes, onnx_admm.cost_models and onnx_admm.lint_rules.

    \b
      onnx-admm plugins
    """
    from onnx_admm.config.registry import COST_MODELS, LINT_RULES, PASSES
    from onnx_admm.report.plain_table import PlainTable

    table = PlainTable("kind", "name", "class", "package", "what it does")
    for registry in (PASSES, COST_MODELS, LINT_RULES):
        for plugin in registry.plugins():
            summary = plugin.summary if plugin.problem is None else f"broken: {plugin.problem}"
            if plugin.profiles:
                summary += f" Profiles: {', '.join(plugin.profiles)}."
            table.add_row(plugin.kind, plugin.name, plugin.target, plugin.distribution, summary)
    show([table])
