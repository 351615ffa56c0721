"""Convolutions: the output gets new channels, the weight is tied to both sides.

Convolution weights are ``(O, I/g, k...)``; a transposed convolution's are ``(I, O/g, k...)``.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import int_of
from shrinkc.analysis.flow import Balance, Flow, Regrouping, Role, RuleTable, Work
from shrinkc.analysis.labels import Labels, Shape


def conv(flow: Flow, node: ir.Node) -> None:
    """Conv: plain, depthwise (in and out are one) and grouped (every group keeps equally many)."""
    flow.require_constant(node, 1, 2)
    weight, groups = flow.shape(node.inputs[1]), int_of(node, "group", 1)
    inputs = flow.channels(node.inputs[0], 1)
    if groups == 1:
        flow.attach(node, 1, 1, inputs, Role.CONSUMES)
        outputs = flow.space.fresh(weight[0])
    elif is_depthwise(node, weight):
        outputs = np.repeat(inputs, weight[0] // groups)
    else:
        _attach_shared_axis(flow, node, 1, inputs, groups)
        outputs = _balanced(flow, node, flow.space.fresh(weight[0]), groups)
    role = Role.FOLLOWS if is_depthwise(node, weight) else Role.PRODUCES
    _finish(flow, node, outputs, 0, role)
    spatial = flow.shape(node.outputs[0])
    flow.work.append(Work(node, spatial[0] * math.prod(spatial[2:]) * math.prod(weight), 1))


def conv_transpose(flow: Flow, node: ir.Node) -> None:
    """ConvTranspose, the mirror of :func:`conv`."""
    flow.require_constant(node, 1, 2)
    weight, groups = flow.shape(node.inputs[1]), int_of(node, "group", 1)
    inputs = flow.channels(node.inputs[0], 1)
    if is_depthwise(node, weight):
        flow.attach(node, 1, 0, inputs, Role.FOLLOWS)
        flow.attach(node, 2, 0, inputs, Role.FOLLOWS)
        flow.assign_channels(node.outputs[0], inputs, 1)
    else:
        flow.attach(node, 1, 0, _balanced(flow, node, inputs, groups), Role.CONSUMES)
        shared = flow.space.fresh(weight[1])
        flow.attach(node, 1, 1, shared, Role.PRODUCES)
        flow.attach(node, 2, 0, np.tile(shared, groups), Role.FOLLOWS)
        flow.assign_channels(node.outputs[0], np.tile(shared, groups), 1)
    spatial = flow.shape(node.inputs[0])
    flow.work.append(Work(node, spatial[0] * math.prod(spatial[2:]) * math.prod(weight), 1))


def is_depthwise(node: ir.Node, weight: Shape) -> bool:
    """Whether every group of a (transposed) convolution reads one channel; one group of one channel is a plain one."""
    groups = int_of(node, "group", 1)
    return groups > 1 and weight[1] == 1 and (node.op_type == "Conv" or weight[0] == groups)


def _attach_shared_axis(flow: Flow, node: ir.Node, axis: int, channels: Labels, groups: int) -> None:
    """All groups read one weight axis, so the j-th channel of every group goes or stays together.

    Unless groups are asked to be independent: then the weight is put together anew from what every group keeps.
    """
    grid = channels.reshape(groups, -1)
    weight = node.inputs[1]
    if flow.independent_groups and weight is not None and shrinkc_ir.constant_tensor(weight) is not None:
        flow.balances.append(Balance(node.name or "", grid))
        flow.regroupings.append(Regrouping(node, grid))
        return
    flow.space.tie(grid, grid[:1])
    flow.attach(node, 1, axis, grid[0], Role.CONSUMES)


def _balanced(flow: Flow, node: ir.Node, channels: Labels, groups: int) -> Labels:
    """Every group must keep the same number of these channels."""
    if groups > 1:
        flow.balances.append(Balance(node.name or "", channels.reshape(groups, -1)))
    return channels


def _finish(flow: Flow, node: ir.Node, outputs: Labels, axis: int, role: Role) -> None:
    flow.attach(node, 1, axis, outputs, role)
    flow.attach(node, 2, 0, outputs, Role.FOLLOWS)
    flow.assign_channels(node.outputs[0], outputs, 1)


RULES: RuleTable = {("", "Conv"): conv, ("", "ConvTranspose"): conv_transpose}
