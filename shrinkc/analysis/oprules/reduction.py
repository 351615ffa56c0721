"""Pooling and reductions: space shrinks, channels pass; a reduction over channels mixes them."""

from __future__ import annotations

import onnx_ir as ir

from shrinkc.analysis.attributes import int_of
from shrinkc.analysis.flow import Blocked, Flow, RuleTable
from shrinkc.analysis.labels import Labels, column_axis, labelled_axes, uniform
from shrinkc.analysis.node_moves import setting

POOLS = ["AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"]
REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]


def pool(flow: Flow, node: ir.Node) -> None:
    """Pooling over space."""
    channels = flow.channels(node.inputs[0], 1)
    flow.assign_channels(node.outputs[0], channels, 1)
    for indices in node.outputs[1:]:
        if indices.uses():
            raise Blocked("the indices of the maxima are used")


def reduce(flow: Flow, node: ir.Node) -> None:
    """Reductions; over an axis with labels they mix channels and the result has none."""
    labels = flow.labels_of(node.inputs[0])
    axes = [axis % labels.ndim for axis in setting(flow.shadow, node, 1, "axes") or _default_axes(node, labels.ndim)]
    carried = labelled_axes(labels)
    if any(axis not in axes for axis in carried):
        labels = _partly(flow, node, labels, [axis for axis in carried if axis in axes])
    elif carried:
        flow.mix(node, 0, axes, keeps_axis=False)
        labels = uniform(int(flow.space.fresh(1)[0]), labels.ndim)
    if not int_of(node, "keepdims", 1):
        kept = [labels.shape[axis] for axis in range(labels.ndim) if axis not in axes]
        labels = labels.reshape(kept)
    flow.assign(node.outputs[0], labels)


def _partly(flow: Flow, node: ir.Node, labels: Labels, summed: list[int]) -> Labels:
    """Of several axes that carry channels some are summed up: those inside rows leave a head each, others go together."""
    if summed and column_axis(labels) in summed:
        flow.mix(node, 0, summed, keeps_axis=False)
        return flow.head_rows(node, labels, summed)
    return flow.tie_across(labels, summed)


def _default_axes(node: ir.Node, rank: int) -> list[int]:
    return [] if int_of(node, "noop_with_empty_axes", 0) else list(range(rank))


RULES: RuleTable = {**{("", op): pool for op in POOLS}, **{("", op): reduce for op in REDUCTIONS}}
