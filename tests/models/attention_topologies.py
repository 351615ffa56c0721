"""Attention and what surrounds it, one small model per way of writing it down.  Each function returns a finished net."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.builder import INT64, Net

ATTENTION: dict[str, Callable[[], Net]] = {}

DIM, HEADS, LENGTH = 16, 4, 6


def attention(function: Callable[[], Net]) -> Callable[[], Net]:
    ATTENTION[function.__name__] = function
    return function


def start(**options: object) -> tuple[Net, str]:
    """A net and the result of its embedding, (batch, length, DIM)."""
    net = Net(**options)  # type: ignore[arg-type]
    return net, linear(net, net.input("x", ["batch", LENGTH, 5]), 5, DIM)


def finish(net: Net, x: str, width: int = DIM) -> Net:
    net.output(linear(net, net.op("ReduceMean", x, axes=[1], keepdims=0) if net.opset < 18 else pooled(net, x), width, 3))
    return net


def pooled(net: Net, x: str) -> str:
    return str(net.op("ReduceMean", x, net.ints(1), keepdims=0))


def linear(net: Net, x: str, inputs: int, outputs: int, *, bias: bool = True) -> str:
    product = net.op("MatMul", x, net.weight(inputs, outputs))
    return str(net.op("Add", product, net.vector(outputs)) if bias else product)


def split_heads(net: Net, x: str, heads: int = HEADS, length: int = LENGTH) -> str:
    """(batch, length, heads * dims) to (batch, heads, length, dims)."""
    return str(net.op("Transpose", net.op("Reshape", x, net.ints(0, length, heads, -1)), perm=[0, 2, 1, 3]))


def merge_heads(net: Net, x: str, length: int = LENGTH) -> str:
    return str(net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3]), net.ints(0, length, -1)))


def weighted(net: Net, q: str, k: str, v: str, *, bias: str | None = None, scale: float = 0.5) -> str:
    """Softmax(q k') v over the last two axes."""
    rank = 4
    keys = net.op("Transpose", k, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = net.op("Mul", net.op("MatMul", q, keys), net.const(np.float32(scale)))
    if bias is not None:
        scores = net.op("Add", scores, bias)
    return str(net.op("MatMul", net.op("Softmax", scores, axis=-1), v))


def attended(net: Net, x: str, context: str | None = None, **options: object) -> str:
    parts = [split_heads(net, linear(net, source, DIM, DIM)) for source in (x, context or x, context or x)]
    return linear(net, merge_heads(net, weighted(net, *parts, **options)), DIM, DIM)  # type: ignore[arg-type]


def layer_norm(net: Net, x: str, width: int = DIM) -> str:
    return str(net.op("LayerNormalization", x, net.vector(width), net.vector(width), axis=-1))


def feed_forward(net: Net, x: str) -> str:
    return linear(net, net.op("Gelu", linear(net, x, DIM, 24), domain="com.microsoft"), 24, DIM)


def block(net: Net, x: str, **options: object) -> str:
    x = net.op("Add", x, attended(net, layer_norm(net, x), **options))
    return str(net.op("Add", x, feed_forward(net, layer_norm(net, x))))


@attention
def encoder_of_two_blocks() -> Net:
    net, x = start()
    net.domains["com.microsoft"] = 1
    return finish(net, layer_norm(net, block(net, block(net, x))))


@attention
def vision_transformer_with_class_token() -> Net:
    net = Net()
    image = net.input("x", ["batch", 3, 8, 8])
    patches = net.conv(image, 3, DIM, 4, strides=[4, 4], pads=[0, 0, 0, 0])
    tokens = net.op("Transpose", net.op("Reshape", patches, net.ints(0, 0, -1)), perm=[0, 2, 1])
    batch = net.op("Gather", net.op("Shape", image), net.ints(0))
    token = net.op("Expand", net.weight(1, 1, DIM), net.op("Concat", batch, net.ints(1, 1), axis=0))
    x = net.op("Add", net.op("Concat", token, tokens, axis=1), net.weight(1, 5, DIM))
    parts = net.op("Reshape", linear(net, layer_norm(net, x), DIM, 3 * DIM), net.ints(0, 5, 3, HEADS, 4))
    parts = net.op("Transpose", parts, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", parts, net.const(np.int64(i)), axis=0) for i in range(3))
    x = net.op("Add", x, linear(net, merge_heads(net, weighted(net, q, k, v), 5), DIM, DIM))
    first = net.op("Gather", layer_norm(net, x), net.const(np.int64(0)), axis=1)
    net.output(linear(net, first, DIM, 3))
    return net


@attention
def cross_attention() -> Net:
    net, x = start()
    other = linear(net, net.input("context", ["batch", LENGTH, 5]), 5, DIM)
    return finish(net, net.op("Add", x, attended(net, layer_norm(net, x), other)))


@attention
def relative_position_bias() -> Net:
    net, x = start()
    table = net.weight(9, HEADS)
    chosen = net.op("Gather", table, net.const(np.arange(LENGTH * LENGTH) % 9))
    bias = net.op("Transpose", net.op("Reshape", chosen, net.ints(LENGTH, LENGTH, HEADS)), perm=[2, 0, 1])
    return finish(net, attended(net, x, bias=net.op("Unsqueeze", bias, net.ints(0))))


@attention
def mask_expanded_to_the_batch() -> Net:
    """A stored mask that is moved by a computed size; it has nothing to do with the heads it meets."""
    net, x = start()
    batch = net.op("Gather", net.op("Shape", x), net.ints(0))
    mask = net.op("Expand", net.weight(1, 1, LENGTH, LENGTH), net.op("Concat", batch, net.ints(1, 1, 1), axis=0))
    return finish(net, attended(net, x, bias=mask))


@attention
def learned_temperature_and_bias_per_head() -> Net:
    net, x = start()
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    q = net.op("Mul", net.op("Add", q, net.weight(HEADS, 1, 4)), net.weight(HEADS, 1, 1))
    return finish(net, linear(net, merge_heads(net, weighted(net, q, k, v)), DIM, DIM))


@attention
def normalised_queries_and_keys() -> Net:
    net, x = start()
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    q, k = layer_norm(net, q, 4), layer_norm(net, k, 4)
    return finish(net, linear(net, merge_heads(net, weighted(net, q, k, v)), DIM, DIM))


@attention
def cosine_attention() -> Net:
    net, x = start()
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    norms = [net.op("ReduceL2", y, axes=[3], keepdims=1) for y in (q, k)]
    q, k = (net.op("Div", y, net.op("Clip", n, net.const(np.float32(1e-6)))) for y, n in zip((q, k), norms, strict=True))
    return finish(net, linear(net, merge_heads(net, weighted(net, q, k, v)), DIM, DIM))


def rotated(net: Net, x: str, dims: int, length: int = LENGTH) -> str:
    angles = np.outer(np.arange(length), 1.0 / 10 ** np.arange(dims // 2)).astype(np.float32)
    angles = np.concatenate([angles, angles], 1)
    halves = [net.op("Slice", x, net.ints(a), net.ints(b), net.ints(3)) for a, b in ((0, dims // 2), (dims // 2, dims))]
    turned = net.op("Concat", net.op("Neg", halves[1]), halves[0], axis=3)
    cosine = net.op("Mul", x, net.const(np.cos(angles)))
    return str(net.op("Add", cosine, net.op("Mul", turned, net.const(np.sin(angles)))))


@attention
def rotary_positions_and_grouped_queries() -> Net:
    net, x = start()
    q = rotated(net, split_heads(net, linear(net, x, DIM, 32, bias=False), 8), 4)
    k = rotated(net, split_heads(net, linear(net, x, DIM, 16, bias=False), 4), 4)
    v = split_heads(net, linear(net, x, DIM, 16, bias=False), 4)
    k, v = (
        net.op(
            "Reshape",
            net.op("Expand", net.op("Unsqueeze", y, net.ints(2)), net.ints(1, 4, 2, LENGTH, 4)),
            net.ints(0, 8, LENGTH, 4),
        )
        for y in (k, v)
    )
    x = net.op("Add", x, linear(net, merge_heads(net, weighted(net, q, k, v)), 32, DIM, bias=False))
    gate = net.op("Sigmoid", linear(net, x, DIM, 24, bias=False))
    return finish(net, linear(net, net.op("Mul", gate, linear(net, x, DIM, 24, bias=False)), 24, DIM))


@attention
def window_attention_with_roll() -> Net:
    net = Net()
    x = net.input("x", ["batch", 3, 8, 8])
    x = net.op("Transpose", net.conv(x, 3, DIM, 1, pads=[0, 0, 0, 0]), perm=[0, 2, 3, 1])
    parts = [net.op("Slice", x, net.ints(a), net.ints(b), net.ints(1)) for a, b in ((2, 8), (0, 2))]
    x = net.op("Concat", *parts, axis=1)
    windows = net.op("Transpose", net.op("Reshape", x, net.ints(0, 2, 4, 2, 4, DIM)), perm=[0, 1, 3, 2, 4, 5])
    windows = net.op("Reshape", windows, net.ints(-1, 16, DIM))
    parts = net.op("Reshape", linear(net, windows, DIM, 3 * DIM), net.ints(-1, 16, 3, HEADS, 4))
    q, k, v = net.op("Split", net.op("Transpose", parts, perm=[2, 0, 3, 1, 4]), net.ints(1, 1, 1), outputs=3, axis=0)
    q, k, v = (net.op("Squeeze", y, net.ints(0)) for y in (q, k, v))
    x = linear(net, merge_heads(net, weighted(net, q, k, v), 16), DIM, DIM)
    x = net.op("Transpose", net.op("Reshape", x, net.ints(-1, 2, 2, 4, 4, DIM)), perm=[0, 1, 3, 2, 4, 5])
    return finish(net, net.op("Reshape", x, net.ints(-1, 64, DIM)))


@attention
def patch_merging() -> Net:
    net = Net()
    x = net.op("Transpose", net.conv(net.input("x", ["batch", 3, 8, 8]), 3, DIM, 1, pads=[0] * 4), perm=[0, 2, 3, 1])
    corners = [
        net.op("Slice", x, net.ints(row, column), net.ints(8, 8), net.ints(1, 2), net.ints(2, 2))
        for row in (0, 1)
        for column in (0, 1)
    ]
    x = layer_norm(net, net.op("Concat", *corners, axis=3), 4 * DIM)
    x = net.op("Reshape", linear(net, x, 4 * DIM, DIM), net.ints(0, 16, DIM))
    return finish(net, x)


@attention
def attention_over_channels() -> Net:
    """Rows and columns of the scores are channels: only heads can go."""
    net, x = start()
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    turned = [net.op("Transpose", y, perm=[0, 1, 3, 2]) for y in (q, k, v)]
    y = net.op("Transpose", weighted(net, *turned), perm=[0, 1, 3, 2])
    return finish(net, linear(net, merge_heads(net, y), DIM, DIM))


@attention
def linear_attention() -> Net:
    net, x = start()
    q, k, v = (split_heads(net, net.relu(linear(net, x, DIM, DIM))) for _ in range(3))
    y = net.op("MatMul", q, net.op("MatMul", net.op("Transpose", k, perm=[0, 1, 3, 2]), v))
    return finish(net, linear(net, merge_heads(net, y), DIM, DIM))


@attention
def talking_heads() -> Net:
    net, x = start()
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("Softmax", net.conv(scores, HEADS, HEADS, 1, pads=[0] * 4), axis=-1)
    y = net.op("MatMul", net.conv(scores, HEADS, HEADS, 1, pads=[0] * 4), v)
    return finish(net, linear(net, merge_heads(net, y), DIM, DIM))


@attention
def one_head() -> Net:
    net, x = start()
    q, k, v = (linear(net, x, DIM, DIM) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    return finish(net, linear(net, net.op("MatMul", net.op("Softmax", scores, axis=-1), v), DIM, DIM))


@attention
def heads_in_the_batch() -> Net:
    """Heads and batch share an axis, as in torch.nn.MultiheadAttention."""
    net, x = start()
    by_length = net.op("Transpose", x, perm=[1, 0, 2])
    batch = net.op("Gather", net.op("Shape", by_length), net.ints(1))
    merged = net.op("Concat", net.ints(LENGTH), net.op("Mul", batch, net.ints(HEADS)), net.ints(4), axis=0)
    q, k, v = (
        net.op("Transpose", net.op("Reshape", linear(net, by_length, DIM, DIM), merged), perm=[1, 0, 2]) for _ in range(3)
    )
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = net.op("Transpose", net.op("MatMul", scores, v), perm=[1, 0, 2])
    back = net.op("Concat", net.ints(LENGTH), batch, net.ints(DIM), axis=0)
    y = linear(net, net.op("Reshape", y, back), DIM, DIM)
    return finish(net, net.op("Transpose", y, perm=[1, 0, 2]))


@attention
def einsum_attention() -> Net:
    net, x = start()
    q, k, v = (net.op("Reshape", linear(net, x, DIM, DIM), net.ints(0, LENGTH, HEADS, 4)) for _ in range(3))
    scores = net.op("Softmax", net.op("Einsum", q, k, equation="bqhd,bkhd->bhqk"), axis=-1)
    y = net.op("Einsum", scores, v, equation="bhqk,bkhd->bqhd")
    y = net.op("Reshape", y, net.ints(0, LENGTH, DIM))
    return finish(net, net.op("Einsum", y, net.weight(DIM, DIM), equation="bld,de->ble"))


@attention
def einsum_with_an_ellipsis() -> Net:
    net, x = start()
    hidden = net.relu(net.op("Einsum", x, net.weight(DIM, 24), equation="...d,de->...e"))
    return finish(net, net.op("Einsum", hidden, net.weight(24, DIM), equation="...e,ed->...d"))


@attention
def gate_per_head() -> Net:
    """Each head is weighed by a number computed from the input: the gate and the head go together."""
    net, x = start()
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    gate = net.op("Transpose", net.op("Sigmoid", linear(net, x, DIM, HEADS)), perm=[0, 2, 1])
    gated = net.op("Mul", weighted(net, q, k, v), net.op("Unsqueeze", gate, net.ints(3)))
    return finish(net, linear(net, merge_heads(net, gated), DIM, DIM))


@attention
def one_key_for_two_layers() -> Net:
    net, x = start()
    k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(2))
    for _ in range(2):
        q = split_heads(net, linear(net, x, DIM, DIM))
        x = linear(net, merge_heads(net, weighted(net, q, k, v)), DIM, DIM)
    return finish(net, x)


@attention
def free_length_and_dims_computed_from_the_width() -> Net:
    net = Net()
    x = linear(net, net.input("x", ["batch", "length", 5]), 5, DIM)

    def split(y: str) -> str:
        shape = net.op("Shape", y)
        batch, length, width = (net.op("Gather", shape, net.ints(axis)) for axis in range(3))
        target = net.op("Concat", batch, length, net.ints(HEADS), net.op("Div", width, net.ints(HEADS)), axis=0)
        return str(net.op("Transpose", net.op("Reshape", y, target), perm=[0, 2, 1, 3]))

    q, k, v = (split(linear(net, x, DIM, DIM)) for _ in range(3))
    y = net.op("Transpose", weighted(net, q, k, v), perm=[0, 2, 1, 3])
    return finish(net, linear(net, net.op("Reshape", y, net.ints(0, 0, -1)), DIM, DIM))


@attention
def dims_of_two_kinds_in_every_head() -> Net:
    """The first dims of every head and the last meet apart: positions inside rows matter, so rows cannot choose freely."""
    net, x = start()
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    scores = []
    for first, last in ((0, 3), (3, 4)):
        left, right = (net.op("Slice", y, net.ints(first), net.ints(last), net.ints(3)) for y in (q, k))
        scores.append(net.op("MatMul", left, net.op("Transpose", right, perm=[0, 1, 3, 2])))
    y = net.op("MatMul", net.op("Softmax", net.op("Add", *scores), axis=-1), v)
    return finish(net, linear(net, merge_heads(net, y), DIM, DIM))


@attention
def values_from_outside() -> Net:
    """The values are an input of the model, with all its heads: the scores keep theirs, only dims of queries go."""
    net, x = start()
    values = net.input("values", ["batch", HEADS, LENGTH, 4])
    q, k = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(2))
    return finish(net, linear(net, merge_heads(net, weighted(net, q, k, values)), DIM, DIM))


@attention
def free_length_with_embeddings_and_tied_output() -> Net:
    net = Net()
    net.domains["com.microsoft"] = 1
    tokens = net.input("tokens", ["batch", "length"], INT64)
    table = net.weight(64, DIM, name="embedding")
    shape = net.op("Shape", tokens)
    batch, length = (net.op("Gather", shape, net.ints(axis)) for axis in (0, 1))
    positions = net.op("Slice", net.weight(1, 40, DIM), net.ints(0), length, net.ints(1))
    x = net.op("Add", net.op("Gather", table, tokens), positions)
    y = layer_norm(net, x)
    split = net.op("Concat", batch, length, net.ints(HEADS, 4), axis=0)
    q, k, v = (net.op("Transpose", net.op("Reshape", linear(net, y, DIM, DIM), split), perm=[0, 2, 1, 3]) for _ in range(3))
    merged = net.op("Concat", batch, length, net.ints(DIM), axis=0)
    y = net.op("Reshape", net.op("Transpose", weighted(net, q, k, v), perm=[0, 2, 1, 3]), merged)
    x = net.op("Add", x, linear(net, y, DIM, DIM))
    x = layer_norm(net, net.op("Add", x, feed_forward(net, layer_norm(net, x))))
    net.output(net.op("MatMul", x, net.op("Transpose", table, perm=[1, 0])))
    return net


@attention
def tokens_and_channels_mixed_in_turn() -> Net:
    """MLP-Mixer: a matrix product over the tokens, then one over the channels."""
    net, x = start()
    y = net.op("Transpose", layer_norm(net, x), perm=[0, 2, 1])
    y = linear(net, net.relu(linear(net, y, LENGTH, 10)), 10, LENGTH)
    x = net.op("Add", x, net.op("Transpose", y, perm=[0, 2, 1]))
    return finish(net, net.op("Add", x, linear(net, net.relu(linear(net, x, DIM, 24)), 24, DIM)))


@attention
def matrix_on_the_left() -> Net:
    net, x = start()
    mixed = net.relu(net.op("MatMul", net.weight(8, LENGTH), x))
    return finish(net, net.op("MatMul", net.weight(LENGTH, 8), mixed))


def fused(kind: str, *inputs: str, net: Net, domain: str = "", **attributes: object) -> str:
    return str(net.op(kind, *inputs, domain=domain, **attributes))


@attention
def attention_node_with_three_axes() -> Net:
    net, x = start(opset=23, ir_version=10)
    q, k, v = linear(net, x, DIM, 32), linear(net, x, DIM, 16), linear(net, x, DIM, 24)
    y = fused("Attention", q, k, v, net=net, q_num_heads=8, kv_num_heads=4)
    return finish(net, linear(net, y, 48, DIM))


@attention
def attention_node_with_four_axes() -> Net:
    net, x = start(opset=23, ir_version=10)
    q, k, v = (split_heads(net, linear(net, x, DIM, DIM)) for _ in range(3))
    y = fused("Attention", q, k, v, net.weight(HEADS, LENGTH, LENGTH), net=net)
    return finish(net, linear(net, merge_heads(net, y), DIM, DIM))


@attention
def rotary_node() -> Net:
    net, x = start(opset=23, ir_version=10)
    caches = [net.const(np.asarray(f(np.outer(np.arange(9), [1.0, 0.1])), np.float32)) for f in (np.cos, np.sin)]
    positions = net.const(np.arange(LENGTH)[None])
    batch = net.op("Gather", net.op("Shape", x), net.ints(0))
    positions = net.op("Expand", positions, net.op("Concat", batch, net.ints(LENGTH), axis=0))
    q, k = (fused("RotaryEmbedding", linear(net, x, DIM, DIM), *caches, positions, net=net, num_heads=4) for _ in range(2))
    y = fused("Attention", q, k, linear(net, x, DIM, DIM), net=net, q_num_heads=4, kv_num_heads=4)
    return finish(net, linear(net, y, DIM, DIM))


@attention
def contrib_multi_head_attention() -> Net:
    net, x = start()
    net.domains["com.microsoft"] = 1
    q, k, v = (linear(net, x, DIM, DIM, bias=False) for _ in range(3))
    y = fused("MultiHeadAttention", q, k, v, net.vector(3 * DIM), net=net, domain="com.microsoft", num_heads=HEADS)
    return finish(net, linear(net, y, DIM, DIM))


@attention
def contrib_attention() -> Net:
    net, x = start()
    net.domains["com.microsoft"] = 1
    parts = [x, net.weight(DIM, 3 * DIM), net.vector(3 * DIM)]
    y = fused("Attention", *parts, net=net, domain="com.microsoft", num_heads=HEADS)
    return finish(net, linear(net, y, DIM, DIM))


@attention
def contrib_grouped_queries() -> Net:
    net, x = start()
    net.domains["com.microsoft"] = 1
    batch = net.op("Gather", net.op("Shape", x), net.ints(0))
    lengths = net.op("Expand", net.const(np.asarray([LENGTH - 1], np.int32)), batch)
    q, k, v = linear(net, x, DIM, 64), linear(net, x, DIM, 32), linear(net, x, DIM, 32)
    total = net.const(np.asarray(LENGTH, np.int32))
    y, _, _ = net.op(
        "GroupQueryAttention", q, k, v, "", "", lengths, total, outputs=3, domain="com.microsoft", num_heads=8, kv_num_heads=4
    )
    return finish(net, linear(net, y, 64, DIM))
