"""Channel shuffles: rearrangements that lay channels out on a grid for a moment.

Removing arbitrary channels would leave a ragged grid.  As the whole region only permutes channels, surgery can put one
Gather in its place, and any channels may go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.flow import Flow
from shrinkc.analysis.labels import Labels, along, labelled_axes
from shrinkc.analysis.node_moves import MOVES, REARRANGEMENTS


@dataclass(frozen=True)
class Shuffle:
    """A chain of rearrangements that only permutes the channels of ``source`` along ``axis``.

    Channel ``i`` of ``result`` is channel ``permutation[i]`` of ``source``; ``inner`` are the values between them.
    """

    source: ir.Value
    result: ir.Value
    axis: int
    permutation: Labels
    nodes: tuple[ir.Node, ...]
    inner: tuple[ir.Value, ...]


def find_shuffles(flow: Flow, graph: ir.Graph) -> list[Shuffle]:
    """Find the shuffles of a graph."""
    return [shuffle for node in graph if (shuffle := _shuffle_from(flow, node)) is not None]


def _shuffle_from(flow: Flow, node: ir.Node) -> Shuffle | None:
    """Shuffle whose first node is ``node``, if one starts there."""
    if not _rearranges(node) or node.inputs[0] not in flow.labels:
        return None
    source = node.inputs[0]
    if len(labelled_axes(flow.labels[source])) != 1:
        return None
    nodes = _grid_chain(flow, node)
    if len(nodes) < 2:
        return None
    axis = labelled_axes(flow.labels[source])[0]
    permutation = _permutation(flow, nodes, axis)
    if permutation is None:
        return None
    inner = tuple(member.outputs[0] for member in nodes[:-1])
    return Shuffle(source, nodes[-1].outputs[0], axis, permutation, tuple(nodes), inner)


def _rearranges(node: ir.Node) -> bool:
    return node.op_type in REARRANGEMENTS and node.domain in ("", "ai.onnx")


def _grid_chain(flow: Flow, first: ir.Node) -> list[ir.Node]:
    """Rearrangements from ``first`` on, as long as the value between them spans two axes and nobody else reads it."""
    nodes = [first]
    while (value := nodes[-1].outputs[0]) in flow.labels and len(labelled_axes(flow.labels[value])) > 1:
        users = list(value.consumers())
        if len(users) != 1 or value.is_graph_output() or not _rearranges(users[0]) or users[0].inputs[0] is not value:
            return []
        nodes.append(users[0])
    return nodes


def _permutation(flow: Flow, nodes: list[ir.Node], axis: int) -> Labels | None:
    """How the chain permutes ``axis``; None if it does anything else."""
    source, result = nodes[0].inputs[0], nodes[-1].outputs[0]
    shape = flow.shadow.shape(source)
    if shape is None or flow.shadow.shape(result) != shape:
        return None
    permutation = None
    for other, size in enumerate(shape):
        moved = along(np.arange(size), other, len(shape))
        for node in nodes:
            moved = MOVES[node.op_type](flow.shadow, node, moved)
        if moved.ndim != len(shape) or any(a != other for a in labelled_axes(moved)):
            return None
        if other == axis:
            permutation = moved.reshape(-1)
        elif (moved.reshape(-1) != np.arange(size)).any():
            return None
    return permutation
