"""Where a constant comes from: from the tensor a node reads back to the initializers it was made of.

Exporters put Identity, Transpose, Reshape and the like between an initializer and its user.  A cut planned for the
derived tensor has to be made in the stored one.  To map it back, the coordinates of the stored tensor are pushed
through the same data movement that carries labels; where they end up says which stored index each derived index is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis import moves
from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.analysis.flow import Attachment, Blocked
from shrinkc.analysis.labels import Labels, LabelSpace, along
from shrinkc.analysis.node_moves import MOVES, run_of, shape_of
from shrinkc.analysis.oprules.elementwise import NARY, UNARY
from shrinkc.shapes import Shadow

QUANTIZERS = frozenset({"DequantizeLinear", "QuantizeLinear"})

UNTOUCHED = -1
"""Label of a stored index that no planned cut reaches."""


@dataclass(frozen=True)
class Use:
    """A stored tensor (initializer, Constant or ConstantOfShape output) as read by one input of one node."""

    tensor: ir.Value
    node: ir.Node
    input_index: int


@dataclass(frozen=True)
class Source:
    """A stored tensor behind a constant; ``coordinates[axis]`` tells the stored index of every position."""

    use: Use
    coordinates: tuple[Labels, ...]


def trace(shadow: Shadow, node: ir.Node, input_index: int) -> list[Source]:
    """Stored tensors behind a constant input, each with its coordinates laid out as the input sees them.

    Raises
    ------
    Blocked
        The constant is computed by an operator that cannot be followed.
    """
    value = node.inputs[input_index]
    if value is None:
        return []
    if shrinkc_ir.constant_tensor(value) is not None or is_fill(value):
        shape = shape_of(shadow, value)
        axes = tuple(along(np.arange(size), axis, len(shape)) for axis, size in enumerate(shape))
        return [Source(Use(value, node, input_index), axes)]
    return trace_derived(shadow, value)


def is_fill(value: ir.Value) -> bool:
    """Whether a value is made by ConstantOfShape."""
    producer = value.producer()
    return producer is not None and producer.op_type == "ConstantOfShape" and producer.domain in ("", "ai.onnx")


def trace_derived(shadow: Shadow, value: ir.Value) -> list[Source]:
    """Stored tensors behind a constant that a node computes from others.

    Raises
    ------
    Blocked
        It is computed by an operator that cannot be followed.
    """
    producer = value.producer()
    if producer is None:
        raise Blocked(f"{value.name} is not stored in the model")
    if producer.op_type in QUANTIZERS and producer.domain in ("", "ai.onnx", "com.microsoft"):
        return _trace_quantized(shadow, producer)
    if producer.domain not in ("", "ai.onnx"):
        raise Blocked(f"{value.name} is computed by {producer.domain}::{producer.op_type}")
    if producer.op_type in MOVES:
        move = MOVES[producer.op_type]
        return [_moved(source, lambda c: move(shadow, producer, c)) for source in trace(shadow, producer, 0)]
    if producer.op_type == "Split":
        return [_moved(source, lambda c: run_of(shadow, producer, value, c)) for source in trace(shadow, producer, 0)]
    if producer.op_type == "MatMul":
        return _trace_product(shadow, producer)
    if producer.op_type in UNARY:
        return trace(shadow, producer, 0)
    if producer.op_type in NARY:
        rank = len(shape_of(shadow, value))
        sources = [source for index in range(len(producer.inputs)) for source in trace(shadow, producer, index)]
        return [_moved(source, lambda c: moves.expand(c, rank)) for source in sources]
    raise Blocked(f"{value.name} is computed by {producer.op_type}")


def _trace_product(shadow: Shadow, node: ir.Node) -> list[Source]:
    """Rows of a product of constants come from its left operand, columns from its right one; what is summed over is nowhere."""
    rank = len(shape_of(shadow, node.outputs[0]))
    if any(len(shape_of(shadow, value)) < 2 for value in node.inputs):
        raise Blocked(f"{node.outputs[0].name} is computed by a product of vectors")

    def outside(coordinate: Labels, summed: int) -> Labels:
        is_outside = coordinate.shape[summed] == 1
        return moves.expand(coordinate, rank) if is_outside else np.full((1,) * rank, UNTOUCHED, np.int64)

    left = [_moved(source, lambda c: outside(c, -1)) for source in trace(shadow, node, 0)]
    return left + [_moved(source, lambda c: outside(c, -2)) for source in trace(shadow, node, 1)]


def _trace_quantized(shadow: Shadow, node: ir.Node) -> list[Source]:
    """Sources of a constant behind (De)QuantizeLinear: its integers, and scales and zero points if there is one a channel."""
    if int_of(node, "block_size", 0):
        raise Blocked(f"{node.outputs[0].name} is quantised in blocks")
    rank = len(shape_of(shadow, node.inputs[0]))
    axis = int_of(node, "axis", 1)
    sources = trace(shadow, node, 0)
    for index in (1, 2):
        value = input_at(node, index)
        if value is not None and shape_of(shadow, value) not in ((), (1,)):
            sources += [_moved(source, lambda c: along(c.reshape(-1), axis, rank)) for source in trace(shadow, node, index)]
    return sources


def _moved(source: Source, move: Callable[[Labels], Labels]) -> Source:
    return Source(source.use, tuple(move(axis) for axis in source.coordinates))


@dataclass(frozen=True)
class Cut:
    """Channels along one axis of a stored tensor; ``labels[i]`` is ``UNTOUCHED`` where no channel lies."""

    use: Use
    axis: int
    labels: Labels


def stored_cuts(shadow: Shadow, space: LabelSpace, attachment: Attachment) -> list[Cut]:
    """Map an attachment to the axes of the stored tensors behind it.

    Where one stored index feeds several derived ones, their labels are tied.

    Raises
    ------
    Blocked
        The constant cannot be traced.
    """
    cuts = []
    for source in trace(shadow, attachment.node, attachment.input_index):
        axis = _stored_axis(source, attachment.axis)
        if axis is None:
            continue
        coordinate = source.coordinates[axis]
        size = shape_of(shadow, source.use.tensor)[axis]
        cuts.append(Cut(source.use, axis, _scatter(space, coordinate, attachment, size)))
    return cuts


def _stored_axis(source: Source, derived_axis: int) -> int | None:
    """Axis of the stored tensor that runs along ``derived_axis``: the longest, if several were merged into it."""
    candidates = [
        axis for axis, coordinate in enumerate(source.coordinates) if coordinate.ndim and coordinate.shape[derived_axis] > 1
    ]
    if not candidates:
        return None
    return max(candidates, key=lambda axis: int(source.coordinates[axis].max()))


def _scatter(space: LabelSpace, coordinate: Labels, attachment: Attachment, size: int) -> Labels:
    derived = along(attachment.labels, attachment.axis, coordinate.ndim)
    where, labels = (array.ravel() for array in np.broadcast_arrays(coordinate, derived))
    stored = np.full(size, UNTOUCHED, np.int64)
    stored[where] = labels
    space.tie(stored[where], labels)
    return stored
