"""Nets of one layer that can be factorised, each with what may stand in the way: strides, groups, biases, transposes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.builder import Net


def plain_conv() -> Net:
    net = image_net()
    net.output(net.conv("x", 6, 12))
    return net


def strided_conv() -> Net:
    net = image_net()
    net.output(net.conv("x", 6, 12, strides=[2, 1], pads=[0, 1, 2, 1], bias=False))
    return net


def dilated_conv() -> Net:
    net = image_net()
    net.output(net.conv("x", 6, 10, dilations=[2, 2], pads=[2, 2, 2, 2]))
    return net


def same_conv() -> Net:
    net = image_net()
    net.output(str(net.op("Conv", "x", net.weight(9, 6, 4, 4), auto_pad="SAME_UPPER", strides=[2, 2])))
    return net


def grouped_conv() -> Net:
    net = image_net()
    net.output(net.conv("x", 6, 12, group=2))
    return net


def normalised_conv() -> Net:
    net = image_net()
    net.output(net.bn(net.conv("x", 6, 12, bias=False), 12))
    return net


def long_conv() -> Net:
    """One spatial axis."""
    net = Net()
    net.input("x", ["n", 6, 20])
    net.output(str(net.op("Conv", "x", net.weight(10, 6, 5), net.vector(10), pads=[2, 2])))
    return net


def gemm() -> Net:
    net = row_net()
    net.output(str(net.op("Gemm", "x", net.weight(7, 12), net.vector(7), transB=1)))
    return net


def wide_gemm() -> Net:
    """More outputs than inputs, scaled, not transposed, no bias."""
    net = row_net()
    net.output(str(net.op("Gemm", "x", net.weight(12, 20), alpha=0.5)))
    return net


def scaled_bias_gemm() -> Net:
    net = row_net()
    net.output(str(net.op("Gemm", "x", net.weight(12, 9), net.vector(9), beta=2.0)))
    return net


def matmul() -> Net:
    net = Net()
    net.input("x", ["n", 5, 12])
    net.output(str(net.op("MatMul", "x", net.weight(12, 8))))
    return net


def matmul_and_bias() -> Net:
    net = Net()
    net.input("x", ["n", 5, 12])
    net.output(str(net.op("Add", net.op("MatMul", "x", net.weight(12, 8)), net.vector(8))))
    return net


def transposed_weight() -> Net:
    """A weight behind a Transpose, as exporters write linear layers."""
    net = Net()
    net.input("x", ["n", 5, 12])
    net.output(str(net.op("MatMul", "x", net.op("Transpose", net.weight(8, 12), perm=[1, 0]))))
    return net


def table() -> Net:
    """Rows of a table of embeddings."""
    net = Net()
    net.input("ids", ["n", 5], 7)
    net.output(str(net.op("Gather", net.weight(40, 9), "ids", axis=0)))
    return net


def image_net() -> Net:
    net = Net()
    net.input("x", ["n", 6, 9, 8])
    return net


def row_net() -> Net:
    net = Net()
    net.input("x", ["n", 12])
    return net


LAYERS: dict[str, Callable[[], Net]] = {
    maker.__name__: maker
    for maker in (
        plain_conv,
        strided_conv,
        dilated_conv,
        same_conv,
        grouped_conv,
        normalised_conv,
        long_conv,
        gemm,
        wide_gemm,
        scaled_bias_gemm,
        matmul,
        matmul_and_bias,
        transposed_weight,
        table,
    )
}


def correlated(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Inputs whose channels are correlated, of different sizes, and not around zero; rows of a table for shape (n, 5)."""
    random = np.random.default_rng(seed)
    if shape[1:] == (5,):
        return random.integers(0, 40, shape)
    axis = 1 if len(shape) in (2, 4) or shape[1] == 6 else -1
    channels = shape[axis]
    mixing = random.standard_normal((channels, channels)) * np.geomspace(1, 0.05, channels)
    values = np.moveaxis(random.standard_normal(shape), axis, -1) @ mixing.T + random.standard_normal(channels)
    return np.moveaxis(values, -1, axis).astype(np.float32)
