"""Operators that sample or fold space at computed places: channels pass on axis 1, the places hold none."""

from __future__ import annotations

import math

import onnx_ir as ir

from shrinkc.analysis.attributes import input_at, int_of, ints_of
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable
from shrinkc.analysis.labels import labelled_axes
from shrinkc.analysis.oprules.grouped import balance, convolve


def sample(flow: Flow, node: ir.Node) -> None:
    """MaxRoiPool, RoiAlign, GridSample: the second input and the third say where."""
    _freeze_places(flow, node, 1, 2)
    flow.assign_channels(node.outputs[0], flow.channels(node.inputs[0], 1), 1)


def affine_grid(flow: Flow, node: ir.Node) -> None:
    """AffineGrid: coordinates in, coordinates out."""
    _freeze_places(flow, node, 0)
    flow.assign(node.outputs[0], flow.opaque(len(flow.shape(node.outputs[0])), node, "its numbers are coordinates"))


def _freeze_places(flow: Flow, node: ir.Node, *indices: int) -> None:
    for index in indices:
        value = input_at(node, index)
        if value in flow.labels:
            flow.freeze(flow.labels[value], node, "its numbers are coordinates")


def fold_columns(flow: Flow, node: ir.Node) -> None:
    """Col2Im: the rows of one output channel, one per position of the block, go together."""
    grid = flow.channels(node.inputs[0], 1).reshape(-1, math.prod(flow.known(node, 2).tolist()))
    flow.space.tie(grid, grid[:, :1])
    flow.assign_channels(node.outputs[0], grid[:, 0], 1)


def center_crop_pad(flow: Flow, node: ir.Node) -> None:
    """CenterCropPad over axes without channels."""
    labels = flow.labels_of(node.inputs[0])
    before, after = flow.shape(node.inputs[0]), flow.shape(node.outputs[0])
    if any(before[axis] != after[axis] for axis in labelled_axes(labels)):
        raise Blocked("it crops or pads channels")
    named = ints_of(node, "axes")
    axes = range(labels.ndim) if named is None else [axis % labels.ndim for axis in named]
    if any(axis in axes for axis in labelled_axes(labels)):
        raise Blocked("the sizes it crops to name the number of channels")
    flow.assign(node.outputs[0], labels)


def deform_conv(flow: Flow, node: ir.Node) -> None:
    """DeformConv: a convolution of which every group of offsets keeps equally many input channels."""
    flow.require_constant(node, 1, 3)
    _freeze_places(flow, node, 2, 4)
    inputs = flow.channels(node.inputs[0], 1)
    balance(flow, node, inputs, int_of(node, "offset_group", 1))
    flow.attach(node, 3, 0, convolve(flow, node, inputs), Role.FOLLOWS)


RULES: RuleTable = {
    ("", "AffineGrid"): affine_grid,
    ("", "CenterCropPad"): center_crop_pad,
    ("", "Col2Im"): fold_columns,
    ("", "DeformConv"): deform_conv,
    ("", "GridSample"): sample,
    ("", "MaxRoiPool"): sample,
    ("", "RoiAlign"): sample,
}
