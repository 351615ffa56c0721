"""Element-wise operators: labels that meet are tied, constants follow."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from shrinkc.analysis import moves
from shrinkc.analysis.attributes import input_at
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable
from shrinkc.analysis.labels import Labels, Shape, along, compress, labelled_axes

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


SINGULAR = frozenset({"Acosh", "Log", "Reciprocal"})
"""Operators that make infinity or no number of a silent channel, which is zero: it has to be gone before them."""


def unary(flow: Flow, node: ir.Node) -> None:
    """One tensor in, the same positions out; bounds and ratios are scalars."""
    labels = flow.labels_of(node.inputs[0])
    if node.op_type == "Dropout" and flow.shadow[input_at(node, 2)].value is not None and flow.known(node, 2).any():
        raise Blocked("it draws random numbers, one per channel")
    for bound in node.inputs[1:]:
        if bound in flow.labels:
            flow.freeze(flow.labels[bound], node, "it is a bound or a ratio for all channels")
    if node.op_type in SINGULAR:
        flow.mix(node, 0, list(range(labels.ndim)), keeps_axis=True)
    for output in node.outputs:
        flow.assign(output, labels)


def nary(flow: Flow, node: ir.Node) -> None:
    """Several tensors that broadcast against each other."""
    if flow.shadow.opsets.get("", 1) < 7 and len({flow.shape(value) for value in node.inputs}) > 1:
        raise Blocked("operands of different shapes were lined up in another way before opset 7")
    shape = flow.shape(node.outputs[0])
    labels = _spread_constant(flow, node, shape, _meet(flow, node, shape))
    for index, value in enumerate(node.inputs):
        if flow.is_constant(value):
            flow.follow(node, index, labels, Role.SCALES if node.op_type == "Mul" else Role.FOLLOWS)
    flow.assign(node.outputs[0], labels)
    if node.op_type == "Div" and not flow.is_constant(node.inputs[1]):
        _part_from_zero(flow, node, len(shape))


def _part_from_zero(flow: Flow, node: ir.Node, rank: int) -> None:
    """A silent channel must be gone before it divides: zero by zero is no number.

    Channels inside heads are left alone: what divides there is a norm or a sum that is kept away from zero anyway.
    """
    if len(labelled_axes(flow.labels_of(node.outputs[0]))) > 1:
        return
    operands = [index for index, value in enumerate(node.inputs) if not flow.is_constant(value)]
    operands = [index for index in operands if labelled_axes(flow.labels_of(node.inputs[index]))]
    full = [index for index in operands if len(flow.shape(node.inputs[index])) == rank]
    if not full or not labelled_axes(flow.labels_of(node.inputs[1])):
        return
    for index in operands:
        flow.mix(node, index, list(range(rank)), keeps_axis=index == full[0])


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
    for (labels, dims), does_span in zip(aligned, spans, strict=True):
        held = [axis for axis in labelled_axes(result) if dims[axis] > 1]
        if not does_span and (not labelled_axes(labels) or _is_table(flow, labels, result)):
            flow.freeze(labels, node, "it is broadcast over channels")
            _keep_rows(flow, node, result, held)
        elif not does_span:
            _head_rows_meet(flow, node, labels, result)
    return result


def _is_table(flow: Flow, labels: Labels, rows: Labels) -> bool:
    """Whether an operand lies along the last axis of the rows and comes from stored numbers, as rotary positions do."""
    if max(labelled_axes(labels)) != max(labelled_axes(rows)):
        return False
    classes = flow.space.classes()
    own = set(classes[labels].ravel().tolist())
    roles = {each.role for each in flow.attachments if not own.isdisjoint(classes[each.labels].tolist())}
    return bool(roles) and roles <= {Role.FOLLOWS, Role.SCALES}


def _keep_rows(flow: Flow, node: ir.Node, rows: Labels, held: list[int]) -> None:
    """Channels go by whole rows: what they meet along the axes ``held`` is one for all rows, and stays whole."""
    outer = [size if axis in labelled_axes(rows) and axis not in held else 1 for axis, size in enumerate(rows.shape)]
    if held:
        flow.link_heads(node, flow.space.fresh(math.prod(outer)).reshape(outer), rows, is_rigid=True)


def _head_rows_meet(flow: Flow, node: ir.Node, heads: Labels, rows: Labels) -> None:
    """One label for every row; what lies along other axes only, as a mask over positions does, meets none and stays."""
    own, common = set(labelled_axes(heads)), set(labelled_axes(heads)) & set(labelled_axes(rows))
    if own == common:
        flow.link_heads(node, heads, rows)
    elif common:
        raise Blocked("operands carry channels on different axes")
    else:
        flow.freeze(heads, node, "it meets other channels across an axis of its own")


def _spread_constant(flow: Flow, node: ir.Node, shape: Shape, labels: Labels) -> Labels:
    """A vector of constants that meets a computed number makes channels of its own, to be tied further on."""
    if labelled_axes(labels):
        return labels
    dims = [_align(flow.shape(value), len(shape)) for value in node.inputs if value is not None and not flow.is_constant(value)]
    spread = [axis for axis, size in enumerate(shape) if size > 1 and all(dim[axis] == 1 for dim in dims)]
    if len(spread) != 1:
        return labels
    flow.freeze(labels, node, "it is broadcast over channels")
    return along(flow.space.fresh(shape[spread[0]]), spread[0], len(shape))


def _align(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + shape


RULES: RuleTable = {**{("", op): unary for op in UNARY}, **{("", op): nary for op in NARY}}
