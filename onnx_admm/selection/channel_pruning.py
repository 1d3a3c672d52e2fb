"""Output channels that can be pruned: those that are not outputs of the model, tied ones together.

Layers whose outputs are added (residual branches) write the same channels: a channel is removed only if all
of them remove it. Channels whose path through the model is not known (behind Concat, Split, a grouped
convolution) or that are outputs of the model stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx_admm.admm.sets.blocks import TiedChannels
from onnx_admm.contracts import ModelView, Skip, WeightSite
from onnx_admm.model.channels.groups import ChannelGroup, find_channel_groups


def prunable_channels(
    model: ModelView, sites: Sequence[WeightSite]
) -> tuple[tuple[TiedChannels, ...], tuple[Skip, ...]]:
    """Return the layers with prunable output channels, tied ones together, and reasons for the others.

    Args:
        model: the model.
        sites: layers to prune.
    """
    names = {site.name for site in sites}
    tied, left = list[TiedChannels](), dict[str, str]()
    for group in find_channel_groups(model):
        axes = {port.weight.name: port.axis for port in group.writers}
        why = _why_kept(group, names)
        if why is None:
            tied.append(TiedChannels(group.units, axes))
        else:
            left |= dict.fromkeys(axes.keys() & names, why)
    known = {name for group in tied for name in group.axes}
    skipped = [
        Skip(
            site.name,
            left.get(site.name, f"the readers of the channels of this {site.op_type} are not known"),
        )
        for site in sites
        if site.name not in known
    ]
    return tuple(tied), tuple(skipped)


def _why_kept(group: ChannelGroup, names: set[str]) -> str | None:
    """Return why the channels of a group stay; None where they can be pruned."""
    if group.blocked is not None:
        return group.blocked
    if not group.is_plain:
        return group.why_fixed or "its channels go together in blocks"
    if not group.readers:
        return "no layer reads its channels"
    others = sorted({port.weight.name for port in group.writers} - names)
    return f"its channels are added to those of {', '.join(others)}, which stay" if others else None
