"""Operators that pick, order or mark positions along one axis: channels on other axes pass."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.analysis.flow import Blocked, Flow, RuleTable
from shrinkc.analysis.labels import Labels


def top_k(flow: Flow, node: ir.Node) -> None:
    """TopK: values and positions, of every channel for itself."""
    labels = _without_channels(flow, node, int_of(node, "axis", -1), "it picks the largest channels")
    for output in node.outputs:
        flow.assign(output, labels)


def arg_extreme(flow: Flow, node: ir.Node) -> None:
    """ArgMax and ArgMin."""
    axis = int_of(node, "axis", 0)
    labels = _without_channels(flow, node, axis, "it computes the position of a channel")
    flow.assign(node.outputs[0], labels if int_of(node, "keepdims", 1) else labels.squeeze(axis))


def cumulative_sum(flow: Flow, node: ir.Node) -> None:
    """CumSum: over channels, those that are gone add nothing to the ones behind them."""
    labels = flow.labels_of(node.inputs[0])
    flow.mix(node, 0, [int(flow.known(node, 1).reshape(())) % labels.ndim], keeps_axis=True)
    flow.assign(node.outputs[0], labels)


def cumulative_product(flow: Flow, node: ir.Node) -> None:
    """CumProd: over channels a silent one would silence all that follow."""
    axis = int(flow.known(node, 1).reshape(()))
    flow.assign(node.outputs[0], _without_channels(flow, node, axis, "it multiplies up channels"))


def reverse_sequence(flow: Flow, node: ir.Node) -> None:
    """ReverseSequence over a time and a batch axis."""
    _without_channels(flow, node, int_of(node, "batch_axis", 1), "channels lie on the batch axis")
    labels = _without_channels(flow, node, int_of(node, "time_axis", 0), "it reverses the order of channels")
    _freeze(flow, node, 1, "its numbers are lengths of sequences")
    flow.assign(node.outputs[0], labels)


def triangle(flow: Flow, node: ir.Node) -> None:
    """Trilu: what is set to zero depends on the positions on the last two axes."""
    for axis in (-1, -2):
        labels = _without_channels(flow, node, axis, "channels lie on the triangle that it cuts out")
    flow.assign(node.outputs[0], labels)


def compress_by_mask(flow: Flow, node: ir.Node) -> None:
    """Compress along an axis."""
    if "axis" not in node.attributes:
        raise Blocked("it flattens channels before it picks")
    labels = _without_channels(flow, node, int_of(node, "axis", 0), "a mask picks channels")
    _freeze(flow, node, 1, "its values are a mask")
    flow.assign(node.outputs[0], labels)


def one_hot(flow: Flow, node: ir.Node) -> None:
    """OneHot: the positions' channels pass, the new axis has none."""
    labels = flow.labels_of(node.inputs[0])
    for index in (1, 2):
        _freeze(flow, node, index, "its numbers are sizes and levels")
    axis = int_of(node, "axis", -1) % (labels.ndim + 1)
    flow.assign(node.outputs[0], np.expand_dims(labels, axis))


def cast_like(flow: Flow, node: ir.Node) -> None:
    """CastLike: of the second input only the type matters."""
    flow.assign(node.outputs[0], flow.labels_of(node.inputs[0]))


def _without_channels(flow: Flow, node: ir.Node, axis: int, reason: str) -> Labels:
    labels = flow.labels_of(node.inputs[0])
    if labels.shape[axis] > 1:
        raise Blocked(reason)
    return labels


def _freeze(flow: Flow, node: ir.Node, index: int, reason: str) -> None:
    value = input_at(node, index)
    if value in flow.labels:
        flow.freeze(flow.labels[value], node, reason)


RULES: RuleTable = {
    ("", "ArgMax"): arg_extreme,
    ("", "ArgMin"): arg_extreme,
    ("", "BitCast"): cast_like,
    ("", "CastLike"): cast_like,
    ("", "Compress"): compress_by_mask,
    ("", "CumProd"): cumulative_product,
    ("", "CumSum"): cumulative_sum,
    ("", "OneHot"): one_hot,
    ("", "ReverseSequence"): reverse_sequence,
    ("", "TopK"): top_k,
    ("", "Trilu"): triangle,
}
