"""Data movement: labels are moved exactly as the data is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkc.analysis import moves
from shrinkc.analysis.attributes import input_at, int_of, string_of
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable
from shrinkc.analysis.labels import Labels, along, labelled_axes, uniform
from shrinkc.analysis.node_moves import MOVES, setting


def data_labels(flow: Flow, node: ir.Node) -> Labels:
    """Labels of the first input; a constant one (moved by computed sizes or positions) gets channels of its own.

    A class token that is expanded to the batch, or a table of positions that is sliced to the length, is such a constant.
    Its channels lie on axis 1 of four and more axes, else on the last; it follows what it meets there.
    """
    value = node.inputs[0]
    if not flow.is_constant(value):
        return flow.labels_of(value)
    shape = flow.shape(value)
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    if not wide:
        return uniform(int(flow.space.fresh(1)[0]), len(shape))
    axis = 1 if len(shape) > 3 and shape[1] > 1 else wide[-1]
    labels = flow.space.fresh(shape[axis])
    flow.attach(node, 0, axis, labels, Role.FOLLOWS)
    return along(labels, axis, len(shape))


def single_move(flow: Flow, node: ir.Node) -> None:
    """Operators with one data input and one output."""
    labels = data_labels(flow, node)
    flow.assign(node.outputs[0], MOVES[node.op_type](flow.shadow, node, labels))


def gather(flow: Flow, node: ir.Node) -> None:
    """Gather; a table of channel indices would become ragged, so only a list of them may thin out."""
    if flow.is_constant(node.inputs[0]):
        embedding(flow, node)
        return
    labels = flow.labels_of(node.inputs[0])
    axis = int_of(node, "axis", 0) % labels.ndim
    if axis in labelled_axes(labels) and len(flow.shape(node.inputs[1])) > 1:
        raise Blocked("channels are gathered through a table of indices")
    single_move(flow, node)


def embedding(flow: Flow, node: ir.Node) -> None:
    """Gather of rows of a stored table by computed indices: the last other axis of the table makes channels."""
    table = flow.shape(node.inputs[0])
    axis = int_of(node, "axis", 0) % len(table)
    wide = [other for other, size in enumerate(table) if other != axis and size > 1]
    moved = uniform(int(flow.space.fresh(1)[0]), len(table))
    if wide:
        labels = flow.space.fresh(table[wide[-1]])
        flow.attach(node, 0, wide[-1], labels, Role.PRODUCES)
        moved = along(labels, wide[-1], len(table))
    indices = np.zeros((1,) * len(flow.shape(node.inputs[1])), np.int64)
    flow.assign(node.outputs[0], moves.take(moved, indices, axis))


def spread(flow: Flow, node: ir.Node) -> None:
    """Expand and Tile; one channel repeated over the channel axis gives channels that can go one by one."""
    labels = data_labels(flow, node)
    before, after = flow.shape(node.inputs[0]), flow.shape(node.outputs[0])
    moved = MOVES[node.op_type](flow.shadow, node, labels)
    before = (1,) * (len(after) - len(before)) + before
    if len(after) >= 3 and before[1] == 1 and after[1] > 1 and moved.shape[1] == 1:
        flow.freeze(labels, node, "it is broadcast over channels")
        moved = flow.space.fresh(after[1]).reshape([after[1] if axis == 1 else 1 for axis in range(len(after))])
    flow.assign(node.outputs[0], moved)


def concat(flow: Flow, node: ir.Node) -> None:
    """Concat; constant parts get channels of their own along the axis and follow the others along the rest."""
    rank = len(flow.shape(node.outputs[0]))
    axis = int_of(node, "axis", 1) % rank
    shapes = [flow.shape(value) for value in node.inputs]
    if all(value in flow.labels and _is_grid_along(flow.labels[value], axis) for value in node.inputs):
        flow.assign(node.outputs[0], moves.concat([flow.labels_of(value) for value in node.inputs], shapes, axis))
        return
    across = _labels_across(flow, node, axis)
    parts = []
    for index, (value, shape) in enumerate(zip(node.inputs, shapes, strict=True)):
        if flow.is_constant(value):
            parts.append(_constant_part(flow, node, index, shape, axis, across))
        else:
            parts.append(flow.labels_of(value))
    if across is not None and not any(axis in labelled_axes(part) for part in parts):
        flow.assign(node.outputs[0], across)  # every part has the same channels, tied to each other
    else:
        flow.assign(node.outputs[0], moves.concat(parts, shapes, axis))


def _is_grid_along(labels: Labels, axis: int) -> bool:
    """Whether channels lie on ``axis`` and on others too; then rows are concatenated, and grids are settled later."""
    carried = labelled_axes(labels)
    return axis in carried and len(carried) > 1


def _labels_across(flow: Flow, node: ir.Node, axis: int) -> Labels | None:
    """Labels that the parts carry on axes other than the concatenated one, tied between the parts."""
    parts = [flow.labels_of(value) for value in node.inputs if not flow.is_constant(value)]
    first = next((part for part in parts if any(other != axis for other in labelled_axes(part))), None)
    if first is None:
        return None
    for part in parts:
        if _is_grid_along(part, axis):
            flow.make_rectangular(part)
        flow.space.tie(first.take([0], axis), part.take([0], axis))
    return first.take([0], axis)


def _constant_part(flow: Flow, node: ir.Node, index: int, shape: tuple[int, ...], axis: int, across: Labels | None) -> Labels:
    if across is not None:
        flow.follow(node, index, across)
        return across
    labels = flow.space.fresh(shape[axis])
    flow.attach(node, index, axis, labels, Role.FOLLOWS)
    return labels.reshape([shape[axis] if other == axis else 1 for other in range(len(shape))])


def split(flow: Flow, node: ir.Node) -> None:
    """Split: every output takes its run of labels."""
    labels = flow.labels_of(node.inputs[0])
    axis = int_of(node, "axis", 0) % labels.ndim
    start = 0
    for output in node.outputs:
        stop = start + flow.shape(output)[axis]
        flow.assign(output, moves.slice_axis(labels, axis, start, stop, 1))
        start = stop


def pad(flow: Flow, node: ir.Node) -> None:
    """Pad; new positions on an axis with labels are channels of their own (they hold a constant)."""
    labels = flow.labels_of(node.inputs[0])
    shape = flow.shape(node.inputs[0])
    pads = setting(flow.shadow, node, 1, "pads")
    axes = setting(flow.shadow, node, 3, "axes") if input_at(node, 3) is not None else list(range(labels.ndim))
    if pads is None or axes is None:
        raise Blocked("the padding is not known")
    for position, axis in enumerate(axis % labels.ndim for axis in axes):
        front, back = pads[position], pads[position + len(axes)]
        if (front or back) and labels.shape[axis] > 1:
            if string_of(node, "mode", "constant") != "constant" or min(front, back) < 0:
                raise Blocked("padding over channels by reflection or cropping")
            labels = moves.pad_axis(labels, shape[axis], axis, flow.space.fresh(front), flow.space.fresh(back))
    flow.assign(node.outputs[0], labels)


def resize(flow: Flow, node: ir.Node) -> None:
    """Resize and Upsample: channels stay, space changes."""
    labels = flow.labels_of(node.inputs[0])
    before, after = flow.shape(node.inputs[0]), flow.shape(node.outputs[0])
    if any(before[axis] != after[axis] for axis in labelled_axes(labels)):
        raise Blocked("it resizes over channels")
    flow.assign(node.outputs[0], labels)


def depth_to_space(flow: Flow, node: ir.Node) -> None:
    """DepthToSpace: the input channels that land in one output channel go together."""
    block = int_of(node, "blocksize", 1) ** 2
    channels = flow.channels(node.inputs[0], 1)
    depth = len(channels) // block
    if string_of(node, "mode", "DCR") == "DCR":
        grid = channels.reshape(block, depth)
    else:
        grid = channels.reshape(depth, block).T
    flow.space.tie(grid, grid[:1])
    flow.assign_channels(node.outputs[0], grid[0], 1)


def space_to_depth(flow: Flow, node: ir.Node) -> None:
    """SpaceToDepth: an input channel becomes one output channel per position of the block."""
    block = int_of(node, "blocksize", 1) ** 2
    flow.assign_channels(node.outputs[0], np.tile(flow.channels(node.inputs[0], 1), block), 1)


def opaque_output(flow: Flow, node: ir.Node) -> None:
    """Size and Shape of an activation: the result holds no channels."""
    flow.assign(node.outputs[0], uniform(int(flow.space.fresh(1)[0]), len(flow.shape(node.outputs[0]))))


RULES: RuleTable = {
    **{("", op): single_move for op in MOVES},
    ("", "Gather"): gather,
    ("", "Expand"): spread,
    ("", "Tile"): spread,
    ("", "Concat"): concat,
    ("", "Split"): split,
    ("", "Pad"): pad,
    ("", "Resize"): resize,
    ("", "Upsample"): resize,
    ("", "DepthToSpace"): depth_to_space,
    ("", "SpaceToDepth"): space_to_depth,
    ("", "Shape"): opaque_output,
    ("", "Size"): opaque_output,
}
