"""Quantised graphs: between QuantizeLinear and DequantizeLinear channels pass; integer arithmetic keeps them."""

from __future__ import annotations

import onnx_ir as ir

from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable

MICROSOFT = "com.microsoft"

WHOLE_RANGE = "its scale is measured over all channels at run time"
INTEGERS = "the layer computes with integers; its scales and zero points are not followed (a QDQ model would be)"

REASONS = {
    ("", "ConvInteger"): INTEGERS,
    ("", "DynamicQuantizeLinear"): WHOLE_RANGE,
    ("", "MatMulInteger"): INTEGERS,
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


def refuse(flow: Flow, node: ir.Node) -> None:
    """Say why the channels stay."""
    raise Blocked(REASONS[("" if node.domain == "ai.onnx" else node.domain, node.op_type)])


RULES: RuleTable = {
    **dict.fromkeys(REASONS, refuse),
    **{(domain, op): quantize for domain in ("", MICROSOFT) for op in ("DequantizeLinear", "QuantizeLinear")},
}
