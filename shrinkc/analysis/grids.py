"""Values whose channels lie on several axes at once, and what removal may leave of them.

Heads by dims, or groups by channels, form a grid.  What is left of it must be a rectangle: whole rows may go, and of the
rows that stay each must keep the same number of channels.  It need not be the same channels, as long as every node that
touches the grid moves whole rows only; then a balance is enough.  Otherwise channels are tied across the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.flow import Balance, Flow, Following, Heads
from shrinkc.analysis.labels import Labels, column_axis, labelled_axes, main_axis
from shrinkc.analysis.oprules.elementwise import NARY, UNARY

HeadPolicy = Callable[[int, Heads], str]
"""What may go of the heads of that number: ``whole`` heads, ``rows`` (channels inside them) or ``both``."""

PRODUCTS = frozenset({"Attention", "Einsum", "Gemm", "MatMul", "MultiHeadAttention", "GroupQueryAttention"})
"""Operators whose rule ties rows to rows by itself."""


def settle_heads(flow: Flow, policy: HeadPolicy) -> list[Heads]:
    """Tie every row to its head, or keep the heads, as the policy says; returns the heads for which both may go."""
    both = []
    for number, heads in enumerate(flow.heads):
        chosen = "whole" if heads.is_rigid else policy(number, heads)
        if chosen != "whole" and heads.is_balanced:
            flow.balances.append(Balance(heads.node.name or heads.node.op_type, heads.rows))
        if chosen == "whole":
            flow.space.tie(heads.rows, heads.heads[:, None])
        elif chosen == "rows":
            flow.freeze(heads.heads, heads.node, "heads stay whole unless --prune names them")
        else:
            both.append(heads)
    _tie_heads_of_one_row(flow, both)
    return both


def _tie_heads_of_one_row(flow: Flow, both: Sequence[Heads]) -> None:
    """Heads that share channels go together: the queries of one key, or a head and the gate of its values."""
    if not both:
        return
    channels = np.concatenate([flow.space.classes()[link.rows].ravel() for link in both])
    heads = np.concatenate([np.repeat(link.heads, link.rows.shape[1]) for link in both])
    order = np.argsort(channels, kind="stable")
    same = np.flatnonzero(np.diff(channels[order]) == 0)
    flow.space.tie(heads[order[same]], heads[order[same + 1]])


def settle_followings(flow: Flow) -> None:
    """Attach constants that lie along several labelled axes to the axis along which channels still differ."""
    for following in flow.followings:
        labels = compress_classes(flow, following.labels)
        carried = labelled_axes(labels)
        own = [axis for axis in carried if following.axes[axis] is not None]
        if own:
            main = main_axis(labels, own)
            _attach_along(flow, following, flow.tie_across(labels, [axis for axis in carried if axis != main]), main)


def _attach_along(flow: Flow, following: Following, labels: Labels, main: int) -> None:
    axis = following.axes[main]
    if axis is not None:
        flow.attach(following.node, following.input_index, axis, labels.reshape(-1), following.role)


def compress_classes(flow: Flow, labels: Labels) -> Labels:
    """Labels with every axis dropped along which only tied ones lie."""
    classes = flow.space.classes()
    for axis in labelled_axes(labels):
        first = labels.take([0], axis)
        if (classes[labels] == classes[first]).all():
            labels = first
    return labels


def settle_mixings(flow: Flow) -> None:
    """A node that mixes the channels of every row sees the same ones in each."""
    for mixing in flow.mixings:
        value = mixing.node.inputs[mixing.input_index]
        if value is None:
            continue
        labels = compress_classes(flow, flow.labels[value])
        carried = labelled_axes(labels)
        if mixing.axis in carried:
            flow.tie_across(labels, [axis for axis in carried if axis != mixing.axis])


def settle_grids(flow: Flow, graph: ir.Graph, free: set[ir.Value]) -> dict[ir.Value, int]:
    """Balance the rows of every grid that is moved by whole rows, tie the others; ``free`` values settle themselves.

    Returns
    -------
    dict of value to int
        The axis along which every row of a balanced grid has channels of its own.
    """
    grids = {
        value: labels
        for value, labels in flow.labels.items()
        if value not in free and len(labelled_axes(compress_classes(flow, labels))) > 1
    }
    columns = {value: axis for value, labels in grids.items() if (axis := column_axis(labels)) is not None}
    for value, labels in grids.items():
        if value not in columns:
            flow.make_rectangular(labels)
    for node in graph:
        touched = [value for value in (*node.inputs, *node.outputs) if value in grids]
        if touched and not _moves_rows(flow, node, columns):
            for value in touched:
                flow.make_rectangular(grids[value])
    return dict(_balanced(flow, grids, columns))


def _balanced(flow: Flow, grids: dict[ir.Value, Labels], columns: dict[ir.Value, int]) -> Iterator[tuple[ir.Value, int]]:
    seen: set[bytes] = set()
    for value, labels in grids.items():
        left = compress_classes(flow, labels)
        if len(labelled_axes(left)) < 2:
            continue
        if columns[value] not in labelled_axes(left):
            flow.make_rectangular(left)
            continue
        rows = np.moveaxis(left, columns[value], -1).reshape(-1, left.shape[columns[value]])
        key = flow.space.classes()[rows].tobytes()
        if key not in seen:
            seen.add(key)
            flow.balances.append(Balance(value.name or "", rows))
        yield value, columns[value]


def _moves_rows(flow: Flow, node: ir.Node, columns: dict[ir.Value, int]) -> bool:
    """Whether every row a node gives is a row it was given, whole and in order."""
    if node.op_type in PRODUCTS and node.domain in ("", "ai.onnx", "com.microsoft"):
        return True
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in UNARY and len(node.outputs) == 1:
        return True
    inputs = [value for value in node.inputs if value in flow.labels and labelled_axes(flow.labels[value])]
    outputs = [value for value in node.outputs if value in flow.labels and labelled_axes(flow.labels[value])]
    if node.op_type in NARY:
        depths = {flow.labels[value].ndim - columns[value] for value in (*inputs, *outputs) if value in columns}
        return len(depths) == 1
    lengths = {flow.labels[value].shape[columns[value]] for value in (*inputs, *outputs) if value in columns}
    if len(lengths) != 1:
        return False
    length = lengths.pop()
    given, taken = (_rows(flow, values, columns, length) for values in (inputs, outputs))
    return given is not None and taken is not None and taken <= given


def _rows(flow: Flow, values: Iterable[ir.Value], columns: dict[ir.Value, int], length: int) -> set[bytes] | None:
    rows: set[bytes] = set()
    for value in values:
        labels = flow.labels[value]
        if value not in columns and (len(labelled_axes(labels)) > 1 or labels.size % length):
            return None
        column = columns.get(value, labelled_axes(labels)[0])
        rows.update(row.tobytes() for row in np.moveaxis(labels, column, -1).reshape(-1, length))
    return rows
