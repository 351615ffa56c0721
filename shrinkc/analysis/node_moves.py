"""Single-input data movement: what one node does to labels, sizes taken from the shadow.

Shared by the movement rules (channels of activations) and by the tracing of constants (which element came from where).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from shrinkc.analysis import moves
from shrinkc.analysis.attributes import input_at, int_of, ints_of
from shrinkc.analysis.flow import Blocked
from shrinkc.analysis.labels import Labels, Shape
from shrinkc.shapes import Shadow

Move = Callable[[Shadow, ir.Node, Labels], Labels]


def shape_of(shadow: Shadow, value: ir.Value | None) -> Shape:
    """Static shape, or :class:`Blocked`."""
    shape = shadow.shape(value)
    if shape is None:
        raise Blocked(f"the shape of {value.name if value else 'an absent input'} is not known")
    return shape


def setting(shadow: Shadow, node: ir.Node, index: int, attribute: str) -> list[int] | None:
    """Integers that newer opsets pass as an input and older ones as an attribute; None if absent in both.

    Raises
    ------
    Blocked
        The input is present and computed from the data.
    """
    value = input_at(node, index)
    if value is None:
        return ints_of(node, attribute)
    known = shadow[value].value
    if known is None:
        raise Blocked(f"input {index} ({value.name}) is computed from the data")
    return [int(item) for item in np.ravel(known)]


def reshape(shadow: Shadow, node: ir.Node, labels: Labels) -> Labels:
    """Reshape, Flatten, Squeeze, Unsqueeze: only the two shapes matter."""
    return moves.reshape(labels, shape_of(shadow, node.inputs[0]), shape_of(shadow, node.outputs[0]))


def transpose(shadow: Shadow, node: ir.Node, labels: Labels) -> Labels:
    """Transpose."""
    permutation = ints_of(node, "perm") or list(reversed(range(labels.ndim)))
    return moves.transpose(labels, permutation)


def slices_of(shadow: Shadow, node: ir.Node) -> list[tuple[int, int, int, int]]:
    """(axis, start, stop, step) of every sliced axis, as given (not clamped)."""
    starts, stops = setting(shadow, node, 1, "starts"), setting(shadow, node, 2, "ends")
    axes, steps = setting(shadow, node, 3, "axes"), setting(shadow, node, 4, "steps")
    rank = len(shape_of(shadow, node.inputs[0]))
    if starts is None or stops is None:
        raise Blocked("the bounds of the slice are missing")
    axes = [axis % rank for axis in (axes or range(len(starts)))]
    return list(zip(axes, starts, stops, steps or [1] * len(starts), strict=True))


def positions(size: int, start: int, stop: int, step: int) -> range:
    """Positions an ONNX slice selects on an axis of ``size``."""
    start = start + size if start < 0 else start
    stop = stop + size if stop < 0 else stop
    if step > 0:
        return range(min(max(start, 0), size), min(max(stop, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(stop, -1), size), step)


def slice_(shadow: Shadow, node: ir.Node, labels: Labels) -> Labels:
    """Slice."""
    shape = shape_of(shadow, node.inputs[0])
    for axis, start, stop, step in slices_of(shadow, node):
        labels = moves.take(labels, np.asarray(positions(shape[axis], start, stop, step), np.int64), axis)
    return labels


def gather(shadow: Shadow, node: ir.Node, labels: Labels) -> Labels:
    """Gather with constant indices; along an axis without labels the indices may be anything."""
    axis = int_of(node, "axis", 0) % labels.ndim
    size = shape_of(shadow, node.inputs[0])[axis]
    if not size:
        raise Blocked("it gathers from nothing")
    known = shadow[node.inputs[1]].value
    if known is None:
        if labels.shape[axis] > 1:
            raise Blocked("the gathered channels are computed from the data")
        known = np.zeros((1,) * len(shape_of(shadow, node.inputs[1])), np.int64)
    return moves.take(labels, np.asarray(known, np.int64) % size, axis)


def expand(shadow: Shadow, node: ir.Node, labels: Labels) -> Labels:
    """Expand."""
    return moves.expand(labels, len(shape_of(shadow, node.outputs[0])))


def tile(shadow: Shadow, node: ir.Node, labels: Labels) -> Labels:
    """Tile (opset 6 and later)."""
    repeats = setting(shadow, node, 1, "repeats")
    if repeats is None or len(repeats) != labels.ndim:
        raise Blocked("the repeats of Tile are not known")
    return moves.tile(labels, repeats)


def run_of(shadow: Shadow, node: ir.Node, output: ir.Value, labels: Labels) -> Labels:
    """Split: the run of labels that one of its outputs takes."""
    axis = int_of(node, "axis", 0) % labels.ndim
    start = sum(shape_of(shadow, other)[axis] for other in node.outputs[: node.outputs.index(output)])
    return moves.slice_axis(labels, axis, start, start + shape_of(shadow, output)[axis], 1)


MOVES: dict[str, Move] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Slice": slice_,
    "Gather": gather,
    "Expand": expand,
    "Tile": tile,
}

REARRANGEMENTS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
"""Movement that keeps every element exactly once."""
