"""The only place that writes tensors: carries out the removal of channels on a copy of the model.

One forward walk over the copy: tensors are cut, constants that carry sizes or positions are derived again from the new
widths, shuffles that became ragged turn into a Gather, and the shadow of the new graph is checked against the expected
shape of every value as it goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis import moves
from shrinkc.analysis.attributes import input_at
from shrinkc.analysis.constants import Use, is_fill, trace_derived
from shrinkc.analysis.flow import Blocked
from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.analysis.labels import Labels, Shape, labelled_axes
from shrinkc.analysis.shuffles import Shuffle
from shrinkc.edits import Removal, TensorEdit, cut_tensor, removals, tensor_edits
from shrinkc.errors import VerificationError
from shrinkc.resizing import RESIZERS
from shrinkc.shapes import Shadow


@dataclass
class Surgery:
    """A copy of a model under the knife, with maps from the original's nodes and values to the copy's."""

    analysis: Analysis
    is_kept: BoolArray
    model: ir.Model
    values: dict[ir.Value, ir.Value]
    nodes: dict[ir.Node, ir.Node]
    shadow: Shadow
    removals: Mapping[Use, Removal]
    taken: set[str]

    def kept(self, original: ir.Value) -> BoolArray | None:
        """Which positions of an original value stay, in the compressed form of labels; None if it is not known."""
        labels = self.analysis.classes_of(original)
        if labels is not None:
            return self.is_kept[labels]
        producer = original.producer()
        if (
            not self.analysis.shadow[original].is_static
            or producer is None
            or producer.op_type in ("Constant", "ConstantOfShape")
        ):
            return None
        return self._kept_of_constant(original)

    def _kept_of_constant(self, original: ir.Value) -> BoolArray | None:
        try:
            sources = trace_derived(self.analysis.shadow, original)
        except Blocked:
            return None
        result = np.ones((1,) * len(self.analysis.shadow.shape(original) or ()), bool)
        for source in sources:
            for axis, removed in self.removals.get(source.use, ()):
                result = result & ~np.isin(source.coordinates[axis], removed)
        return result

    def expected_shape(self, original: ir.Value) -> Shape | None:
        """Shape a value of the original must have after the removal, None if it is not known."""
        shape, kept = self.analysis.shadow.shape(original), self.kept(original)
        return None if shape is None or kept is None else moves.kept_shape(shape, kept, self.analysis.columns.get(original))

    def kept_positions(self, original: ir.Value, axis: int) -> Labels:
        """Positions along one axis of an original value that stay, sorted."""
        shape, kept = self.analysis.shadow.shape(original), self.kept(original)
        if shape is None:
            raise VerificationError("a value of unknown shape was cut", where=original.name or "")
        if kept is None or kept.shape[axis] == 1:
            return np.arange(shape[axis])
        return np.flatnonzero(kept.any(axis=tuple(other for other in range(kept.ndim) if other != axis)))

    def removals_of(self, original: ir.Node, index: int) -> Removal:
        """What the stored tensor behind an input of an original node loses."""
        value = original.inputs[index]
        return () if value is None else self.removals.get(Use(value, original, index), ())

    def fresh_name(self, stem: str) -> str:
        """Name that no value of the copy has yet: ``stem``, or with a number."""
        unique, number = stem, 1
        while unique in self.taken:
            number += 1
            unique = f"{stem}{number}"
        self.taken.add(unique)
        return unique

    def add_constant(self, name: str, array: np.ndarray) -> ir.Value:
        """Register a new initializer in the copy and in its shadow."""
        return self.add_tensor(name, ir.tensor(array))

    def add_tensor(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Register a tensor as a new initializer of the copy; it takes the name, or the name with a number."""
        graph = self.model.graph
        unique = self.fresh_name(name)
        tensor.name = unique
        value = ir.Value(
            name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        graph.register_initializer(value)
        if self.model.ir_version < 4:  # such old models list every initializer among the inputs
            graph.inputs.append(value)
        self.shadow.refresh(value)
        return value

    def set_constant_input(self, node: ir.Node, index: int, array: np.ndarray, label: str) -> None:
        """Make input ``index`` of a node of the copy the given constant, in place where nobody else reads the old one."""
        value = input_at(node, index)
        if value is not None and value.is_initializer() and not value.is_graph_output() and len(value.uses()) == 1:
            shrinkc_ir.replace_tensor(value, array)
            self.shadow.refresh(value)
            return
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, self.add_constant(f"{node.outputs[0].name}.{label}", array))
        if value is not None:
            self._discard(value)

    def replace_node(self, old: ir.Node, new: ir.Node) -> None:
        """Put ``new`` in the place of ``old``; its first output takes the old name, type, shape and users."""
        before, after = old.outputs[0], new.outputs[0]
        after.name, after.type, after.shape = before.name, before.type, before.shape
        after.metadata_props.update(before.metadata_props)
        new.metadata_props.update(old.metadata_props)
        self.model.graph.insert_before(old, new)
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        self.model.graph.remove(old, safe=True)
        for original, value in self.values.items():
            if value is before:
                self.values[original] = after

    def _discard(self, value: ir.Value) -> None:
        """Drop a constant that nobody reads any more."""
        if value.uses() or value.is_graph_output():
            return
        producer = value.producer()
        if value.is_initializer() and not value.is_graph_input() and value.name is not None:
            del self.model.graph.initializers[value.name]
        elif producer is not None and producer.op_type == "Constant":
            self.model.graph.remove(producer, safe=True)


def remove_channels(analysis: Analysis, is_kept: BoolArray, shapes: dict[str, Shape]) -> ir.Model:
    """Carry out a removal.

    Parameters
    ----------
    analysis : Analysis
        Of the original, which stays untouched.
    is_kept : ndarray of shape (n_classes + 1,), bool
        See :meth:`Analysis.keep_mask`.
    shapes : mapping of input name to shape
        The shapes the analysis was made at.

    Returns
    -------
    ir.Model
        A new model; tensors that were not cut are shared with the original.

    Raises
    ------
    VerificationError
        The new graph does not have the shapes the removal implies: a fault of an operator rule.
    """
    surgery = open_copy(analysis, is_kept, shapes)
    apply_edits(surgery, tensor_edits(analysis, is_kept))
    ragged = [shuffle for shuffle in analysis.shuffles if not _stays_rectangular(surgery, shuffle)]
    by_last = {shuffle.nodes[-1]: shuffle for shuffle in ragged}
    skipped = {node for shuffle in ragged for node in shuffle.nodes}
    _write_shapes(surgery, [value for value in surgery.values if _is_only_declared(value)])
    for node in list(analysis.model.graph):
        if node in by_last:
            _gather_instead(surgery, by_last[node])
        elif node not in skipped:
            _adapt(surgery, node)
    _write_shapes(surgery, list(surgery.values))
    return surgery.model


def open_copy(analysis: Analysis, is_kept: BoolArray, shapes: dict[str, Shape]) -> Surgery:
    """Copy a model and map every node and value of the original to its copy."""
    original, copy = analysis.model.graph, analysis.model.clone()
    values: dict[ir.Value, ir.Value] = dict(zip(original.inputs, copy.graph.inputs, strict=True))
    for name, value in original.initializers.items():
        values[value] = copy.graph.initializers[name]
    nodes = dict(zip(original, copy.graph, strict=True))
    for before, after in nodes.items():
        values.update(zip(before.outputs, after.outputs, strict=True))
    taken = {value.name or "" for value in values.values()}
    return Surgery(analysis, is_kept, copy, values, nodes, Shadow(copy, shapes), removals(analysis, is_kept), taken)


def apply_edits(surgery: Surgery, edits: Sequence[TensorEdit]) -> None:
    """Cut stored tensors, copying shared ones first."""
    for edit in sorted(edits, key=lambda edit: edit.copy_name is None):  # copies first, while the original is whole
        value = surgery.values[edit.tensor]
        if is_fill(edit.tensor):
            _cut_fill(surgery, edit, value)
            continue
        tensor = shrinkc_ir.constant_tensor(value)
        if tensor is None:
            raise VerificationError("a tensor that was to be cut is not stored", where=value.name or "")
        if edit.copy_name is None:
            shrinkc_ir.put_tensor(value, cut_tensor(tensor, edit.removal))
            surgery.shadow.refresh(value)
        else:
            _rewire(surgery, edit, surgery.add_tensor(edit.copy_name, cut_tensor(tensor, edit.removal)))


def _rewire(surgery: Surgery, edit: TensorEdit, replacement: ir.Value) -> None:
    for node, index in edit.uses:
        surgery.nodes[node].replace_input_with(index, replacement)


def _cut_fill(surgery: Surgery, edit: TensorEdit, value: ir.Value) -> None:
    """A tensor made by ConstantOfShape shrinks by changing the shape it is made from."""
    shape = list(surgery.analysis.shadow.shape(edit.tensor) or ())
    for axis, removed in edit.removal:
        shape[axis] -= len(removed)
    node = value.producer()
    if node is None:
        raise VerificationError("a filled tensor lost its node", where=value.name or "")
    if edit.copy_name is not None:
        twin = ir.Node(node.domain, node.op_type, node.inputs, node.attributes.values(), name=edit.copy_name)
        twin.outputs[0].name = edit.copy_name
        surgery.model.graph.insert_before(node, twin)
        _rewire(surgery, edit, twin.outputs[0])
        surgery.set_constant_input(twin, 0, np.asarray(shape, np.int64), "shape")
        surgery.shadow.visit(twin)
    else:
        surgery.set_constant_input(node, 0, np.asarray(shape, np.int64), "shape")


def _stays_rectangular(surgery: Surgery, shuffle: Shuffle) -> bool:
    arrays = [surgery.analysis.classes_of(value) for value in shuffle.inner]
    return all(labels is not None and moves.is_rectangle(surgery.is_kept[labels]) for labels in arrays)


def _gather_instead(surgery: Surgery, shuffle: Shuffle) -> None:
    """Replace a shuffle by one Gather of the channels that are left, in the original's order."""
    kept = surgery.kept_positions(shuffle.source, shuffle.axis)
    rank = np.full(len(shuffle.permutation), -1, np.int64)
    rank[kept] = np.arange(len(kept))
    order = rank[shuffle.permutation]
    last = surgery.nodes[shuffle.nodes[-1]]
    indices = surgery.add_constant(f"{last.outputs[0].name}.channels", order[order >= 0])
    gather = ir.Node(
        "", "Gather", [surgery.values[shuffle.source], indices], [ir.AttrInt64("axis", shuffle.axis)], name=last.name
    )
    surgery.replace_node(last, gather)
    for node in reversed(shuffle.nodes[:-1]):
        surgery.model.graph.remove(surgery.nodes[node], safe=True)
    surgery.shadow.visit(gather)
    _check_shape(surgery, shuffle.result)


def _adapt(surgery: Surgery, original: ir.Node) -> None:
    """Bring one node of the copy in line with the new widths."""
    node = surgery.nodes[original]
    _keep_computed_scalars(surgery, original, node)
    surgery.shadow.visit(node)
    resizer = RESIZERS.get(("" if original.domain == "ai.onnx" else original.domain, original.op_type))
    if resizer is not None and (_touched(surgery, original) or not _fits(surgery, original)):
        node = resizer(surgery, original, node) or node
        surgery.shadow.visit(node)
    for value in original.outputs:
        _check_shape(surgery, value)


def _touched(surgery: Surgery, original: ir.Node) -> bool:
    values = [value for value in (*original.inputs, *original.outputs) if value is not None]
    return any(kept is not None and not kept.all() for kept in map(surgery.kept, values))


SIZE_INPUTS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Pad": (1, 3),
    "Tile": (1,),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "ConstantOfShape": (0,),
    "Gather": (1,),
    "AffineGrid": (1,),
}


def _keep_computed_scalars(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Undo the change of numbers that were computed from a width and are used as numbers, such as the divisor of a mean.

    The removal is defined as zeroing channels, and zeroing does not change a divisor.  A float is multiplied back, so that
    what it owes to other, free sizes goes on following them; an integer is pinned.  Only nodes that mix such a number with
    data are looked at; arithmetic on shapes goes on following the new widths.
    """
    if surgery.analysis.shadow[original.outputs[0]].value is not None or original.domain not in ("", "ai.onnx"):
        return
    for index, value in enumerate(original.inputs):
        if value is None or index in SIZE_INPUTS.get(original.op_type, ()):
            continue
        before, after = surgery.analysis.shadow[value], surgery.shadow[surgery.values.get(value, node.inputs[index])]
        if before.is_static or before.value is None or after.value is None:
            continue
        if before.value.shape == after.value.shape and not np.array_equal(before.value, after.value):
            node.replace_input_with(index, _restored(surgery, node, index, before.value, after.value))


def _restored(surgery: Surgery, node: ir.Node, index: int, before: np.ndarray, after: np.ndarray) -> ir.Value:
    name = f"{node.outputs[0].name}.input{index}"
    if before.dtype.kind != "f" or not (np.isfinite(before).all() and np.isfinite(after).all() and after.all()):
        return surgery.add_constant(name, before)
    factor = surgery.add_constant(f"{name}.factor", np.asarray(before / after, before.dtype))
    multiply = ir.Node("", "Mul", [node.inputs[index], factor])
    multiply.outputs[0].name = surgery.fresh_name(name)
    surgery.model.graph.insert_before(node, multiply)
    surgery.shadow.visit(multiply)
    return multiply.outputs[0]


def _fits(surgery: Surgery, original: ir.Node) -> bool:
    return all(_has_expected_shape(surgery, value) for value in original.outputs)


def _has_expected_shape(surgery: Surgery, original: ir.Value) -> bool:
    if surgery.analysis.shadow[original].value is not None:
        return True  # arithmetic on shapes follows the new widths; its users are what is checked
    expected, actual = surgery.expected_shape(original), surgery.shadow.shape(surgery.values[original])
    return expected is None or actual is None or expected == actual


def _check_shape(surgery: Surgery, original: ir.Value) -> None:
    if not _has_expected_shape(surgery, original):
        expected, actual = surgery.expected_shape(original), surgery.shadow.shape(surgery.values[original])
        producer = original.producer()
        raise VerificationError(
            "surgery left a value with the wrong shape",
            where=f"{producer.op_type if producer else 'input'} {original.name}",
            because=f"expected {list(expected or ())}, the new graph gives {list(actual or ())}",
            hint="exclude the node with --exclude, and report the model",
        )


def _is_only_declared(value: ir.Value) -> bool:
    """Whether a value comes from an operator without shape inference, so that its declared shape is all that is known."""
    producer = value.producer()
    return producer is not None and producer.domain not in ("", "ai.onnx")


def _write_shapes(surgery: Surgery, originals: Sequence[ir.Value]) -> None:
    """Bring declared shapes up to date; what was symbolic or unknown stays so."""
    for original in originals:
        value, kept = surgery.values[original], surgery.kept(original)
        expected = surgery.expected_shape(original)
        if kept is None or expected is None or value.shape is None or kept.all() or len(value.shape) != len(expected):
            continue
        changed = labelled_axes(kept)
        value.shape = ir.Shape(
            [_declared(dim, expected[axis]) if axis in changed else dim for axis, dim in enumerate(value.shape)]
        )


def _declared(dim: int | ir.SymbolicDim, expected: int) -> int | None:
    """New size of an axis that got shorter; a name such as ``4*batch`` (heads and batch on one axis) holds no more."""
    return expected if isinstance(dim, int) else None
