"""Quantised graphs: between QuantizeLinear and DequantizeLinear channels pass, layers of integers are cut.

A layer whose output is quantised again by stored numbers (the QLinear family) keeps its channels, with the reason.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable, Work
from shrinkc.analysis.labels import Labels
from shrinkc.analysis.oprules.grouped import convolve

MICROSOFT = "com.microsoft"

INTEGERS = "the layer computes with integers; its scales and zero points are not followed (a QDQ model would be)"

REASONS = {
    ("", "QLinearConv"): INTEGERS,
    ("", "QLinearMatMul"): INTEGERS,
    **{
        (MICROSOFT, op): INTEGERS
        for op in (
            "DequantizeBFP",
            "DynamicQuantizeLSTM",
            "DynamicQuantizeMatMul",
            "MatMulBnb4",
            "MatMulInteger16",
            "MatMulIntegerToFloat",
            "MatMulNBits",
            "MulInteger",
            "QAttention",
            "QEmbedLayerNormalization",
            "QGemm",
            "QLinearAdd",
            "QLinearAveragePool",
            "QLinearConcat",
            "QLinearConv",
            "QLinearGlobalAveragePool",
            "QLinearLeakyRelu",
            "QLinearMul",
            "QLinearReduceMean",
            "QLinearSigmoid",
            "QLinearSoftmax",
            "QLinearWhere",
            "QMoE",
            "QOrderedMatMul",
            "QuantizeBFP",
            "ReduceSumInteger",
        )
    },
}


def quantize(flow: Flow, node: ir.Node) -> None:
    """QuantizeLinear and DequantizeLinear of activations, by one scale or by one per channel."""
    flow.require_constant(node, 1, 2)
    if int_of(node, "block_size", 0):
        raise Blocked("it is quantised in blocks")
    labels = flow.labels_of(node.inputs[0])
    if flow.shape(node.inputs[1]) not in ((), (1,)):
        axis = int_of(node, "axis", 1) % labels.ndim
        if labels.shape[axis] > 1:
            channels = flow.channels(node.inputs[0], axis)
            flow.attach(node, 1, 0, channels, Role.FOLLOWS)
            if input_at(node, 2) is not None:
                flow.attach(node, 2, 0, channels, Role.FOLLOWS)
    flow.assign(node.outputs[0], labels)


def dynamic_quantize(flow: Flow, node: ir.Node) -> None:
    """DynamicQuantizeLinear: the scale is measured over all that is left."""
    labels = flow.labels_of(node.inputs[0])
    flow.mix(node, 0, list(range(labels.ndim)), keeps_axis=True)
    flow.assign(node.outputs[0], labels)
    for output in node.outputs[1:]:
        flow.assign(output, flow.opaque(0, node, "its scale is one for all channels"))


def conv_integer(flow: Flow, node: ir.Node) -> None:
    """ConvInteger: a convolution of integers; its weight has a zero point, or one per output channel."""
    flow.require_constant(node, 1, 3)
    outputs = convolve(flow, node, flow.channels(node.inputs[0], 1))
    _attach_zero_point(flow, node, outputs)


def matmul_integer(flow: Flow, node: ir.Node) -> None:
    """MatMulInteger with a stored matrix on its right."""
    flow.require_constant(node, 1, 3)
    weight, labels = flow.shape(node.inputs[1]), flow.labels_of(node.inputs[0])
    if len(weight) != 2:
        raise Blocked("the constant matrix has batch axes")
    flow.attach(node, 1, 0, flow.channels(node.inputs[0], labels.ndim - 1), Role.CONSUMES)
    outputs = flow.space.fresh(weight[1])
    flow.attach(node, 1, 1, outputs, Role.PRODUCES)
    _attach_zero_point(flow, node, outputs)
    flow.assign_channels(node.outputs[0], outputs, labels.ndim - 1)
    rows = math.prod(flow.shape(node.inputs[0])[:-1])
    flow.work.append(Work(node, rows * math.prod(weight), 1))


def _attach_zero_point(flow: Flow, node: ir.Node, outputs: Labels) -> None:
    value = input_at(node, 3)
    if value is not None and flow.shape(value) not in ((), (1,)):
        flow.attach(node, 3, 0, outputs, Role.FOLLOWS)


def refuse(flow: Flow, node: ir.Node) -> None:
    """Say why the channels stay."""
    raise Blocked(REASONS[("" if node.domain == "ai.onnx" else node.domain, node.op_type)])


RULES: RuleTable = {
    ("", "ConvInteger"): conv_integer,
    ("", "DynamicQuantizeLinear"): dynamic_quantize,
    ("", "MatMulInteger"): matmul_integer,
    **dict.fromkeys(REASONS, refuse),
    **{(domain, op): quantize for domain in ("", MICROSOFT) for op in ("DequantizeLinear", "QuantizeLinear")},
}
