"""Normalisations that mix channels, beyond LayerNormalization: over groups, by root mean square, after a skip."""

from __future__ import annotations

import onnx_ir as ir

from shrinkc.analysis import moves
from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.analysis.flow import Balance, Blocked, Flow, Role, RuleTable
from shrinkc.analysis.labels import Labels, labelled_axes
from shrinkc.analysis.oprules.normalization import softmax
from shrinkc.analysis.oprules.statistics import assign_with_statistics

MICROSOFT = "com.microsoft"


def group_normalization(flow: Flow, node: ir.Node) -> None:
    """GroupNormalization: every group keeps equally many; up to opset 20 scale and bias have one entry per group."""
    flow.require_constant(node, 1, 2)
    channels, groups = flow.channels(node.inputs[0], 1), int_of(node, "num_groups", 1)
    flow.mix(node, 0, [1], keeps_axis=True)
    flow.balances.append(Balance(node.name or "", channels.reshape(groups, -1)))
    if flow.shadow.opsets.get("", 1) >= 21:
        flow.attach(node, 1, 0, channels, Role.SCALES)
        flow.attach(node, 2, 0, channels, Role.FOLLOWS)
    flow.assign_channels(node.outputs[0], channels, 1)


def rms_normalization(flow: Flow, node: ir.Node) -> None:
    """RMSNormalization and SimplifiedLayerNormalization, over the last axes."""
    flow.require_constant(node, 1)
    labels = flow.labels_of(node.inputs[0])
    axis = int_of(node, "axis", -1) % labels.ndim
    flow.mix(node, 0, list(range(axis, labels.ndim)), keeps_axis=True)
    flow.follow(node, 1, labels, Role.SCALES)
    assign_with_statistics(flow, node, labels, list(range(axis, labels.ndim)))


def skip_normalization(flow: Flow, node: ir.Node) -> None:
    """SkipLayerNormalization and SkipSimplifiedLayerNormalization: inputs are added, then normalised over the last axis."""
    parameters = (2, 3) if node.op_type == "SkipSimplifiedLayerNormalization" else (2, 3, 4)
    flow.require_constant(node, *parameters)
    labels = flow.labels_of(node.inputs[0])
    if any(axis != labels.ndim - 1 for axis in labelled_axes(labels)):
        raise Blocked("channels lie on an axis that it does not normalise")
    _tie_skip(flow, node, labels)
    flow.mix(node, 0, [labels.ndim - 1], keeps_axis=True)
    for index in parameters:
        if input_at(node, index) is not None:
            flow.follow(node, index, labels, Role.SCALES if index == 2 else Role.FOLLOWS)
    assign_with_statistics(flow, node, labels, [labels.ndim - 1])


def _tie_skip(flow: Flow, node: ir.Node, labels: Labels) -> None:
    """The second summand may lack the batch; it has the same channels."""
    skip = node.inputs[1]
    if flow.is_constant(skip):
        flow.follow(node, 1, labels)
        return
    own = moves.expand(flow.labels_of(skip), labels.ndim)
    if labelled_axes(own) != labelled_axes(labels):
        raise Blocked("what it adds does not have the channels of its first input")
    flow.space.tie(own, labels)
    flow.mix(node, 1, [flow.labels_of(skip).ndim - 1], keeps_axis=False)


def mean_variance_normalization(flow: Flow, node: ir.Node) -> None:
    """MeanVarianceNormalization, by default over batch and space.

    Without anything added to the deviation a silent channel is zero by zero, so even channels that are not mixed are
    removed rather than zeroed.
    """
    labels = flow.labels_of(node.inputs[0])
    flow.mix(node, 0, list(range(labels.ndim)), keeps_axis=True)
    flow.assign(node.outputs[0], labels)


RULES: RuleTable = {
    ("", "GroupNormalization"): group_normalization,
    ("", "Hardmax"): softmax,
    ("", "MeanVarianceNormalization"): mean_variance_normalization,
    ("", "RMSNormalization"): rms_normalization,
    ("", "SimplifiedLayerNormalization"): rms_normalization,
    (MICROSOFT, "SkipLayerNormalization"): skip_normalization,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): skip_normalization,
}
