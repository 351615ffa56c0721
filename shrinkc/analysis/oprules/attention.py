"""Attention as one node: ``Attention`` and ``RotaryEmbedding`` of ai.onnx, and the contrib operators of onnxruntime.

Queries and keys meet dim by dim inside every head, values pass on, and a head is one row of each:
``Y_h = softmax(Q_h K_g' * scale) V_g`` with ``g = h // (heads / kv_heads)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.attributes import input_at, int_of, ints_of
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable, Work
from shrinkc.analysis.labels import Labels, along

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Rows:
    """Labels of queries ``(heads, dims)``, of keys ``(kv_heads, dims)`` and of values ``(kv_heads, value dims)``."""

    queries: Labels
    keys: Labels
    values: Labels

    @property
    def repeats(self) -> int:
        """Query heads per key head."""
        return len(self.queries) // len(self.keys)


def head_rows(flow: Flow, value: ir.Value | None, heads: int) -> Labels:
    """Labels of one operand as (heads, dims); it is (batch, heads, length, dims) or (batch, length, heads * dims)."""
    if value is None or flow.is_constant(value):
        raise Blocked("queries, keys or values are missing or constant")
    shape, labels = flow.shape(value), flow.labels_of(value)
    if len(shape) == 3 and heads > 0:
        return flow.channels(value, -1).reshape(heads, -1)
    if len(shape) != 4:
        raise Blocked("queries, keys and values are packed in a way that is not known")
    labels = flow.tie_across(labels, [axis for axis in (0, 2) if labels.shape[axis] > 1])
    return np.broadcast_to(labels[0, :, 0, :], (shape[1], shape[3]))


def attend(flow: Flow, node: ir.Node, rows: Rows, *, is_rigid: bool = False) -> Labels:
    """Tie queries to keys and both to the values, by head; returns one label per query head.

    With ``is_rigid`` heads can only go as a whole.
    """
    if len(rows.queries) % len(rows.keys):
        raise Blocked("the heads of the queries are no multiple of those of the keys")
    flow.space.tie(rows.queries.reshape(len(rows.keys), rows.repeats, -1), rows.keys[:, None, :])
    heads = flow.space.fresh(len(rows.queries))
    for labels in (rows.queries, np.repeat(rows.values, rows.repeats, 0)):
        flow.link_heads(node, heads[:, None], labels, is_rigid=is_rigid, is_balanced=not is_rigid)
    return heads


def attention(flow: Flow, node: ir.Node) -> None:
    """Attention of ai.onnx (opset 23), operands with three or four axes."""
    q_heads = int_of(node, "q_num_heads", 0)
    kv_heads = int_of(node, "kv_num_heads", 0)
    rows = Rows(*(head_rows(flow, input_at(node, i), n) for i, n in enumerate((q_heads, kv_heads, kv_heads))))
    heads = attend(flow, node, rows)
    _mask(flow, node, 3, heads)
    _past(flow, node, (4, 5), (rows.keys, rows.values))
    _finish(flow, node, rows, heads)


def multi_head_attention(flow: Flow, node: ir.Node) -> None:
    """MultiHeadAttention of onnxruntime with separate queries, keys and values."""
    count = int_of(node, "num_heads", 0)
    rows = Rows(*(head_rows(flow, input_at(node, i), count) for i in range(3)))
    heads = attend(flow, node, rows)
    if input_at(node, 3) is not None:
        flow.require_constant(node, 3)
        vector = np.concatenate([labels.reshape(-1) for labels in (rows.queries, rows.keys, rows.values)])
        flow.attach(node, 3, 0, vector, Role.FOLLOWS)
    _mask(flow, node, 5, heads)
    _past(flow, node, (6, 7), (rows.keys, rows.values))
    _finish(flow, node, rows, heads)


def group_query_attention(flow: Flow, node: ir.Node) -> None:
    """GroupQueryAttention of onnxruntime with separate queries, keys and values, rotary or not.

    Its kernel wants heads of a multiple of 8, as wide for values as for keys: whole heads go, dims inside them stay.
    """
    counts = int_of(node, "num_heads", 0), int_of(node, "kv_num_heads", 0), int_of(node, "kv_num_heads", 0)
    rows = Rows(*(head_rows(flow, input_at(node, i), count) for i, count in enumerate(counts)))
    heads = attend(flow, node, rows, is_rigid=True)
    _past(flow, node, (3, 4), (rows.keys, rows.values))
    _finish(flow, node, rows, heads)


def fused_attention(flow: Flow, node: ir.Node) -> None:
    """Attention of onnxruntime, which holds the projections: one matrix for queries, keys and values side by side."""
    flow.require_constant(node, 1, 2)
    if any(input_at(node, index) is not None for index in (4, 5)):
        raise Blocked("it reads a past or a bias per head")
    flow.attach(node, 1, 0, flow.channels(node.inputs[0], -1), Role.CONSUMES)
    width = flow.shape(node.inputs[1])[1]
    sizes = ints_of(node, "qkv_hidden_sizes") or [width // 3] * 3
    labels = flow.space.fresh(width)
    flow.attach(node, 1, 1, labels, Role.PRODUCES)
    flow.attach(node, 2, 0, labels, Role.FOLLOWS)
    count = int_of(node, "num_heads", 1)
    rows = Rows(*(part.reshape(count, -1) for part in np.split(labels, np.cumsum(sizes[:2]))))
    attend(flow, node, rows)
    _result(flow, node.outputs[0], rows)
    for present in node.outputs[1:]:
        if present.uses() or present.is_graph_output():
            raise Blocked("the keys and values it gives are read")
    batch, length = flow.shape(node.inputs[0])[:2]
    flow.work.append(Work(node, batch * length * math.prod(flow.shape(node.inputs[1])), 1))


def rotary_embedding(flow: Flow, node: ir.Node) -> None:
    """RotaryEmbedding of ai.onnx (opset 23): the two dims of a pair go together, and the caches follow."""
    value = node.inputs[0]
    labels = head_rows(flow, value, int_of(node, "num_heads", 0) or _heads_of(flow, node))
    turned = int_of(node, "rotary_embedding_dim", 0) or labels.shape[1]
    _rotate(flow, node, labels[:, :turned], (1, 2), bool(int_of(node, "interleaved", 0)))
    flow.assign(node.outputs[0], flow.labels_of(value))


def _heads_of(flow: Flow, node: ir.Node) -> int:
    """Number of heads of three axes, by the width of the caches; 0 of four, which say it themselves."""
    shape = flow.shape(node.inputs[0])
    if len(shape) == 4:
        return 0
    turned = int_of(node, "rotary_embedding_dim", 0)
    if turned:
        raise Blocked("the number of heads is not given")
    return shape[-1] // (2 * flow.shape(node.inputs[1])[-1])


def _rotate(flow: Flow, node: ir.Node, labels: Labels, caches: tuple[int, int], is_interleaved: bool) -> None:
    """Tie the dims of every pair; cosine and sine, which all heads share, follow if dims go one by one."""
    first, second = (labels[:, ::2], labels[:, 1::2]) if is_interleaved else np.split(labels, 2, axis=1)
    flow.space.tie(first, second)
    for index in caches:
        cache = node.inputs[index]
        if flow.is_constant(cache):
            flow.follow_along(node, index, first, (None, len(flow.shape(cache)) - 1))
        else:
            flow.freeze(first, node, "its cosines are computed, and every head reads them")


def _mask(flow: Flow, node: ir.Node, index: int, heads: Labels) -> None:
    """A mask or bias with an axis for the heads follows them."""
    value = input_at(node, index)
    shape = flow.shape(value) if value is not None else ()
    if value is None or len(shape) < 3 or shape[-3] == 1:
        return
    if flow.is_constant(value):
        flow.attach(node, index, len(shape) - 3, heads, Role.FOLLOWS)
    else:
        flow.space.tie(flow.channels(value, len(shape) - 3), heads)


def _past(flow: Flow, node: ir.Node, indices: tuple[int, int], rows: tuple[Labels, Labels]) -> None:
    """Keys and values of earlier steps have the channels of the present ones."""
    for index, labels in zip(indices, rows, strict=True):
        value = input_at(node, index)
        if value is not None:
            flow.space.tie(head_rows(flow, value, 0), labels)


def _finish(flow: Flow, node: ir.Node, rows: Rows, heads: Labels) -> None:
    """Labels of the result, of the keys and values handed on, and of the scores; and the work."""
    _result(flow, node.outputs[0], rows)
    for output, labels in zip(node.outputs[1:3], (rows.keys, rows.values), strict=False):
        flow.assign(output, labels[None, :, None, :])
    for scores in node.outputs[3:]:
        flow.assign_channels(scores, heads, 1)
    _note_work(flow, node, rows)


def _result(flow: Flow, output: ir.Value, rows: Rows) -> None:
    values = np.repeat(rows.values, rows.repeats, 0)
    rank = len(flow.shape(output))
    flow.assign(output, values[None, :, None, :] if rank == 4 else along(values.reshape(-1), rank - 1, rank))


def _note_work(flow: Flow, node: ir.Node, rows: Rows) -> None:
    """``Q K'`` shrinks with the dims that are left, the product with ``V`` with the value dims."""
    q_shape, k_shape = flow.shape(node.inputs[0]), flow.shape(node.inputs[1])
    positions = q_shape[0] * q_shape[-2] * k_shape[-2]
    for labels in (rows.queries, np.repeat(rows.values, rows.repeats, 0)):
        flow.work.append(Work(node, positions * labels.size, None, (labels,)))


RULES: RuleTable = {
    ("", "Attention"): attention,
    ("", "RotaryEmbedding"): rotary_embedding,
    (MICROSOFT, "Attention"): fused_attention,
    (MICROSOFT, "GroupQueryAttention"): group_query_attention,
    (MICROSOFT, "MultiHeadAttention"): multi_head_attention,
}
