"""Convolutions whose weight is input 1, whatever else they read: channels in, channels out, and groups of both."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.attributes import int_of
from shrinkc.analysis.flow import Balance, Flow, Role, Work
from shrinkc.analysis.labels import Labels
from shrinkc.analysis.oprules.convolution import is_depthwise


def convolve(flow: Flow, node: ir.Node, inputs: Labels) -> Labels:
    """Attach the weight of a convolution, give its output channels and note its work; returns the channels."""
    weight, groups = flow.shape(node.inputs[1]), int_of(node, "group", 1)
    if is_depthwise(node, weight):
        outputs, role = inputs, Role.FOLLOWS
    else:
        outputs, role = flow.space.fresh(weight[0]), Role.PRODUCES
        grid = inputs.reshape(groups, -1)
        flow.space.tie(grid, grid[:1])  # all groups read one axis of the weight
        flow.attach(node, 1, 1, grid[0], Role.CONSUMES)
        balance(flow, node, outputs, groups)
    flow.attach(node, 1, 0, outputs, role)
    flow.assign_channels(node.outputs[0], outputs, 1)
    spatial = flow.shape(node.outputs[0])
    flow.work.append(Work(node, spatial[0] * math.prod(spatial[2:]) * math.prod(weight), 1))
    return outputs


def balance(flow: Flow, node: ir.Node, channels: Labels, groups: int) -> None:
    """Every group keeps equally many channels."""
    if groups > 1:
        flow.balances.append(Balance(node.name or "", np.asarray(channels).reshape(groups, -1)))
