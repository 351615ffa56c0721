"""The other side of the proof: the original with the removed channels silenced, and both models with other weights.

Every removed slice is set to zero, at the weights that produce the channel and at those that read it (to one where it
divides).  Operators that mix channels without weights, such as a normalisation over channels, are made to see the kept
channels only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.analysis.constants import QUANTIZERS, is_fill
from shrinkc.analysis.flow import Mixing
from shrinkc.analysis.groups import Analysis, BoolArray, stored_tensors
from shrinkc.analysis.labels import Shape, along, labelled_axes
from shrinkc.edits import TensorEdit, cut, is_per_group, tensor_edits
from shrinkc.errors import VerificationError
from shrinkc.surgery import Surgery, open_copy

ZERO_POINTS: Mapping[tuple[str, int], tuple[int, int | None]] = {
    ("DequantizeLinear", 0): (2, None),
    ("ConvInteger", 1): (3, 0),
    ("MatMulInteger", 1): (3, -1),
}
"""By operator and input of integers: where their zero point is, and along which axis there is one each (None: ``axis``)."""

Draw = Callable[[TensorEdit, np.ndarray], np.ndarray]
"""Gives an edited tensor other values, at its full size."""


def masked_original(analysis: Analysis, is_kept: BoolArray, shapes: dict[str, Shape], draw: Draw | None = None) -> ir.Model:
    """Copy of the original in which every removed channel is silent.

    Parameters
    ----------
    analysis : Analysis
    is_kept : ndarray of bool
    shapes : mapping of input name to shape
    draw : callable, optional
        Replaces the values of the planned tensors first.
    """

    def silenced(edit: TensorEdit, array: np.ndarray) -> np.ndarray:
        return _silenced((draw or as_is)(edit, array), edit)

    surgery = with_tensors(analysis, is_kept, shapes, silenced)
    restricted: set[ir.Node] = set()
    for mixing, classes in analysis.mixings():
        if not is_kept[classes].all():
            _restrict(surgery, mixing, with_parameters=mixing.node not in restricted)
            restricted.add(mixing.node)
    return surgery.model


def with_tensors(analysis: Analysis, is_kept: BoolArray, shapes: dict[str, Shape], draw: Draw) -> Surgery:
    """Copy of the original with other values in the planned tensors, at full size, shared ones copied as planned."""
    surgery = open_copy(analysis, is_kept, shapes)
    for edit in sorted(tensor_edits(analysis, is_kept), key=lambda edit: edit.copy_name is None):
        base = _filled(edit.tensor) if is_fill(edit.tensor) else shrinkc_ir.stored_array(edit.tensor)
        _place(surgery, edit, draw(edit, base))
    return surgery


def _place(surgery: Surgery, edit: TensorEdit, array: np.ndarray) -> None:
    """Give the uses of an edit a tensor of full size."""
    value = surgery.add_constant(edit.copy_name or f"{edit.tensor.name}.masked", array)
    for node, index in edit.uses:
        surgery.nodes[node].replace_input_with(index, value)


def _silenced(array: np.ndarray, edit: TensorEdit) -> np.ndarray:
    if any(_scales_integers(node, slot) for node, slot in edit.uses):
        return array  # the integers beside it are silenced
    array, silence = array.copy(), _silence(array, edit)
    for axis, removed in edit.removal:
        if is_per_group(removed):
            for part, own in zip(np.split(array, len(removed)), removed, strict=True):
                part[:, list(own)] = 0
            continue
        index: list[Any] = [slice(None)] * array.ndim
        index[axis] = list(removed)
        array[tuple(index)] = silence[tuple(index)]
    return array


def _silence(array: np.ndarray, edit: TensorEdit) -> np.ndarray:
    """What a silent channel holds: zero, one where it divides, the zero point where integers stand for numbers."""
    node, slot = edit.uses[0]
    place, axis = ZERO_POINTS.get((node.op_type, slot), (0, 0))
    zero_point = input_at(node, place) if place else None
    if zero_point is not None and shrinkc_ir.constant_tensor(zero_point) is not None:
        zeros = shrinkc_ir.stored_array(zero_point)
        axis = int_of(node, "axis", 1) if axis is None else axis
        zeros = zeros.reshape(()) if zeros.size == 1 else along(zeros, axis, array.ndim)
        return np.broadcast_to(zeros, array.shape)
    return np.full(array.shape, int(any(_divides(node, slot) for node, slot in edit.uses)), array.dtype)


def _scales_integers(node: ir.Node, slot: int) -> bool:
    return (node.op_type in QUANTIZERS and slot > 0) or (node.op_type in ("ConvInteger", "MatMulInteger") and slot == 3)


def _divides(node: ir.Node, slot: int) -> bool:
    return (node.op_type, slot) in {("BatchNormalization", 4), ("Div", 1), ("Pow", 1)} or node.op_type in (
        "Reciprocal",
        "Log",
        "Sqrt",
    )


def _restrict(surgery: Surgery, mixing: Mixing, *, with_parameters: bool) -> None:
    """Let a mixing operator see the kept channels only; where it keeps the axis, put them back among zeros."""
    node, original = surgery.nodes[mixing.node], mixing.node
    data = original.inputs[mixing.input_index]
    if data is None:
        raise VerificationError("a mixing node lost its input", where=original.name or original.op_type)
    kept = surgery.kept_positions(data, mixing.axis)
    _gather_input(surgery, node, mixing.input_index, kept, mixing.axis)
    if with_parameters:  # a node may mix over several axes, or several inputs; its parameters are cut once
        _gather_parameters(surgery, original, node)
    for place, output in enumerate(original.outputs if mixing.keeps_axis else ()):
        classes = surgery.analysis.classes_of(output)
        if classes is not None and mixing.axis in labelled_axes(classes):
            _scatter_output(surgery, node, place, kept, (surgery.analysis.shadow.shape(data) or ())[mixing.axis], mixing.axis)


def _gather_parameters(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    for attachment in surgery.analysis.flow.attachments:
        if attachment.node is original:
            kept = np.flatnonzero(surgery.is_kept[surgery.analysis.classes[attachment.labels]])
            _gather_input(surgery, node, attachment.input_index, kept, attachment.axis)


def _gather_input(surgery: Surgery, node: ir.Node, index: int, kept: np.ndarray, axis: int) -> None:
    indices = surgery.add_constant(f"{node.outputs[0].name}.kept", kept)
    gather = ir.Node("", "Gather", [node.inputs[index], indices], [ir.AttrInt64("axis", axis)])
    gather.outputs[0].name = f"{indices.name}.values"
    surgery.model.graph.insert_before(node, gather)
    node.replace_input_with(index, gather.outputs[0])


def _scatter_output(surgery: Surgery, node: ir.Node, place_of_output: int, kept: np.ndarray, size: int, axis: int) -> None:
    output = node.outputs[place_of_output]
    fact = surgery.analysis.shadow[_original_of(surgery, output)]
    rank, dtype = len(fact.shape or ()), output.dtype or fact.dtype or ir.DataType.FLOAT
    place = np.zeros(size, np.int64)
    place[kept] = np.arange(len(kept))
    mask = np.zeros([size if other == axis else 1 for other in range(rank)], dtype.numpy())
    mask[tuple(kept if other == axis else 0 for other in range(rank))] = 1
    users = list(output.uses())
    gather = ir.Node("", "Gather", [output, surgery.add_constant(f"{output.name}.place", place)], [ir.AttrInt64("axis", axis)])
    gather.outputs[0].name = f"{output.name}.spread"
    silence = _masked(surgery, gather.outputs[0], mask, f"{output.name}.mask")
    silence.outputs[0].name = f"{output.name}.silenced"
    surgery.model.graph.insert_after(node, [gather, silence])
    for user, index in users:
        user.replace_input_with(index, silence.outputs[0])


def _masked(surgery: Surgery, value: ir.Value, mask: np.ndarray, name: str) -> ir.Node:
    """Node that keeps ``value`` where the mask is one; runtimes do not multiply small integers, but choose among them."""
    if mask.dtype.kind not in "iu":
        return ir.Node("", "Mul", [value, surgery.add_constant(name, mask)])
    zero = surgery.add_constant(f"{name}.zero", np.zeros((), mask.dtype))
    return ir.Node("", "Where", [surgery.add_constant(name, mask.astype(bool)), value, zero])


def _original_of(surgery: Surgery, value: ir.Value) -> ir.Value:
    return next(original for original, copy in surgery.values.items() if copy is value)


def as_is(edit: TensorEdit, array: np.ndarray) -> np.ndarray:
    """The real weights."""
    return array


def redraw(seed: int) -> Draw:
    """Shuffle signs and sizes of weights, move vectors; the same tensor is always drawn alike."""
    drawn: dict[ir.Value, np.ndarray] = {}

    def draw(edit: TensorEdit, array: np.ndarray) -> np.ndarray:
        if edit.tensor not in drawn:
            generator = np.random.default_rng([seed, *(edit.tensor.name or "").encode()])
            drawn[edit.tensor] = _perturbed(array, _is_positive_parameter(edit.tensor), generator)
        return drawn[edit.tensor]

    return draw


def _perturbed(array: np.ndarray, is_positive: bool, generator: np.random.Generator) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        return array
    factor = generator.random(array.shape, np.float32)
    if array.ndim > 1:  # 0.6 … 1.4 with either sign
        factor = np.where(factor < 0.5, -0.6 - 1.6 * factor, 1.6 * factor - 0.2)
        return np.asarray(array * factor).astype(array.dtype)
    shift = 0.0 if is_positive else generator.uniform(-0.2, 0.6, array.shape) * (np.abs(array).mean() + 0.1)
    return np.asarray(array * (0.6 + 0.8 * factor) + shift).astype(array.dtype)


def _is_positive_parameter(value: ir.Value) -> bool:
    """A variance, a divisor or a quantisation scale must keep its sign."""
    return any(_divides(usage.node, usage.idx) or _scales_integers(usage.node, usage.idx) for usage in value.uses())


def redrawn(pruned: ir.Model, edits: Sequence[TensorEdit], draw: Draw) -> ir.Model:
    """Copy of the pruned model with the planned tensors re-drawn before they are cut."""
    copy = pruned.clone()
    stored = {value.name: value for value in stored_tensors(copy)}
    for edit in edits:
        value = stored.get(edit.copy_name or edit.tensor.name)
        if value is None:
            _store_fill(copy, edit, draw)
        else:
            shrinkc_ir.replace_tensor(value, cut(draw(edit, shrinkc_ir.stored_array(edit.tensor)), edit.removal))
    return copy


def _store_fill(model: ir.Model, edit: TensorEdit, draw: Draw) -> None:
    """Put a stored tensor in the place of a ConstantOfShape, so that its channels can differ."""
    name = edit.copy_name or edit.tensor.name
    value = next(output for node in model.graph for output in node.outputs if output.name == name)
    array = cut(draw(edit, _filled(edit.tensor)), edit.removal)
    tensor = ir.tensor(np.ascontiguousarray(array), name=f"{name}.drawn")
    stored = ir.Value(
        name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    model.graph.register_initializer(stored)
    if model.ir_version < 4:
        model.graph.inputs.append(stored)
    value.replace_all_uses_with(stored)


def _filled(value: ir.Value) -> np.ndarray:
    """Array of a ConstantOfShape output whose shape is stored in the model."""
    node = value.producer()
    shape = None if node is None or node.inputs[0] is None else shrinkc_ir.constant_tensor(node.inputs[0])
    if node is None or shape is None:
        raise VerificationError("the size of a filled tensor is not stored in the model", where=value.name or "")
    attribute = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    return np.broadcast_to(fill.reshape(()), shape.numpy().tolist())
