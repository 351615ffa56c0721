"""Element-wise operators: labels that meet are tied, constants follow."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkc.analysis import moves
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable
from shrinkc.analysis.labels import Labels, Shape, compress, labelled_axes

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]

NARY = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
]


def unary(flow: Flow, node: ir.Node) -> None:
    """One tensor in, the same positions out; bounds and ratios are scalars."""
    labels = flow.labels_of(node.inputs[0])
    for output in node.outputs:
        flow.assign(output, labels)


def nary(flow: Flow, node: ir.Node) -> None:
    """Several tensors that broadcast against each other."""
    shape = flow.shape(node.outputs[0])
    labels = _meet(flow, node, shape)
    for index, value in enumerate(node.inputs):
        if flow.is_constant(value):
            flow.follow(node, index, labels, Role.SCALES if node.op_type == "Mul" else Role.FOLLOWS)
    flow.assign(node.outputs[0], labels)


def _meet(flow: Flow, node: ir.Node, shape: Shape) -> Labels:
    """Labels of the result.

    Operands that span every labelled axis are tied.  One that broadcasts over some of them, as a norm per head does over
    the dims of the head, is the head of those rows; one without channels that broadcasts is frozen.
    """
    operands = [value for value in node.inputs if value is not None and not flow.is_constant(value)]
    aligned = [(moves.expand(flow.labels_of(value), len(shape)), _align(flow.shape(value), len(shape))) for value in operands]
    varying = {axis for labels, _ in aligned for axis in labelled_axes(labels)}
    spans = [all(dims[axis] == shape[axis] for axis in varying) for _, dims in aligned]
    if not any(spans):
        raise Blocked("operands carry channels on different axes")
    full = np.broadcast_arrays(*(labels for (labels, _), does_span in zip(aligned, spans, strict=True) if does_span))
    for other in full[1:]:
        flow.space.tie(full[0], other)
    result = compress(full[0])
    for (labels, _), does_span in zip(aligned, spans, strict=True):
        if not does_span and not labelled_axes(labels):
            flow.freeze(labels, node, "it is broadcast over channels")
        elif not does_span:
            _head_rows_meet(flow, node, labels, result)
    return result


def _head_rows_meet(flow: Flow, node: ir.Node, heads: Labels, rows: Labels) -> None:
    """One label for every row: tied to the rows where they do not lie on axes of their own."""
    if not set(labelled_axes(heads)) <= set(labelled_axes(rows)):
        raise Blocked("operands carry channels on different axes")
    flow.link_heads(node, heads, rows)


def _align(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + shape


MICROSOFT_UNARY = ["Gelu", "QuickGelu"]
MICROSOFT_NARY = ["BiasGelu", "FastGelu"]

RULES: RuleTable = {
    **{("", op): unary for op in UNARY},
    **{("", op): nary for op in NARY},
    **{("com.microsoft", op): unary for op in MICROSOFT_UNARY},
    **{("com.microsoft", op): nary for op in MICROSOFT_NARY},
}
