"""Labels after everything that ties them has been found: what goes together, whole heads or dims inside them, grids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.constants import UNTOUCHED, Cut, Use, stored_cuts
from shrinkc.analysis.flow import Attachment, Blocked, Flow, Heads
from shrinkc.analysis.grids import HeadPolicy, settle_followings, settle_grids, settle_heads, settle_mixings
from shrinkc.analysis.kinds import Kind, attention_heads
from shrinkc.analysis.labels import Labels
from shrinkc.analysis.shuffles import Shuffle, find_shuffles


@dataclass(frozen=True)
class Settled:
    """Labels after everything that ties them has been found."""

    flow: Flow
    both: list[Heads]
    cuts: list[tuple[Cut, Attachment]]
    untraced: list[Attachment]
    shuffles: list[Shuffle]
    columns: dict[ir.Value, int]


Walk = Callable[[], Flow]


def settled_for(graph: ir.Graph, walked: Walk, kinds: frozenset[Kind]) -> Settled:
    """Tie the labels of a graph so that channels of the given kinds can go.

    Where whole heads and channels inside them shall both go, but some rows share channels, heads take precedence; where
    all heads are one, the channels do.
    """
    settled = settle(graph, walked(), lambda flow: policy(flow, kinds))
    if not settled.both:
        return settled
    rows_only = settle(graph, walked(), lambda flow: policy(flow, kinds - {Kind.HEADS}))
    heads_only = settle(graph, walked(), lambda flow: policy(flow, kinds - {Kind.HEAD_DIM}))
    compromise = {**dict.fromkeys(crowded(rows_only), "whole"), **dict.fromkeys(lonely(heads_only), "rows")}
    return settle(graph, walked(), lambda flow: policy(flow, kinds, compromise))


def settle(graph: ir.Graph, flow: Flow, policy_for: Callable[[Flow], HeadPolicy]) -> Settled:
    """Tie the labels of a walk over a graph under one policy for heads."""
    both = settle_heads(flow, policy_for(flow))
    settle_followings(flow)
    settle_mixings(flow)
    cuts, untraced = _stored(flow)
    shuffles = find_shuffles(flow, graph)
    columns = settle_grids(flow, graph, {value for shuffle in shuffles for value in shuffle.inner})
    return Settled(flow, both, cuts, untraced, shuffles, columns)


def policy(flow: Flow, kinds: frozenset[Kind], compromise: Mapping[int, str] | None = None) -> HeadPolicy:
    """What may go of which heads; those of a normalisation per group of channels always stay.

    ``compromise`` says it for the numbers of those heads that cannot go beside the channels in their rows.
    """
    attention = attention_heads(flow)

    def chosen(number: int, heads: Heads) -> str:
        if not attention[number] or Kind.HEADS not in kinds:
            return "rows"
        return "whole" if Kind.HEAD_DIM not in kinds else (compromise or {}).get(number, "both")

    return chosen


def crowded(settled: Settled) -> list[int]:
    """Heads some channel of which lies in two rows, as where rotary positions tie the dims of all heads."""
    classes = settled.flow.space.classes()
    found = []
    for number, heads in enumerate(settled.flow.heads):
        rows = np.unique(classes[heads.rows], axis=0)  # queries of one key have one row together, that is no crowd
        if len(rows) == 1 or len(np.unique(rows)) < sum(len(np.unique(row)) for row in rows):
            found.append(number)
    return found


def lonely(settled: Settled) -> list[int]:
    """Heads that are all tied to each other, as where one key serves them all: there is none to remove."""
    classes = settled.flow.space.classes()
    return [number for number, heads in enumerate(settled.flow.heads) if len(np.unique(classes[heads.heads])) == 1]


def _stored(flow: Flow) -> tuple[list[tuple[Cut, Attachment]], list[Attachment]]:
    """Cuts of stored tensors, and the attachments that could not be traced to any."""
    cuts: list[tuple[Cut, Attachment]] = []
    untraced: list[Attachment] = []
    seen: dict[tuple[Use, int], Labels] = {}
    for attachment in flow.attachments:
        try:
            found = stored_cuts(flow.shadow, flow.space, attachment)
        except Blocked as blocked:
            flow.freeze(attachment.labels, attachment.node, str(blocked))
            untraced.append(attachment)
            continue
        for cut in found:
            cuts.append((cut, attachment))
            # Two readers behind one edge (say, of one Identity) see the same stored tensor: they must agree.
            earlier = seen.setdefault((cut.use, cut.axis), cut.labels)
            both = (earlier != UNTOUCHED) & (cut.labels != UNTOUCHED)
            flow.space.tie(earlier[both], cut.labels[both])
            seen[cut.use, cut.axis] = np.where(earlier == UNTOUCHED, cut.labels, earlier)
    _freeze_for_silent_readers(flow, cuts, seen)
    return cuts, untraced


def _freeze_for_silent_readers(flow: Flow, cuts: list[tuple[Cut, Attachment]], seen: Mapping[tuple[Use, int], Labels]) -> None:
    """Keep what one reader behind an edge could lose while another, which sees no channels there, needs it whole."""
    spoken: dict[tuple[Use, int], set[tuple[ir.Node, int]]] = defaultdict(set)
    for cut, attachment in cuts:
        spoken[cut.use, cut.axis].add((attachment.node, attachment.input_index))
    for (use, axis), labels in seen.items():
        for node, index in _readers(flow, use.node, use.input_index):
            if (node, index) not in spoken[use, axis]:
                flow.freeze(labels[labels != UNTOUCHED], node, "it reads the same stored tensor and needs it whole")


def _readers(flow: Flow, node: ir.Node, index: int) -> Iterator[tuple[ir.Node, int]]:
    """Inputs at which a stored tensor meets data, behind the nodes that only derive other constants from it."""
    if node.op_type in ("Shape", "Size"):  # whoever reads a size gets the new one
        return
    if not all(flow.is_constant(output) for output in node.outputs):
        yield node, index
        return
    for output in node.outputs:
        for usage in output.uses():
            yield from _readers(flow, usage.node, usage.idx)
