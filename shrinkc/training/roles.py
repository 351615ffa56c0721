"""What a stored tensor is for: to be learned, to be followed (running statistics), or to be left alone.

A float initializer is **trainable** if it has rank 1 or more and more than one element, and no reader takes it for a setting:
scales and regions of Resize and Upsample, bounds of Clip, values of Pad and OneHot, ratios, exponents, bounds of Range,
quantisation scales, thresholds.  A tensor of one element is trainable only where a layer reads it as weight or bias (the bias
of a layer with one output).  Running means and variances of BatchNormalization are statistics.  Rank-0 tensors, and what
Constant nodes hold, are not trainable; weights among the latter become initializers first (:mod:`shrinkc.training.lifting`).
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

LEARNED: dict[str, frozenset[int]] = {
    name: frozenset(positions)
    for name, positions in {
        "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "PRelu": (1,), "Einsum": (0, 1),
        "BatchNormalization": (1, 2), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2),
        "GroupNormalization": (1, 2), "RMSNormalization": (1,), "LSTM": (1, 2, 3, 7), "GRU": (1, 2, 3), "RNN": (1, 2, 3),
        "DeformConv": (1, 3),
    }.items()
}  # fmt: skip
"""Inputs that layers learn, whatever their size."""

SETTINGS: dict[str, frozenset[int]] = {
    name: frozenset(positions)
    for name, positions in {
        "Resize": (1, 2), "Upsample": (1,), "Clip": (1, 2), "Pad": (2,), "OneHot": (2,), "Dropout": (1,), "Range": (0, 1, 2),
        "Pow": (1,), "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7),
        "QLinearMatMul": (1, 2, 4, 5, 6, 7), "NonMaxSuppression": (3, 4), "RoiAlign": (1,), "ConstantOfShape": (0,),
        "MelWeightMatrix": (3, 4), "STFT": (2,), "TfIdfVectorizer": (0,), "Mod": (1,),
        "Equal": (0, 1), "Greater": (0, 1), "GreaterOrEqual": (0, 1), "Less": (0, 1), "LessOrEqual": (0, 1),
    }.items()
}  # fmt: skip
"""Inputs that are settings, or through which no gradient flows."""

STATISTICS = {"BatchNormalization": frozenset({3, 4})}


def is_statistic(value: ir.Value) -> bool:
    """Whether a stored tensor is a running mean or variance."""
    return any(index in STATISTICS.get(node.op_type, ()) for node, index in readers(value))


def is_learned(value: ir.Value) -> bool:
    """Whether a stored tensor is trainable by the rule above."""
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 16:
        return False
    shape = tensor.shape.numpy()
    uses = list(readers(value))
    if not shape or tensor.size == 0 or any(index in STATISTICS.get(node.op_type, ()) for node, index in uses):
        return False
    if tensor.size == 1:
        return any(index in LEARNED.get(node.op_type, ()) for node, index in uses)
    return bool(uses) and not any(index in SETTINGS.get(node.op_type, ()) for node, index in uses)


def readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Nodes that read a value, and as which input; through Identity and Cast too."""
    for node, index in value.uses():
        if node.op_type in ("Identity", "Cast") and node.domain in ("", "ai.onnx"):
            yield from readers(node.outputs[0])
        else:
            yield node, index
