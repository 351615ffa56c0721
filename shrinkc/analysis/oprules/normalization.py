"""Normalisations: per-channel parameters follow; those that mix channels say so."""

from __future__ import annotations

import onnx_ir as ir

from shrinkc.analysis.attributes import int_of
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable
from shrinkc.analysis.labels import labelled_axes
from shrinkc.analysis.oprules.statistics import assign_with_statistics


def batch_normalization(flow: Flow, node: ir.Node) -> None:
    """BatchNormalization: scale, shift, mean and variance follow."""
    flow.require_constant(node, 1, 2, 3, 4)
    _per_channel(flow, node, 4)


def instance_normalization(flow: Flow, node: ir.Node) -> None:
    """InstanceNormalization mixes over space only, so removing a channel is exact.

    Written-out group normalisations lay channels on the axes it mixes.  Of several groups whole ones can go, which is
    exact too; of a single one its channels, which is not.
    """
    flow.require_constant(node, 1, 2)
    labels = flow.labels_of(node.inputs[0])
    mixed = [axis for axis in labelled_axes(labels) if axis > 1]
    if not mixed or 1 in labelled_axes(labels):
        _per_channel(flow, node, 2)
        return
    flow.mix(node, 0, mixed, keeps_axis=True)
    flow.assign(node.outputs[0], labels)


def _per_channel(flow: Flow, node: ir.Node, last: int) -> None:
    channels = flow.channels(node.inputs[0], 1)
    flow.attach(node, 1, 0, channels, Role.SCALES)
    for index in range(2, last + 1):
        flow.attach(node, index, 0, channels, Role.FOLLOWS)
    flow.assign_channels(node.outputs[0], channels, 1)
    for statistics in node.outputs[1:]:  # of a BatchNormalization in training mode
        flow.assign_channels(statistics, channels, 0)


def layer_normalization(flow: Flow, node: ir.Node) -> None:
    """LayerNormalization over the channel axis: removable, not equal to zeroing."""
    flow.require_constant(node, 1, 2)
    labels = flow.labels_of(node.inputs[0])
    axis = int_of(node, "axis", -1) % labels.ndim
    flow.mix(node, 0, list(range(axis, labels.ndim)), keeps_axis=True)
    for index in range(1, len(node.inputs)):
        if node.inputs[index] is not None:
            flow.follow(node, index, labels, Role.SCALES if index == 1 else Role.FOLLOWS)
    assign_with_statistics(flow, node, labels, list(range(axis, labels.ndim)))


def local_response(flow: Flow, node: ir.Node) -> None:
    """LRN sums over neighbouring channels: removing one would give its neighbours other neighbours."""
    raise Blocked("it normalises over neighbouring channels")


def softmax(flow: Flow, node: ir.Node) -> None:
    """Softmax-like operators mix over one axis, before opset 13 over all axes from it on."""
    labels = flow.labels_of(node.inputs[0])
    version = flow.shadow.opsets.get("", 1)
    axis = int_of(node, "axis", -1 if version >= 13 else 1) % labels.ndim
    axes = [axis] if version >= 13 or node.op_type == "LpNormalization" else list(range(axis, labels.ndim))
    flow.mix(node, 0, axes, keeps_axis=True)
    flow.assign(node.outputs[0], labels)


RULES: RuleTable = {
    ("", "BatchNormalization"): batch_normalization,
    ("", "InstanceNormalization"): instance_normalization,
    ("", "LayerNormalization"): layer_normalization,
    ("", "LRN"): local_response,
    ("", "Softmax"): softmax,
    ("", "LogSoftmax"): softmax,
    ("", "LpNormalization"): softmax,
}
