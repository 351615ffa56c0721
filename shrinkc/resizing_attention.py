"""Attributes of fused attention nodes, once heads or the dims inside them are gone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.attributes import input_at, int_of, ints_of

if TYPE_CHECKING:
    from shrinkc.surgery import Surgery


def _heads_left(surgery: Surgery, value: ir.Value | None, heads: int) -> np.ndarray:
    """Kept channels per head of an operand whose heads lie side by side on the last axis, shape (heads,)."""
    size = 0 if value is None else (surgery.analysis.shadow.shape(value) or (0,))[-1]
    kept = None if value is None else surgery.kept(value)
    mask = np.ones(size, bool) if kept is None else np.broadcast_to(kept.reshape(-1), (size,))
    counts: np.ndarray = mask.reshape(heads, -1).sum(axis=1)
    return counts


def _count_heads(surgery: Surgery, original: ir.Node, node: ir.Node, index: int, attribute: str) -> None:
    heads = int_of(original, attribute, 0)
    if heads:
        left = _heads_left(surgery, input_at(original, index), heads)
        node.attributes[attribute] = ir.AttrInt64(attribute, int((left > 0).sum()))


def _keep_scale(surgery: Surgery, original: ir.Node, node: ir.Node, dims: int) -> None:
    """The default scale is computed from the width of a head; it stays what it was."""
    attribute = original.attributes.get("scale")
    if attribute is None or attribute.as_float() == 0:
        node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(dims))


def attention(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Attention of ai.onnx: numbers of heads where they are given, and the scale."""
    shape = surgery.analysis.shadow.shape(original.inputs[0]) or ()
    heads = int_of(original, "q_num_heads", 0)
    _count_heads(surgery, original, node, 0, "q_num_heads")
    _count_heads(surgery, original, node, 1, "kv_num_heads")
    _keep_scale(surgery, original, node, shape[-1] if len(shape) == 4 else shape[-1] // heads)


def contrib_attention(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """MultiHeadAttention and GroupQueryAttention."""
    shape = surgery.analysis.shadow.shape(original.inputs[0]) or ()
    _count_heads(surgery, original, node, 0, "num_heads")
    _count_heads(surgery, original, node, 1, "kv_num_heads")
    _keep_scale(surgery, original, node, shape[-1] // int_of(original, "num_heads", 1))


def fused_attention(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """Attention of onnxruntime: heads and widths of the three parts of its matrix."""
    width = (surgery.analysis.shadow.shape(original.inputs[1]) or (0, 0))[1]
    sizes = ints_of(original, "qkv_hidden_sizes") or [width // 3] * 3
    heads = int_of(original, "num_heads", 1)
    removed = dict(surgery.removals_of(original, 1)).get(1, ())
    kept = np.ones(width, bool)
    kept[np.asarray(removed, np.int64)] = False
    parts = [part.reshape(heads, -1).sum(axis=1) for part in np.split(kept, np.cumsum(sizes[:2]))]
    node.attributes["num_heads"] = ir.AttrInt64("num_heads", int((parts[0] > 0).sum()))
    node.attributes["qkv_hidden_sizes"] = ir.AttrInt64s("qkv_hidden_sizes", [int(part.sum()) for part in parts])
    _keep_scale(surgery, original, node, sizes[0] // heads)


def rotary_embedding(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """RotaryEmbedding: number of heads, and how many dims of each are turned."""
    _count_heads(surgery, original, node, 0, "num_heads")
    turned = int_of(original, "rotary_embedding_dim", 0)
    cache = surgery.shadow.shape(input_at(node, 1))
    if turned and cache is not None:
        node.attributes["rotary_embedding_dim"] = ir.AttrInt64("rotary_embedding_dim", 2 * cache[-1])


RESIZERS = {
    ("", "Attention"): attention,
    ("", "RotaryEmbedding"): rotary_embedding,
    ("com.microsoft", "Attention"): fused_attention,
    ("com.microsoft", "GroupQueryAttention"): contrib_attention,
    ("com.microsoft", "MultiHeadAttention"): contrib_attention,
}
