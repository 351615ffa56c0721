"""Reading and writing at positions that a tensor of indices names.

Indices are as wide as what they pick, so they lose the channels that it loses.  Where indices name channels themselves
they have to be stored, so that surgery can derive them again.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkc.analysis import moves
from shrinkc.analysis.attributes import int_of
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable
from shrinkc.analysis.labels import Labels, Shape, along, compress, labelled_axes


def gather_elements(flow: Flow, node: ir.Node) -> None:
    """GatherElements along an axis without channels."""
    labels = flow.labels_of(node.inputs[0])
    _refuse_axis(node, labels, "channels are picked element by element")
    _tie_operand(flow, node, 1, labels)
    flow.assign(node.outputs[0], labels)


def scatter_elements(flow: Flow, node: ir.Node) -> None:
    """ScatterElements and Scatter along an axis without channels."""
    labels = flow.labels_of(node.inputs[2 if flow.is_constant(node.inputs[0]) else 0])
    _refuse_axis(node, labels, "channels are overwritten element by element")
    for index in range(3):
        _tie_operand(flow, node, index, labels)
    flow.assign(node.outputs[0], labels)


def _refuse_axis(node: ir.Node, labels: Labels, reason: str) -> None:
    if labels.shape[int_of(node, "axis", 0)] > 1:
        raise Blocked(reason)


def _tie_operand(flow: Flow, node: ir.Node, index: int, labels: Labels) -> None:
    """Tie an input to labels laid out as it is; a stored one follows."""
    value = node.inputs[index]
    if flow.is_constant(value):
        flow.follow(node, index, labels)
        return
    own = flow.labels_of(value)
    if labelled_axes(own) != labelled_axes(labels):
        raise Blocked(f"input {index} ({value.name if value else ''}) does not have the channels that the others have")
    flow.space.tie(own, labels)


def gather_nd(flow: Flow, node: ir.Node) -> None:
    """GatherND: channels behind the indexed axes pass; a stored list of channels works like Gather."""
    labels, shape = flow.labels_of(node.inputs[0]), flow.shape(node.inputs[0])
    indices = flow.shape(node.inputs[1])
    batch = int_of(node, "batch_dims", 0)
    first = batch + indices[-1]
    _freeze_positions(flow, node)
    if all(axis >= first for axis in labelled_axes(labels)):
        result = labels.reshape((1,) * (len(indices) - 1) + labels.shape[first:])
    elif batch or first != 1 or len(indices) != 2:
        raise Blocked("channels are gathered at positions that are not a list")
    else:
        result = moves.take(labels, _stored_positions(flow, node, shape)[0], 0)
    flow.assign(node.outputs[0], result)


def _freeze_positions(flow: Flow, node: ir.Node) -> None:
    value = node.inputs[1]
    if value in flow.labels:
        flow.freeze(flow.labels[value], node, "its numbers are positions")


def _stored_positions(flow: Flow, node: ir.Node, shape: Shape) -> list[Labels]:
    """One array per indexed axis: where on it each index points.

    A list of channels may be computed from their number, which is fixed; lists over free sizes have to be stored.
    """
    known = flow.shadow[node.inputs[1]].value
    if known is None or (known.ndim != 2 and not flow.is_constant(node.inputs[1])):
        raise Blocked("the positions are computed, from the data or for every element")
    return [np.asarray(known[..., axis], np.int64) % shape[axis] for axis in range(known.shape[-1])]


def scatter_nd(flow: Flow, node: ir.Node) -> None:
    """ScatterND: what is written is tied to what it overwrites."""
    depth = flow.shape(node.inputs[1])[-1]
    labels = _labels_of_target(flow, node, depth)
    _freeze_positions(flow, node)
    if any(axis < depth for axis in labelled_axes(labels)):
        _write_channels(flow, node, labels)
    else:
        lead = len(flow.shape(node.inputs[1])) - 1
        _tie_operand(flow, node, 2, labels.reshape((1,) * lead + labels.shape[depth:]))
    flow.assign(node.outputs[0], labels)


def _labels_of_target(flow: Flow, node: ir.Node, depth: int) -> Labels:
    """Labels of the tensor that is written into; a stored one gets those of what is written into it."""
    target = node.inputs[0]
    if not flow.is_constant(target):
        return flow.labels_of(target)
    shape, written = flow.shape(target), flow.labels_of(node.inputs[2])
    lead = written.ndim - (len(shape) - depth)
    if all(axis >= lead for axis in labelled_axes(written)):
        labels = written.reshape((1,) * depth + written.shape[lead:])
        flow.follow(node, 0, labels)
        return labels
    axis = _axis_of_written_channels(flow, node, shape, labelled_axes(written))
    fresh = flow.space.fresh(shape[axis])
    flow.attach(node, 0, axis, fresh, Role.FOLLOWS)
    return along(fresh, axis, len(shape))


def _axis_of_written_channels(flow: Flow, node: ir.Node, shape: Shape, carried: tuple[int, ...]) -> int:
    """Axis of the target over which the position runs along the channels of what is written."""
    for axis, positions in enumerate(_stored_positions(flow, node, shape)):
        if labelled_axes(compress(positions)) == carried:
            return axis
    raise Blocked("what is written carries channels on an axis that is not one of the target")


def _write_channels(flow: Flow, node: ir.Node, labels: Labels) -> None:
    """Stored positions name channels: what is written at one goes with it."""
    positions = _stored_positions(flow, node, flow.shape(node.inputs[0]))
    chosen = tuple(where if labels.shape[axis] > 1 else np.zeros_like(where) for axis, where in enumerate(positions))
    written = compress(labels[chosen])
    carried = labelled_axes(written)
    if len(labelled_axes(labels)) > 1 or len(carried) > 1:
        raise Blocked("channels are written at positions that form no rectangle")
    if not carried:
        flow.freeze(written, node, "a single channel is overwritten")
    _tie_operand(flow, node, 2, written)


RULES: RuleTable = {
    ("", "GatherElements"): gather_elements,
    ("", "GatherND"): gather_nd,
    ("", "Scatter"): scatter_elements,
    ("", "ScatterElements"): scatter_elements,
    ("", "ScatterND"): scatter_nd,
}
