"""One small model per way in which channels can be coupled.  Each function returns a finished net."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from models.builder import INT64, Net

TOPOLOGIES: dict[str, Callable[[], Net]] = {}


def topology(function: Callable[[], Net]) -> Callable[[], Net]:
    TOPOLOGIES[function.__name__] = function
    return function


def start(channels: int = 3, size: int = 12, **options: object) -> tuple[Net, str]:
    net = Net(**options)  # type: ignore[arg-type]
    return net, net.input("x", ["batch", channels, size, size])


def finish(net: Net, x: str, channels: int) -> Net:
    net.output(net.head(x, channels))
    return net


@topology
def chain() -> Net:
    net, x = start()
    return finish(net, net.cbr(net.cbr(x, 3, 8), 8, 12), 12)


@topology
def identity_shortcut() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 8)
    body = net.conv(net.cbr(stem, 8, 12), 12, 8)
    return finish(net, net.relu(net.op("Add", body, stem)), 8)


@topology
def projection_shortcut() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 8)
    for inputs, outputs in ((8, 16), (16, 16), (16, 24)):
        body = net.bn(net.conv(net.cbr(stem, inputs, outputs), outputs, outputs), outputs)
        short = stem if inputs == outputs else net.bn(net.conv(stem, inputs, outputs, 1), outputs)
        stem = net.relu(net.op("Add", body, short))
    return finish(net, stem, 24)


@topology
def residual_sum() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 8)
    summed = net.op("Sum", stem, net.conv(stem, 8, 8), net.conv(stem, 8, 8, 1))
    return finish(net, net.op("Mean", summed, net.conv(stem, 8, 8)), 8)


@topology
def concat() -> Net:
    net, x = start()
    a, b = net.cbr(x, 3, 6), net.cbr(x, 3, 10)
    return finish(net, net.cbr(net.op("Concat", a, b, axis=1), 16, 8), 8)


@topology
def cascaded_concat() -> Net:
    net, x = start()
    features, width = net.cbr(x, 3, 8), 8
    for _ in range(3):
        grown = net.conv(net.relu(net.bn(features, width)), width, 4)
        features = net.op("Concat", features, grown, axis=1)
        width += 4
    return finish(net, net.cbr(features, width, 8, 1), 8)


@topology
def concat_then_add() -> Net:
    net, x = start()
    joined = net.op("Concat", net.cbr(x, 3, 6), net.cbr(x, 3, 10), axis=-3)
    return finish(net, net.op("Add", joined, net.conv(x, 3, 16)), 16)


@topology
def concat_along_space() -> Net:
    net, x = start()
    joined = net.op("Concat", net.cbr(x, 3, 8), net.cbr(x, 3, 8), axis=2)
    return finish(net, net.cbr(joined, 8, 6), 6)


@topology
def concat_with_constant() -> Net:
    net, x = start(size=4)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    extra = net.weight(1, 4, 4, 4)
    joined = net.op("Concat", net.cbr(x, 3, 8), extra, axis=1)
    return finish(net, net.cbr(joined, 12, 6), 6)


@topology
def split_and_merge() -> Net:
    net, x = start()
    a, b = net.op("Split", net.cbr(x, 3, 16), net.ints(6, 10), outputs=2, axis=1)
    b = net.conv(b, 10, 10)
    return finish(net, net.cbr(net.op("Concat", b, a, axis=1), 16, 8), 8)


@topology
def even_split_without_sizes() -> Net:
    net, x = start(opset=18, ir_version=9)
    a, b = net.op("Split", net.cbr(x, 3, 16), outputs=2, axis=1, num_outputs=2)
    gated = net.op("Mul", a, net.op("Sigmoid", b))
    return finish(net, gated, 8)


@topology
def split_by_attribute() -> Net:
    net, x = start(opset=11)
    a, b, c = net.op("Split", net.cbr(x, 3, 16), outputs=3, axis=1, split=[4, 4, 8])
    joined = net.op("Concat", net.op("Add", a, b), net.conv(c, 8, 8), axis=1)
    return finish(net, joined, 12)


@topology
def chunk_by_slices() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 16)
    a = net.op("Slice", stem, net.ints(0), net.ints(8), net.ints(1))
    b = net.op("Slice", stem, net.ints(8), net.ints(2**62), net.ints(1))
    c = net.conv(net.cbr(b, 8, 8), 8, 8)
    joined = net.op("Concat", a, b, net.op("Add", b, c), axis=1)
    return finish(net, net.cbr(joined, 24, 8, 1), 8)


@topology
def strided_slices() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 16)
    even = net.op("Slice", stem, net.ints(0), net.ints(16), net.ints(1), net.ints(2))
    backwards = net.op("Slice", stem, net.ints(-1), net.ints(-(2**31)), net.ints(1), net.ints(-1))
    return finish(net, net.op("Concat", net.conv(even, 8, 8), net.conv(backwards, 16, 4), axis=1), 12)


@topology
def slice_by_attribute() -> Net:
    net, x = start(opset=9)
    stem = net.cbr(x, 3, 16)
    a = net.op("Slice", stem, starts=[2], ends=[10], axes=[1])
    return finish(net, net.cbr(a, 8, 8), 8)


@topology
def gather_channels() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 8)
    order = net.ints(7, 1, 3, 3, 0, -2, 2, 4, 5)
    return finish(net, net.cbr(net.op("Gather", stem, order, axis=1), 9, 8), 8)


@topology
def gather_one_channel() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 8)
    plane = net.op("Gather", stem, net.const(np.int64(3)), axis=1)
    again = net.op("Unsqueeze", plane, net.ints(1))
    return finish(net, net.op("Add", net.conv(stem, 8, 8), net.conv(again, 1, 8)), 8)


@topology
def depthwise_separable() -> Net:
    net, x = start()
    y = net.cbr(x, 3, 8)
    for inputs, outputs in ((8, 12), (12, 12)):
        y = net.cbr(net.cbr(y, inputs, inputs, group=inputs), inputs, outputs, 1)
    return finish(net, y, 12)


@topology
def depthwise_with_multiplier() -> Net:
    net, x = start()
    y = net.conv(net.cbr(x, 3, 6), 6, 12, group=6)
    return finish(net, net.cbr(y, 12, 8), 8)


@topology
def inverted_residual_with_gate() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 8, 1)
    y = net.cbr(net.cbr(stem, 8, 24, 1), 24, 24, group=24)
    squeezed = net.op("GlobalAveragePool", y)
    gate = net.op("HardSigmoid", net.conv(net.relu(net.conv(squeezed, 24, 6, 1)), 6, 24, 1))
    y = net.conv(net.op("Mul", y, gate), 24, 8, 1)
    return finish(net, net.op("Add", y, stem), 8)


@topology
def gate_by_matmul() -> Net:
    net, x = start()
    y = net.cbr(x, 3, 12)
    pooled = net.op("ReduceMean", y, axes=[2, 3], keepdims=0)
    hidden = net.relu(net.op("Add", net.op("MatMul", pooled, net.weight(12, 4)), net.vector(4)))
    gate = net.op("Sigmoid", net.op("MatMul", hidden, net.weight(4, 12)))
    gate = net.op("Unsqueeze", gate, net.ints(2, 3))
    return finish(net, net.op("Mul", y, gate), 12)


@topology
def grouped() -> Net:
    net, x = start()
    y = net.cbr(net.cbr(x, 3, 16, 1), 16, 16, group=4)
    return finish(net, net.op("Add", net.conv(y, 16, 8, 1), net.conv(x, 3, 8)), 8)


@topology
def grouped_uneven() -> Net:
    net, x = start()
    y = net.cbr(net.cbr(x, 3, 12, 1), 12, 18, group=3)
    return finish(net, net.cbr(y, 18, 24, group=2), 24)


def shuffle(net: Net, x: str, groups: int, channels: int, size: int) -> str:
    grid = net.op("Reshape", x, net.ints(0, groups, channels // groups, size, size))
    turned = net.op("Transpose", grid, perm=[0, 2, 1, 3, 4])
    return str(net.op("Reshape", turned, net.ints(0, -1, size, size)))


@topology
def shuffle_units() -> Net:
    net, x = start()
    y = net.cbr(x, 3, 16)
    for _ in range(3):
        kept, worked = net.op("Split", y, net.ints(8, 8), outputs=2, axis=1)
        worked = net.cbr(net.conv(net.cbr(worked, 8, 8, 1), 8, 8, group=8), 8, 8, 1)
        y = shuffle(net, net.op("Concat", kept, worked, axis=1), 2, 16, 12)
    return finish(net, y, 16)


@topology
def shuffle_that_also_moves_rows() -> Net:
    """Looks like a channel shuffle, and permutes the rows of the picture as well: one Gather of channels is not enough."""
    net, x = start()
    grid = net.op("Reshape", net.cbr(x, 3, 8), net.ints(0, 2, 4, 2, 6, 12))
    turned = net.op("Transpose", grid, perm=[0, 2, 1, 4, 3, 5])
    y = net.op("Reshape", turned, net.ints(0, 8, 12, 12))
    return finish(net, net.cbr(y, 8, 6), 6)


@topology
def grouped_shuffle() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 18)
    y = shuffle(net, net.cbr(stem, 18, 12, 1, group=3), 3, 12, 12)
    y = net.conv(net.conv(y, 12, 12, group=12), 12, 18, 1, group=3)
    return finish(net, net.relu(net.op("Sum", y, stem)), 18)


@topology
def flatten_to_linear() -> Net:
    net, x = start(size=6)
    y = net.op("Flatten", net.op("MaxPool", net.cbr(x, 3, 8), kernel_shape=[2, 2], strides=[2, 2]))
    y = net.relu(net.op("Gemm", y, net.weight(16, 72), net.vector(16), transB=1))
    net.output(net.op("Gemm", y, net.weight(16, 4), net.vector(4)))
    return net


@topology
def reshape_to_linear() -> Net:
    net, x = start(size=6)
    y = net.op("Reshape", net.cbr(x, 3, 8), net.ints(-1, 288))
    net.output(
        net.op("Add", net.op("MatMul", net.relu(net.op("MatMul", y, net.weight(288, 10))), net.weight(10, 4)), net.vector(4))
    )
    return net


@topology
def computed_reshape() -> Net:
    net, x = start(size=6)
    y = net.cbr(x, 3, 8)
    batch = net.op("Unsqueeze", net.op("Gather", net.op("Shape", y), net.const(np.int64(0)), axis=0), net.ints(0))
    flat = net.op("Reshape", y, net.op("Concat", batch, net.ints(288), axis=0))
    net.output(net.op("Gemm", flat, net.weight(288, 4)))
    return net


@topology
def computed_mean() -> Net:
    net, x = start(size=6)
    y = net.cbr(x, 3, 8)
    total = net.op("ReduceSum", net.op("ReduceSum", y, net.ints(2, 3), keepdims=1), net.ints(1), keepdims=1)
    width = net.op("Cast", net.op("Gather", net.op("Shape", y), net.const(np.int64(1)), axis=0), to=TensorProto.FLOAT)
    return finish(net, net.conv(net.op("Sub", y, net.op("Div", total, width)), 8, 6), 6)


@topology
def resize_by_scales() -> Net:
    net, x = start()
    low = net.cbr(x, 3, 8, strides=[2, 2])
    up = net.op("Resize", low, "", net.const(np.asarray([1, 1, 2, 2], np.float32)), mode="nearest")
    return finish(net, net.op("Concat", up, net.cbr(x, 3, 6), axis=1), 14)


@topology
def resize_by_sizes() -> Net:
    net, x = start()
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    low = net.cbr(x, 3, 8, strides=[2, 2])
    up = net.op("Resize", low, "", "", net.ints(1, 8, 12, 12), mode="linear")
    return finish(net, net.op("Add", up, net.conv(x, 3, 8)), 8)


@topology
def computed_resize() -> Net:
    net, x = start()
    low, high = net.cbr(x, 3, 8, strides=[2, 2]), net.cbr(x, 3, 6)
    low_head = net.op("Slice", net.op("Shape", low), net.ints(0), net.ints(2), net.ints(0))
    high_tail = net.op("Slice", net.op("Shape", high), net.ints(2), net.ints(4), net.ints(0))
    up = net.op("Resize", low, "", "", net.op("Concat", low_head, high_tail, axis=0), mode="nearest")
    return finish(net, net.op("Concat", up, high, axis=1), 14)


@topology
def conv_transpose() -> Net:
    net, x = start()
    low = net.cbr(x, 3, 8, strides=[2, 2])
    up = net.op("ConvTranspose", low, net.weight(8, 6, 2, 2), net.vector(6), strides=[2, 2])
    return finish(net, net.cbr(net.op("Concat", up, net.cbr(x, 3, 4), axis=1), 10, 8), 8)


@topology
def grouped_conv_transpose() -> Net:
    net, x = start()
    low = net.cbr(x, 3, 8)
    up = net.op("ConvTranspose", low, net.weight(8, 3, 2, 2), net.vector(6), group=2)
    deep = net.op("ConvTranspose", up, net.weight(6, 1, 2, 2), net.vector(6), group=6)
    return finish(net, net.cbr(deep, 6, 8), 8)


@topology
def pixel_shuffle() -> Net:
    net, x = start()
    y = net.op("DepthToSpace", net.conv(x, 3, 32), blocksize=2, mode="CRD")
    z = net.op("DepthToSpace", net.conv(x, 3, 24), blocksize=2)
    joined = net.op("Concat", y, z, axis=1)
    down = net.op("SpaceToDepth", net.cbr(joined, 14, 6), blocksize=2)
    return finish(net, net.conv(down, 24, 8), 8)


@topology
def padded_shortcut() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 8)
    wide = net.op("Pad", stem, net.ints(0, 4, 0, 0, 0, 4, 0, 0))
    return finish(net, net.relu(net.op("Add", wide, net.conv(stem, 8, 16))), 16)


@topology
def padded_shortcut_by_attribute() -> Net:
    net, x = start(opset=10)
    stem = net.cbr(x, 3, 8)
    wide = net.op("Pad", stem, pads=[0, 0, 1, 1, 0, 8, 1, 1])
    return finish(net, net.cbr(wide, 16, 8), 8)


@topology
def computed_pads() -> Net:
    """The chain torch's legacy exporter writes for F.pad: pads in torch's order, turned around by shape arithmetic."""
    net, x = start()
    stem = net.cbr(x, 3, 8)
    zeros = net.op("ConstantOfShape", net.ints(4), value=helper.make_tensor("value", TensorProto.INT64, [1], [0]))
    pairs = net.op("Reshape", net.op("Concat", net.ints(0, 1, 0, 1), zeros, axis=0), net.ints(-1, 2))
    backwards = net.op("Slice", pairs, net.ints(-1), net.ints(-(2**62)), net.ints(0), net.ints(-1))
    pads = net.op("Cast", net.op("Reshape", net.op("Transpose", backwards, perm=[1, 0]), net.ints(-1)), to=TensorProto.INT64)
    return finish(net, net.cbr(net.op("Pad", stem, pads, net.const(np.float32(0))), 8, 12, strides=[2, 2]), 12)


@topology
def upsample_and_dropout() -> Net:
    net, x = start(opset=9)
    low, _ = net.op("Dropout", net.cbr(x, 3, 8, strides=[2, 2]), outputs=2, ratio=0.5)
    up = net.op("Upsample", low, net.const(np.asarray([1, 1, 2, 2], np.float32)), mode="nearest")
    return finish(net, net.op("Concat", up, net.cbr(x, 3, 6), axis=1), 14)


@topology
def prelu_and_scale() -> Net:
    net, x = start()
    y = net.op("PRelu", net.conv(x, 3, 8), net.const(net.random.uniform(0.1, 0.4, (8, 1, 1)).astype(np.float32)))
    y = net.op("Mul", y, net.const(net.random.uniform(0.5, 2, (1, 8, 1, 1)).astype(np.float32)))
    return finish(net, net.op("Add", y, net.const(net.random.standard_normal((8, 1, 1)).astype(np.float32))), 8)


@topology
def instance_norm() -> Net:
    net, x = start()
    y = net.op("InstanceNormalization", net.conv(x, 3, 8), net.vector(8), net.vector(8))
    return finish(net, net.cbr(y, 8, 6), 6)


@topology
def layer_norm() -> Net:
    net, x = start(opset=17)
    y = net.op("Transpose", net.conv(x, 3, 8), perm=[0, 2, 3, 1])
    y = net.op("LayerNormalization", y, net.vector(8), net.vector(8), axis=-1)
    y = net.op(
        "MatMul", net.op("Erf", net.op("Add", net.op("MatMul", y, net.weight(8, 16)), net.vector(16))), net.weight(16, 8)
    )
    return finish(net, net.op("Transpose", y, perm=[0, 3, 1, 2]), 8)


@topology
def spatial_attention() -> Net:
    net, x = start()
    y = net.cbr(x, 3, 8)
    maps = net.op("Concat", net.op("ReduceMean", y, axes=[1]), net.op("ReduceMax", y, axes=[1]), axis=1)
    gate = net.op("Sigmoid", net.conv(maps, 2, 1, 5))
    return finish(net, net.cbr(net.op("Mul", y, gate), 8, 6), 6)


@topology
def shared_bias() -> Net:
    net, x = start()
    zero = net.vector(8, name="shared")
    y = x
    for inputs in (3, 8, 8):
        y = net.relu(net.op("Conv", y, net.weight(8, inputs, 3, 3), zero, pads=[1, 1, 1, 1]))
    frozen = net.op("Conv", y, net.weight(8, 8, 1, 1), zero)
    net.output(frozen)
    return finish(net, y, 8)


@topology
def shared_weight() -> Net:
    net, x = start()
    weight, bias = net.weight(8, 8, 3, 3, name="tied"), net.vector(8)
    y = net.cbr(x, 3, 8)
    for _ in range(2):
        y = net.relu(net.op("Conv", y, weight, bias, pads=[1, 1, 1, 1]))
    return finish(net, y, 8)


@topology
def shared_through_identity() -> Net:
    net, x = start()
    bias = net.vector(8, name="first")
    y = net.op("Conv", x, net.weight(8, 3, 3, 3), bias)
    for _ in range(2):
        y = net.op("Conv", net.relu(y), net.weight(8, 8, 3, 3), net.op("Identity", bias))
    return finish(net, y, 8)


@topology
def weights_in_constant_nodes() -> Net:
    net, x = start(opset=11)
    names = {}
    y = finish(net, net.cbr(net.cbr(x, 3, 8), 8, 12), 12)
    for tensor in net.initializers:
        names[tensor.name] = helper.make_node("Constant", [], [tensor.name], value=tensor)
    net.nodes[:0] = list(names.values())
    net.initializers.clear()
    return y


@topology
def derived_weights() -> Net:
    net, x = start()
    y = net.cbr(x, 3, 8)
    turned = net.op("Transpose", net.weight(3, 3, 8, 10), perm=[3, 2, 0, 1])
    y = net.op("Conv", y, turned, net.op("Reshape", net.weight(2, 5), net.ints(10)))
    y = net.op("Add", y, net.op("Reshape", net.vector(10), net.ints(1, 10, 1, 1)))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y))
    net.output(net.op("MatMul", pooled, net.op("Transpose", net.weight(4, 10))))
    return net


@topology
def filled_weights() -> Net:
    net, x = start(opset=9, ir_version=3)
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.1])
    shape, bias = net.ints(8, 3, 3, 3), net.ints(8)
    weight = net.op("ConstantOfShape", shape, value=value)
    other = net.op("ConstantOfShape", net.ints(6, 8, 3, 3), value=value)
    y = net.relu(net.op("Conv", x, weight, net.op("ConstantOfShape", bias, value=value)))
    return finish(net, net.op("Conv", y, other), 6)


@topology
def old_initializers_are_inputs() -> Net:
    net, x = start(opset=9, ir_version=3)
    bias = net.vector(8)
    y = net.relu(net.op("Conv", x, net.weight(8, 3, 3, 3), bias))
    y = net.relu(net.op("Conv", y, net.weight(8, 8, 3, 3), bias))
    return finish(net, y, 8)


@topology
def two_inputs_two_outputs() -> Net:
    net = Net()
    a, b = net.input("left", ["n", 3, 12, 12]), net.input("right", ["n", 2, 12, 12])
    y = net.op("Add", net.cbr(a, 3, 8), net.cbr(b, 2, 8))
    z = net.cbr(y, 8, 10)
    net.output(net.conv(z, 10, 4, 1))
    return finish(net, z, 10)


@topology
def output_in_the_middle() -> Net:
    net, x = start()
    y = net.cbr(x, 3, 8)
    net.output(y)
    return finish(net, net.cbr(y, 8, 12), 12)


@topology
def multi_branch() -> Net:
    net, x = start()
    stem = net.cbr(x, 3, 8)
    branches = [
        net.cbr(stem, 8, 4, 1),
        net.cbr(net.cbr(stem, 8, 6, 1), 6, 8),
        net.cbr(net.op("AveragePool", stem, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 8, 4, 1),
    ]
    return finish(net, net.op("Concat", *branches, axis=1), 16)


@topology
def scalar_operands_and_where() -> Net:
    net, x = start()
    y = net.op(
        "Div",
        net.op(
            "Clip",
            net.op("Add", net.conv(x, 3, 8), net.const(np.float32(3))),
            net.const(np.float32(0)),
            net.const(np.float32(6)),
        ),
        net.const(np.float32(6)),
    )
    mask = net.op("Greater", y, net.const(np.float32(0.5)))
    return finish(net, net.op("Where", mask, y, net.conv(x, 3, 8)), 8)


def free_sizes(**options: object) -> tuple[Net, str]:
    net = Net(**options)  # type: ignore[arg-type]
    return net, net.input("x", ["batch", 3, "height", "width"])


def size_of(net: Net, x: str, axis: int) -> str:
    return str(net.op("Gather", net.op("Shape", x), net.const(np.int64(axis)), axis=0))


def dim(net: Net, scalar: str) -> str:
    """A scalar as a vector of one, as both old and new opsets write it."""
    return str(net.op("Unsqueeze", scalar, axes=[0]) if net.opset < 13 else net.op("Unsqueeze", scalar, net.ints(0)))


@topology
def shared_reshape_target() -> Net:
    """torch's dynamo exporter shares one computed target between shuffles: height and width must stay free in both."""
    net, x = free_sizes()
    y = net.cbr(x, 3, 8)
    sizes = [dim(net, size_of(net, y, axis)) for axis in (0, 2, 3)]
    grid = net.op("Concat", sizes[0], net.ints(2), net.ints(4), sizes[1], sizes[2], axis=0)
    flat = net.op("Concat", sizes[0], net.ints(8), sizes[1], sizes[2], axis=0)
    for _ in range(2):
        turned = net.op("Transpose", net.op("Tanh", net.op("Reshape", y, grid)), perm=[0, 2, 1, 3, 4])
        y = net.conv(net.op("Reshape", turned, flat), 8, 8)
    return finish(net, y, 8)


@topology
def mean_over_everything() -> Net:
    """sum / (channels * height * width): only the width's share of the divisor may be undone."""
    net, x = free_sizes()
    y = net.cbr(x, 3, 8)
    total = net.op("ReduceSum", y, net.ints(1, 2, 3), keepdims=1)
    count = net.op("Mul", size_of(net, y, 1), net.op("Mul", size_of(net, y, 2), size_of(net, y, 3)))
    mean = net.op("Div", total, net.op("Cast", count, to=TensorProto.FLOAT))
    return finish(net, net.conv(net.op("Sub", y, mean), 8, 6), 6)


@topology
def flattened_by_a_computed_product() -> Net:
    net, x = free_sizes()
    y = net.cbr(x, 3, 8)
    pixels = net.op("Mul", size_of(net, y, 2), size_of(net, y, 3))
    product = net.op("Mul", net.const(np.int64(8)), pixels)
    flat = net.op("Reshape", y, net.op("Concat", dim(net, size_of(net, y, 0)), dim(net, product), axis=0))
    total = net.op("Unsqueeze", net.op("ReduceMax", flat, axes=[1], keepdims=1), net.ints(2, 3))
    return finish(net, net.conv(net.op("Sub", y, total), 8, 6), 6)


@topology
def shared_resize_sizes() -> Net:
    net, x = free_sizes()
    high = net.cbr(x, 3, 6)
    sizes = net.op(
        "Concat",
        dim(net, size_of(net, high, 0)),
        net.ints(8),
        dim(net, size_of(net, high, 2)),
        dim(net, size_of(net, high, 3)),
        axis=0,
    )
    ups = [net.op("Resize", net.cbr(x, 3, 8, strides=[2, 2]), "", "", sizes, mode="nearest") for _ in range(2)]
    return finish(net, net.op("Concat", *ups, high, axis=1), 22)


@topology
def computed_shapes_before_opset_13() -> Net:
    net, x = free_sizes(opset=11)
    y = net.cbr(x, 3, 8)
    target = net.op("Concat", *(dim(net, size_of(net, y, axis)) for axis in (0, 1)), net.ints(-1), axis=0)
    pooled = net.op("ReduceMean", net.op("Reshape", y, target), axes=[2], keepdims=0)
    gate = net.op("Unsqueeze", net.op("Gemm", pooled, net.weight(8, 8), net.vector(8)), axes=[2, 3])
    return finish(net, net.cbr(net.op("Mul", y, net.op("Sigmoid", gate)), 8, 6), 6)


@topology
def expanded_spatial_gate() -> Net:
    net, x = start()
    y = net.cbr(x, 3, 8)
    gate = net.op("Sigmoid", net.conv(y, 8, 1))
    expanded = net.op("Expand", gate, net.op("Shape", y))
    tiled = net.op("Tile", net.op("Tanh", gate), net.ints(1, 8, 1, 1))
    return finish(net, net.cbr(net.op("Add", net.op("Mul", y, expanded), tiled), 8, 6), 6)


@topology
def stacked_branches() -> Net:
    net, x = start()
    stacked = net.op("Concat", *(net.op("Unsqueeze", net.cbr(x, 3, 8, k), net.ints(1)) for k in (1, 3)), axis=1)
    weights = net.op("Softmax", net.op("ReduceMean", stacked, axes=[3, 4], keepdims=1), axis=1)
    merged = net.op("ReduceSum", net.op("Mul", stacked, weights), net.ints(1), keepdims=0)
    return finish(net, net.cbr(merged, 8, 6), 6)


@topology
def group_norm_written_out() -> Net:
    net, x = start()
    y = net.conv(x, 3, 16)
    rows = net.op("InstanceNormalization", net.op("Reshape", y, net.ints(0, 4, -1)), net.vector(4), net.vector(4))
    y = net.op("Reshape", rows, net.op("Shape", y))
    shape = (16, 1, 1)
    scale = net.const(net.random.uniform(0.5, 2, shape).astype(np.float32))
    return finish(net, net.cbr(net.op("Mul", y, scale), 16, 6), 6)


@topology
def statistics_as_outputs() -> Net:
    net, x = start(opset=15)
    y = net.conv(x, 3, 8)
    parts = [net.vector(8), net.vector(8), net.vector(8), net.positive(8)]
    y, mean, _ = net.op("BatchNormalization", y, *parts, outputs=3, training_mode=1)
    net.output(mean)
    return finish(net, net.cbr(net.relu(y), 8, 6), 6)


@topology
def channels_by_range() -> Net:
    net, x = start()
    y = net.cbr(x, 3, 8)
    order = net.op("Range", net.const(np.int64(0)), size_of(net, y, 1), net.const(np.int64(1)))
    return finish(net, net.cbr(net.op("Gather", y, order, axis=1), 8, 6), 6)


@topology
def convolution_over_channels() -> Net:
    """Efficient channel attention: a 1-D convolution slides over the channels, so they stay."""
    net, x = start()
    y = net.cbr(x, 3, 8)
    line = net.op("Reshape", net.op("GlobalAveragePool", y), net.ints(0, 1, 8))
    gate = net.op("Conv", line, net.weight(1, 1, 3), kernel_shape=[3], pads=[1, 1])
    gate = net.op("Reshape", net.op("Sigmoid", gate), net.ints(0, 8, 1, 1))
    return finish(net, net.cbr(net.op("Mul", y, gate), 8, 12), 12)


@topology
def one_identity_for_two_readers() -> Net:
    net, x = start()
    bias = net.op("Identity", net.vector(8))
    a = net.op("Conv", x, net.weight(8, 3, 3, 3), bias)
    b = net.op("Conv", net.relu(a), net.weight(8, 8, 3, 3), bias)
    return finish(net, b, 8)


@topology
def conv_1d() -> Net:
    net = Net()
    x = net.input("x", ["n", 2, 20])
    y = net.relu(net.op("Conv", x, net.weight(8, 2, 3), net.vector(8)))
    y = net.relu(net.op("Conv", y, net.weight(12, 8, 3), net.vector(12), strides=[2]))
    return finish(net, y, 12)


@topology
def conv_3d() -> Net:
    net = Net()
    x = net.input("x", ["n", 2, 6, 6, 6])
    y = net.bn(net.relu(net.op("Conv", x, net.weight(8, 2, 3, 3, 3))), 8)
    return finish(net, net.op("Conv", y, net.weight(6, 8, 3, 3, 3)), 6)


@topology
def half_precision() -> Net:
    net, x = start(dtype=np.float16)
    return finish(net, net.relu(net.conv(net.relu(net.conv(x, 3, 8)), 8, 12)), 12)


@topology
def unknown_operator() -> Net:
    net, x = start()
    net.domains["com.acme"] = 1
    y = net.cbr(x, 3, 8)
    net.output(net.op("Mystery", y, domain="com.acme"))
    return finish(net, net.cbr(net.cbr(x, 3, 8), 8, 12), 12)


@topology
def control_flow() -> Net:
    net, x = start()
    flag = net.input("flag", [], TensorProto.BOOL)
    seen, hidden = net.cbr(x, 3, 8), net.cbr(x, 3, 8)
    then = helper.make_graph(
        [helper.make_node("Add", [seen, seen], ["then_out"])],
        "then",
        [],
        [helper.make_tensor_value_info("then_out", net.elem, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Relu", [seen], ["else_out"])],
        "else",
        [],
        [helper.make_tensor_value_info("else_out", net.elem, None)],
    )
    chosen = net.op("If", flag, then_branch=then, else_branch=other)
    return finish(net, net.op("Concat", net.conv(chosen, 8, 6), net.conv(hidden, 8, 6), axis=1), 12)


@topology
def local_function() -> Net:
    net, x = start()
    body = [helper.make_node("Relu", ["a"], ["b"])]
    net.functions.append(helper.make_function("acme.nn", "Act", ["a"], ["b"], body, [helper.make_opsetid("", net.opset)]))
    net.domains["acme.nn"] = 1
    y = net.op("Act", net.conv(x, 3, 8), domain="acme.nn")
    return finish(net, net.cbr(y, 8, 12), 12)


@topology
def integer_input() -> Net:
    net = Net()
    x = net.op("Cast", net.input("x", ["n", 3, 10, 10], TensorProto.UINT8), to=TensorProto.FLOAT)
    return finish(net, net.cbr(net.cbr(x, 3, 8), 8, 6), 6)


@topology
def expand_and_tile() -> Net:
    net, x = start(size=6)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    y = net.cbr(x, 3, 8)
    pooled = net.op("Expand", net.op("GlobalAveragePool", y), net.ints(1, 8, 6, 6))
    tiled = net.op("Tile", y, net.ints(1, 2, 1, 1))
    return finish(net, net.op("Concat", net.op("Add", y, pooled), net.conv(tiled, 16, 4), axis=1), 12)


@topology
def multi_axis_between_shuffles() -> Net:
    net, x = start()
    y = net.op("Reshape", net.cbr(x, 3, 16), net.ints(0, 4, 4, 12, 12))
    y = net.op("Transpose", net.op("Tanh", y), perm=[0, 2, 1, 3, 4])
    y = net.op("Reshape", y, net.ints(0, 16, 12, 12))
    return finish(net, net.cbr(y, 16, 8), 8)


from models import control_topologies, function_topologies  # noqa: E402, F401  they add their own

__all__ = ["INT64", "TOPOLOGIES"]
