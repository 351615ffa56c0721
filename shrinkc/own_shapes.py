"""Shapes that onnx cannot infer node by node: of onnxruntime's own operators, and of some that onnx spells out as functions.

Source: onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]
ShapeRule = Callable[[ir.Node, Shapes], list[Shape | None]]

MICROSOFT = "com.microsoft"


def _like_first(node: ir.Node, inputs: Shapes) -> list[Shape | None]:
    return [inputs[0], *[None] * (len(node.outputs) - 1)]


def _skip_normalization(node: ir.Node, inputs: Shapes) -> list[Shape | None]:
    """Output, mean, inverse deviation, and the sum that was normalised."""
    return [inputs[0], None, None, inputs[0]][: len(node.outputs)]


def _attention(node: ir.Node, inputs: Shapes) -> list[Shape | None]:
    """The matrix holds queries, keys and values; the result is as wide as the values."""
    data, weights = inputs[0], inputs[1]
    if data is None or weights is None:
        return [None] * len(node.outputs)
    sizes = node.attributes["qkv_hidden_sizes"].as_ints() if "qkv_hidden_sizes" in node.attributes else None
    width = int(sizes[2]) if sizes else weights[1] // 3
    return [(*data[:2], width), *[None] * (len(node.outputs) - 1)]


def _heads(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int() if name in node.attributes else 1


def _multi_head_attention(node: ir.Node, inputs: Shapes) -> list[Shape | None]:
    queries, values = inputs[0], inputs[2] if len(inputs) > 2 else None
    unknown: list[Shape | None] = [None] * (len(node.outputs) - 1)
    if queries is None or values is None or len(queries) != 3 or len(values) not in (3, 4):
        return [None, *unknown]
    width = values[-1] if len(values) == 3 else values[1] * values[3]
    return [(*queries[:2], width), *unknown]


def _group_query_attention(node: ir.Node, inputs: Shapes) -> list[Shape | None]:
    queries, values = inputs[0], inputs[2]
    unknown: list[Shape | None] = [None] * (len(node.outputs) - 1)
    if queries is None or values is None:
        return [None, *unknown]
    width = values[-1] // _heads(node, "kv_num_heads") * _heads(node, "num_heads")
    return [(*queries[:2], width), *unknown]


_SAME = (
    *(("", name) for name in ("GroupNormalization", "MeanVarianceNormalization", "SimplifiedLayerNormalization")),
    *((MICROSOFT, name) for name in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding", "Trilu")),
)

SHAPES: dict[tuple[str, str], ShapeRule] = {
    **dict.fromkeys(_SAME, _like_first),
    (MICROSOFT, "Attention"): _attention,
    (MICROSOFT, "GroupQueryAttention"): _group_query_attention,
    (MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
    (MICROSOFT, "SkipLayerNormalization"): _skip_normalization,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_normalization,
}
"""By domain and operator."""
