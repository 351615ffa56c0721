"""Deriving again what a node says about sizes and positions, once channels are gone.  One function per operator.

Each takes the surgery, the original node and its copy, and returns the node that stands in the copy's place if it had
to be replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from shrinkc import resizing_attention
from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.analysis.labels import Labels, labelled_axes
from shrinkc.analysis.node_moves import positions, slices_of
from shrinkc.analysis.oprules.convolution import is_depthwise
from shrinkc.errors import VerificationError
from shrinkc.resizing_indices import gather_nd, scatter_nd
from shrinkc.resizing_states import recurrent

if TYPE_CHECKING:
    from shrinkc.surgery import Surgery

Resizer = Callable[["Surgery", ir.Node, ir.Node], "ir.Node | None"]


def conv(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Depthwise: as many groups as channels are left.  Grouped: the number of groups stays."""
    weight = surgery.analysis.shadow.shape(original.inputs[1])
    channels = surgery.expected_shape(_data(original))
    if weight is not None and channels is not None and is_depthwise(original, weight):
        node.attributes["group"] = ir.AttrInt64("group", channels[1])


def reshape(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Reshape and Expand: sizes of the axes that carry channels."""
    surgery.shadow.visit(node)
    expected = surgery.expected_shape(original.outputs[0])
    before = surgery.analysis.shadow.shape(original.outputs[0])
    if expected is None or before is None or surgery.shadow.shape(node.outputs[0]) == expected:
        return
    if input_at(original, 1) is None:
        old = [int(size) for size in original.attributes["shape"].as_ints()]
        node.attributes["shape"] = ir.AttrInt64s("shape", _resized(old, before, expected))
        return
    fact = surgery.analysis.shadow[original.inputs[1]]
    if fact.value is None:
        raise VerificationError("a computed shape cannot be derived again", where=original.name or "")
    target = _resized([int(size) for size in fact.value], before, expected)
    if not fact.is_static and _patch_concat(surgery, node, target, before, expected):
        return
    if not fact.is_static:
        target = _free_batch(target)
    surgery.set_constant_input(node, 1, np.asarray(target, np.int64), "shape")


def _resized(target: list[int], before: tuple[int, ...], expected: tuple[int, ...]) -> list[int]:
    """New target: axes whose width did not change keep what they said (0 and -1 included)."""
    offset = len(expected) - len(target)
    return [
        size if size in (0, -1) or before[axis + offset] == expected[axis + offset] else expected[axis + offset]
        for axis, size in enumerate(target)
    ]


def _free_batch(target: list[int]) -> list[int]:
    """A shape computed at run time becomes a constant; its first axis, the batch, stays free."""
    return [-1, *target[1:]] if -1 not in target else [0, *target[1:]]


def _patch_concat(
    surgery: Surgery, node: ir.Node, target: list[int], before: tuple[int, ...], expected: tuple[int, ...]
) -> bool:
    """Replace just those pieces of a concatenated target that name a changed width; the rest stays computed."""
    concat = _own_concat(surgery, node, 1)
    if concat is None:
        return False
    start = 0
    for index, piece in enumerate(concat.inputs):
        length = (surgery.shadow.shape(piece) or (0,))[0]
        run = slice(start, start + length)
        if any(size > 0 for size in target[run]) and (
            before[run] != expected[run] or _has_drifted(surgery, piece, expected[run])
        ):
            new = _target_piece(surgery, concat, piece, target, run, before, expected)
            concat.replace_input_with(index, new)
        start += length
    surgery.shadow.visit(concat)
    surgery.shadow.visit(node)
    return start == len(target) and surgery.shadow.shape(node.outputs[0]) == expected


def _has_drifted(surgery: Surgery, piece: ir.Value | None, expected: tuple[int, ...]) -> bool:
    """Whether a piece that should say what it said is computed from a width that has changed."""
    fact = surgery.shadow[piece]
    now = () if fact.is_static or fact.value is None else tuple(int(size) for size in np.ravel(fact.value))
    return bool(now) and min(now) > 0 and now != expected


def _target_piece(
    surgery: Surgery,
    concat: ir.Node,
    piece: ir.Value | None,
    target: list[int],
    run: slice,
    before: tuple[int, ...],
    expected: tuple[int, ...],
) -> ir.Value:
    """A piece of a target: a stored one is written anew, of a computed one only the widths that changed.

    A computed piece may hold free sizes beside the width (channels * height * width, heads * batch): it is scaled.
    """
    name = f"{concat.outputs[0].name}.size{run.start}"
    fact = surgery.shadow[piece]
    if piece is None or fact.is_static:
        return surgery.add_constant(name, np.asarray(target[run], np.int64))
    if run.stop - run.start > 1:
        return _patched_piece(surgery, concat, piece, before[run], expected[run])
    now = None if fact.value is None else int(np.ravel(fact.value)[0])
    if now == expected[run.start]:
        return piece  # computed from a width that has changed already
    if not now or now < 0:
        return surgery.add_constant(name, np.asarray(target[run] if -1 in target else [-1], np.int64))
    return _scaled(surgery, concat, piece, expected[run.start], now)


def _scaled(surgery: Surgery, before: ir.Node, piece: ir.Value, numerator: int, denominator: int) -> ir.Value:
    """A computed size times a fraction; the width that is a factor of it makes the division come out even."""
    divisor = math.gcd(numerator, denominator)
    for kind, number in (("Mul", numerator // divisor), ("Div", denominator // divisor)):
        if number != 1:
            name = f"{before.outputs[0].name}.{kind.lower()}"
            node = ir.Node("", kind, [piece, surgery.add_constant(f"{name}.by", np.asarray([number], np.int64))])
            node.outputs[0].name = surgery.fresh_name(name)
            surgery.model.graph.insert_before(before, node)
            surgery.shadow.visit(node)
            piece = node.outputs[0]
    return piece


def _own_concat(surgery: Surgery, node: ir.Node, index: int) -> ir.Node | None:
    """Concat behind an input of a node, copied first if others read it too; None if no Concat is there."""
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.op_type != "Concat":
        return None
    if len(value.uses()) == 1 and not value.is_graph_output():
        return producer
    twin = ir.Node("", "Concat", producer.inputs, producer.attributes.values())
    twin.outputs[0].name = surgery.fresh_name(f"{node.outputs[0].name}.target")
    surgery.model.graph.insert_before(node, twin)
    node.replace_input_with(index, twin.outputs[0])
    surgery.shadow.visit(twin)
    return twin


def tile(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Tile: one channel is repeated as often as channels are left."""
    before, after = surgery.analysis.shadow.shape(_data(original)), surgery.analysis.shadow.shape(original.outputs[0])
    expected = surgery.expected_shape(original.outputs[0])
    repeats = surgery.analysis.shadow[input_at(original, 1)].value
    if before is None or after is None or expected is None or repeats is None:
        return
    new = [
        expected[axis] if size == 1 and after[axis] != expected[axis] else int(repeats[axis])
        for axis, size in enumerate(before)
    ]
    surgery.shadow.visit(node)
    if surgery.shadow.shape(node.outputs[0]) != expected:
        surgery.set_constant_input(node, 1, np.asarray(new, np.int64), "repeats")


def split(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Split: the width of every output, written out unless the split stays even."""
    rank = len(surgery.analysis.shadow.shape(original.inputs[0]) or ())
    axis = int_of(original, "axis", 0) % rank
    shapes = [surgery.expected_shape(output) for output in original.outputs]
    sizes = [shape[axis] for shape in shapes if shape is not None]
    has_sizes = input_at(original, 1) is not None or "split" in original.attributes
    if not has_sizes and len(set(sizes)) == 1:
        return
    if surgery.shadow.opsets.get("", 1) < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    node.attributes.pop("num_outputs", None)
    surgery.set_constant_input(node, 1, np.asarray(sizes, np.int64), "split")


def slice_(surgery: Surgery, original: ir.Node, node: ir.Node) -> ir.Node | None:
    """Slice: bounds among the channels that are left; a Gather where they are not evenly spaced any more."""
    data = _data(original)
    shape = surgery.analysis.shadow.shape(data) or ()
    bounds = slices_of(surgery.analysis.shadow, original)
    new, uneven = [], []
    for axis, start, stop, step in bounds:
        wanted = _survivors(surgery, data, axis, np.asarray(positions(shape[axis], start, stop, step), np.int64))
        if len(surgery.kept_positions(data, axis)) == shape[axis]:
            new.append((axis, start, stop, step))
        elif (even := _as_slice(wanted)) is not None:
            new.append((axis, *even))
        elif len(bounds) == 1:
            return _as_gather(surgery, node, wanted, axis)
        else:
            uneven.append((axis, wanted))
    for axis, wanted in uneven:
        _gather_before(surgery, node, wanted, axis)
    # Bounds computed from a width moved with it, so it is the new graph's bounds that count.
    if uneven or new != slices_of(surgery.shadow, node):
        _write_bounds(surgery, node, new or [(0, 0, 2**62, 1)])
    return None


def _survivors(surgery: Surgery, data: ir.Value, axis: int, wanted: Labels) -> Labels:
    """Where the wanted positions that stay lie among all positions that stay."""
    kept = surgery.kept_positions(data, axis)
    return np.searchsorted(kept, wanted[np.isin(wanted, kept)])


def _as_slice(wanted: Labels) -> tuple[int, int, int] | None:
    """Positions as (start, stop, step), None if they are not evenly spaced."""
    if not len(wanted):
        return 0, 0, 1
    step = int(wanted[1] - wanted[0]) if len(wanted) > 1 else 1
    if len(wanted) > 1 and (step == 0 or (np.diff(wanted) != step).any()):
        return None
    stop = int(wanted[-1]) + (1 if step > 0 else -1)
    return int(wanted[0]), stop if stop >= 0 else -(2**31), step


def _as_gather(surgery: Surgery, node: ir.Node, wanted: Labels, axis: int) -> ir.Node:
    indices = surgery.add_constant(f"{node.outputs[0].name}.channels", wanted)
    gather = ir.Node("", "Gather", [node.inputs[0], indices], [ir.AttrInt64("axis", axis)], name=node.name)
    surgery.replace_node(node, gather)
    return gather


def _gather_before(surgery: Surgery, node: ir.Node, wanted: Labels, axis: int) -> None:
    """Pick positions of one axis first; the slice is left with the other axes."""
    name = f"{node.outputs[0].name}.channels{axis}"
    gather = ir.Node("", "Gather", [node.inputs[0], surgery.add_constant(name, wanted)], [ir.AttrInt64("axis", axis)])
    gather.outputs[0].name = surgery.fresh_name(f"{name}.picked")
    surgery.model.graph.insert_before(node, gather)
    surgery.shadow.visit(gather)
    node.replace_input_with(0, gather.outputs[0])


def _write_bounds(surgery: Surgery, node: ir.Node, bounds: list[tuple[int, int, int, int]]) -> None:
    columns = dict(zip(("axes", "starts", "ends", "steps"), map(list, zip(*bounds, strict=True)), strict=True))
    if surgery.shadow.opsets.get("", 1) < 10:
        for name in ("axes", "starts", "ends"):
            node.attributes[name] = ir.AttrInt64s(name, columns[name])
        return
    for index, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        surgery.set_constant_input(node, index, np.asarray(columns[name], np.int64), name)


def gather(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Gather over channels: indices of the survivors."""
    data = _data(original)
    shape, kept_data = surgery.analysis.shadow.shape(data), surgery.kept(data)
    indices = surgery.analysis.shadow[original.inputs[1]].value
    if kept_data is None or shape is None or indices is None:
        return
    axis = int_of(original, "axis", 0) % len(shape)
    if axis not in labelled_axes(kept_data):
        return
    size = shape[axis]
    kept = surgery.kept_positions(data, axis)
    wanted = np.asarray(indices, np.int64) % size
    stays = np.isin(wanted, kept)
    new = np.searchsorted(kept, wanted[stays] if wanted.ndim else wanted)
    surgery.set_constant_input(node, 1, np.asarray(new, np.int64), "channels")


def pad(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Pad over channels: as many new channels at either end as stay."""
    data, output = _data(original), original.outputs[0]
    before, after = surgery.analysis.shadow.shape(data), surgery.analysis.shadow.shape(output)
    fact = surgery.analysis.shadow[input_at(original, 1)]
    amounts = fact.value if fact.value is not None else np.asarray(original.attributes["pads"].as_ints())
    named = surgery.analysis.shadow[input_at(original, 3)].value
    axes = list(range(len(before or ()))) if named is None else [int(axis) % len(before or ()) for axis in named]
    new = [int(amount) for amount in amounts]
    for place, axis in enumerate(axes):
        front = new[place]
        if before is None or after is None or before[axis] == after[axis]:
            continue
        kept = surgery.kept_positions(output, axis)
        new[place] = int((kept < front).sum())
        new[place + len(axes)] = int((kept >= front + before[axis]).sum())
    if input_at(original, 1) is None:
        node.attributes["pads"] = ir.AttrInt64s("pads", new)
        return
    now = surgery.shadow[node.inputs[1]].value  # amounts computed from a width moved with it
    if now is None or new != [int(amount) for amount in now]:
        surgery.set_constant_input(node, 1, np.asarray(new, np.int64), "pads")


def resize(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Resize by sizes: the channel axis among them."""
    fact = surgery.analysis.shadow[input_at(original, 3)]
    before, expected = surgery.analysis.shadow.shape(original.outputs[0]), surgery.expected_shape(original.outputs[0])
    if fact.value is None or before is None or expected is None or before == expected:
        return
    now = surgery.shadow[node.inputs[3]].value
    if now is not None and [int(size) for size in now] == list(expected):
        return
    target = _resized([int(size) for size in fact.value], before, expected)
    if fact.is_static or not _patch_sizes(surgery, node, before, expected):
        surgery.set_constant_input(node, 3, np.asarray(target, np.int64), "sizes")


def _patch_sizes(surgery: Surgery, node: ir.Node, before: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Computed sizes keep their spatial part: only the pieces of a Concat that hold a changed width are replaced."""
    concat = _own_concat(surgery, node, 3)
    if concat is None:
        return False
    start = 0
    for index, piece in enumerate(concat.inputs):
        length = (surgery.shadow.shape(piece) or (0,))[0]
        run = slice(start, start + length)
        if before[run] != expected[run]:
            concat.replace_input_with(index, _patched_piece(surgery, concat, piece, before[run], expected[run]))
        start += length
    surgery.shadow.visit(concat)
    return True


def _patched_piece(
    surgery: Surgery, concat: ir.Node, piece: ir.Value | None, before: tuple[int, ...], expected: tuple[int, ...]
) -> ir.Value:
    """A run of sizes with the changed widths written in: Where keeps what is computed, the batch among it."""
    name = f"{concat.outputs[0].name}.widths"
    numbers = surgery.add_constant(name, np.asarray(expected, np.int64))
    changed = np.asarray([a != b for a, b in zip(before, expected, strict=True)])
    if changed.all() or piece is None:
        return numbers
    where = ir.Node("", "Where", [surgery.add_constant(f"{name}.changed", changed), numbers, piece])
    where.outputs[0].name = surgery.fresh_name(f"{name}.patched")
    surgery.model.graph.insert_before(concat, where)
    surgery.shadow.visit(where)
    return where.outputs[0]


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise VerificationError("a node lost its data input", where=node.name or node.op_type)
    return value


RESIZERS: dict[tuple[str, str], Resizer] = {
    ("", "Conv"): conv,
    ("", "ConvTranspose"): conv,
    ("", "ConvInteger"): conv,
    ("", "DeformConv"): conv,
    ("", "Reshape"): reshape,
    ("", "Expand"): reshape,
    ("", "Tile"): tile,
    ("", "Split"): split,
    ("", "Slice"): slice_,
    ("", "Gather"): gather,
    ("", "GatherND"): gather_nd,
    ("", "ScatterND"): scatter_nd,
    ("", "Pad"): pad,
    ("", "Resize"): resize,
    ("", "LSTM"): recurrent,
    ("", "GRU"): recurrent,
    ("", "RNN"): recurrent,
    **resizing_attention.RESIZERS,
}
"""By domain and operator."""
