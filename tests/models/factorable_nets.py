"""Nets that low-rank methods are made for: a transformer encoder over tokens, and a text-line recogniser with a large head."""

from __future__ import annotations

import numpy as np

from models.builder import Net


def encoder(layers: int = 6, width: int = 384, heads: int = 6, tokens: int = 32, vocabulary: int = 2000) -> Net:
    """Embedding, pre-norm attention and MLP blocks, and a classifier over the mean token."""
    net = Net(opset=17)
    net.input("tokens", ["n", tokens], 7)
    x = net.op("Gather", net.const(_decaying(net, vocabulary, width), "embedding"), "tokens", axis=0)
    for _ in range(layers):
        x = str(net.op("Add", x, _attention(net, _norm(net, x, width), width, heads, tokens)))
        x = str(net.op("Add", x, _linear(net, _gelu(net, x, width), 4 * width, width)))
    pooled = net.op("ReduceMean", x, axes=[1], keepdims=0)
    net.output(str(net.op("Gemm", pooled, net.weight(10, width), net.vector(10), transB=1)))
    return net


def recogniser(channels: int = 64, hidden: int = 512, classes: int = 8210, height: int = 16, length: int = 64) -> Net:
    """Convolutions, a bidirectional LSTM over the columns, and one large matrix over what it gives."""
    net = Net(opset=17)
    net.input("image", ["n", 1, height, length])
    x = net.relu(net.conv("image", 1, channels))
    x = net.relu(net.conv(x, channels, channels, strides=[2, 1]))
    x = net.relu(net.conv(x, channels, 2 * channels, strides=[2, 2]))
    x = str(net.op("ReduceMean", x, axes=[2], keepdims=0))  # N C L
    x = str(net.op("Transpose", x, perm=[2, 0, 1]))
    parts = [net.weight(2, 4 * hidden, size) for size in (2 * channels, hidden)]
    bias = net.const(np.zeros((2, 8 * hidden), np.float32))
    y = net.op("LSTM", x, *parts, bias, outputs=1, hidden_size=hidden, direction="bidirectional")
    y = net.op("Reshape", net.op("Transpose", y, perm=[2, 0, 1, 3]), net.ints(0, 0, 2 * hidden))
    head = net.const((_decaying(net, classes, 2 * hidden) * 4).T.copy())
    net.output(str(net.op("Add", net.op("MatMul", y, head), net.vector(classes))))
    return net


def _decaying(net: Net, rows: int, columns: int) -> np.ndarray:
    """A matrix whose singular values fall, as those of trained ones do."""
    rank = min(rows, columns)
    left, right = net.random.standard_normal((rows, rank)), net.random.standard_normal((rank, columns))
    return (left * np.geomspace(1, 0.01, rank) @ right / rank).astype(np.float32)


def _linear(net: Net, x: str, inputs: int, outputs: int) -> str:
    weight = net.const((_decaying(net, inputs, outputs) * 4).astype(np.float32))
    return str(net.op("Add", net.op("MatMul", x, weight), net.vector(outputs)))


def _norm(net: Net, x: str, width: int) -> str:
    return str(net.op("LayerNormalization", x, net.vector(width), net.vector(width), axis=-1))


def _gelu(net: Net, x: str, width: int) -> str:
    h = _linear(net, _norm(net, x, width), width, 4 * width)
    half = net.op("Erf", net.op("Mul", h, net.const(np.float32(0.70710678))))
    return str(net.op("Mul", h, net.op("Mul", net.op("Add", half, net.const(np.float32(1))), net.const(np.float32(0.5)))))


def _attention(net: Net, x: str, width: int, heads: int, tokens: int) -> str:
    shape = net.ints(0, tokens, heads, width // heads)
    parts = [net.op("Reshape", _linear(net, x, width, width), shape) for _ in range(3)]
    query, value = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (parts[0], parts[2]))
    key = net.op("Transpose", parts[1], perm=[0, 2, 3, 1])
    scale = net.const(np.float32((width // heads) ** -0.5))
    weights = net.op("Softmax", net.op("Mul", net.op("MatMul", query, key), scale), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    return _linear(net, net.op("Reshape", mixed, net.ints(0, tokens, width)), width, width)
