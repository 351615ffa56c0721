"""One small model per operator family beyond plain convolutional networks.  Each function returns a finished net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from models.builder import INT64, Net
from models.topologies import dim, finish, size_of, start

OPERATOR_TOPOLOGIES: dict[str, Callable[[], Net]] = {}

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def topology(function: Callable[[], Net]) -> Callable[[], Net]:
    OPERATOR_TOPOLOGIES[function.__name__] = function
    return function


def sequence(inputs: int = 6, steps: int = 5, batch: int = 3, **options: Any) -> tuple[Net, str]:
    net = Net(**options)
    return net, net.input("x", [steps, batch, inputs])


def cell(
    net: Net, kind: str, x: str, inputs: int, hidden: int, *, states: list[str] | None = None, directions: int = 1,
    peepholes: bool = False, lengths: str = "", bias: bool = True, **attributes: Any,
) -> list[str]:  # fmt: skip
    """A recurrent layer; ``states`` are its initial states.  Returns the names of all its outputs."""
    rows = GATES[kind] * hidden
    parts = [x, net.weight(directions, rows, inputs), net.weight(directions, rows, hidden)]
    parts += [net.weight(directions, 2 * rows) if bias else "", lengths, *(states or [])]
    if peepholes:
        parts += [""] * (7 - len(parts)) + [net.weight(directions, 3 * hidden)]
    attributes.setdefault("direction", "bidirectional" if directions == 2 else "forward")
    outputs = 3 if kind == "LSTM" else 2
    return list(net.op(kind, *parts, outputs=outputs, hidden_size=hidden, **attributes))


def linear(net: Net, x: str, inputs: int, outputs: int) -> str:
    return str(net.op("Add", net.op("MatMul", x, net.weight(inputs, outputs)), net.vector(outputs)))


def squeezed(net: Net, y: str, axis: int = 1) -> str:
    return str(net.op("Squeeze", y, net.ints(axis)))


@topology
def lstm() -> Net:
    net, x = sequence()
    y, last, state = cell(net, "LSTM", net.relu(linear(net, x, 6, 10)), 10, 8)
    net.output(linear(net, squeezed(net, y), 8, 4))
    net.output(linear(net, net.op("Add", squeezed(net, last, 0), squeezed(net, state, 0)), 8, 3))
    return net


@topology
def gru_linear_before_reset() -> Net:
    net, x = sequence()
    y, _ = cell(net, "GRU", net.relu(linear(net, x, 6, 10)), 10, 8, linear_before_reset=1)
    net.output(linear(net, squeezed(net, y), 8, 4))
    return net


@topology
def gru_reset_before() -> Net:
    net, x = sequence()
    _, last = cell(net, "GRU", x, 6, 8, bias=False)
    net.output(linear(net, squeezed(net, last, 0), 8, 4))
    return net


@topology
def rnn_of_sigmoids() -> Net:
    """A unit with zero weights is at one half: it is the zero columns of its readers that silence it."""
    net, x = sequence()
    y, _ = cell(net, "RNN", x, 6, 8, activations=["Sigmoid"])
    net.output(linear(net, squeezed(net, y), 8, 4))
    return net


@topology
def stacked_bidirectional_lstm() -> Net:
    net, x = sequence(batch=2)
    width = 6
    for _ in range(2):
        y, last, _ = cell(net, "LSTM", x, width, 8, directions=2)
        x = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))
        width = 16
    net.output(linear(net, x, 16, 4))
    net.output(linear(net, net.op("Reshape", net.op("Transpose", last, perm=[1, 0, 2]), net.ints(-1, 16)), 16, 3))
    return net


@topology
def stored_initial_states_and_peepholes() -> Net:
    net, x = sequence()
    states = [net.weight(1, 3, 8), net.weight(1, 3, 8)]
    y, _, _ = cell(net, "LSTM", x, 6, 8, states=states, peepholes=True)
    net.output(linear(net, squeezed(net, y), 8, 4))
    return net


@topology
def one_stored_state_for_both() -> Net:
    net, x = sequence()
    zeros = net.const(np.zeros((1, 3, 8), np.float32), "zeros")
    y, _, _ = cell(net, "LSTM", x, 6, 8, states=[zeros, zeros])
    z, _, _ = cell(net, "LSTM", squeezed(net, y), 8, 8, states=[zeros, zeros])
    net.output(linear(net, squeezed(net, z), 8, 4))
    return net


@topology
def encoder_and_decoder() -> Net:
    """The decoder starts where the encoder ended: they lose the same units."""
    net, x = sequence()
    _, last, state = cell(net, "LSTM", x, 6, 8)
    y, _, _ = cell(net, "LSTM", x, 6, 8, states=[last, state])
    net.output(linear(net, squeezed(net, y), 8, 4))
    return net


@topology
def states_of_computed_size() -> Net:
    """Exporters make zero states from the batch; the units among them are picked."""
    net = Net()
    x = net.input("x", [5, "batch", 6])
    shape = net.op("Concat", net.ints(2), dim(net, size_of(net, x, 1)), net.ints(8), axis=0)
    states = [
        net.op("ConstantOfShape", shape, value=helper.make_tensor("value", TensorProto.FLOAT, [1], [0.3])),
        net.op("Expand", net.const(np.float32(0)), shape),
    ]
    width = 6
    for layer in range(2):
        own = [net.op("Slice", state, net.ints(layer), net.ints(layer + 1), net.ints(0)) for state in states]
        y, _, _ = cell(net, "LSTM", x, width, 8, states=own)
        x, width = squeezed(net, y), 8
    net.output(linear(net, x, 8, 4))
    return net


@topology
def states_from_the_caller() -> Net:
    net, x = sequence()
    states = [net.input("hidden", [1, 3, 8]), net.input("memory", [1, 3, 8])]
    y, _, _ = cell(net, "LSTM", x, 6, 8, states=states)
    net.output(linear(net, squeezed(net, y), 8, 4))
    return net


@topology
def lengths_of_sequences() -> Net:
    net, x = sequence()
    y, _ = cell(net, "GRU", x, 6, 8, lengths=net.const(np.asarray([5, 2, 3], np.int32)), direction="reverse")
    net.output(linear(net, squeezed(net, y), 8, 4))
    return net


@topology
def crnn() -> Net:
    """Convolutions, columns as time steps, a bidirectional layer: the usual text reader."""
    net, x = start(size=8)
    y = net.op("MaxPool", net.cbr(net.cbr(x, 3, 8), 8, 12, strides=[2, 1]), kernel_shape=[4, 1], strides=[4, 1])
    steps = net.op("Transpose", squeezed(net, y, 2), perm=[2, 0, 1])
    y, _, _ = cell(net, "LSTM", steps, 12, 8, directions=2)
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, 16))
    net.output(net.op("LogSoftmax", linear(net, y, 16, 5), axis=2))
    return net


@topology
def picked_elements() -> Net:
    """The two largest values of every channel's map, looked up again by their positions."""
    net, x = start(size=6)
    flat = net.op("Reshape", net.cbr(x, 3, 8), net.ints(0, 8, -1))
    values, where = net.op("TopK", flat, net.ints(4), outputs=2, axis=2)
    again = net.op("GatherElements", flat, where, axis=2)
    y = net.op("Reshape", net.op("Add", values, net.op("Tanh", again)), net.ints(0, 8, 2, 2))
    return finish(net, net.cbr(y, 8, 6), 6)


@topology
def stored_element_indices() -> Net:
    net, x = start(size=6)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    y = net.cbr(x, 3, 8)
    places = net.random.integers(0, 6, (1, 8, 4, 6))
    y = net.op("GatherElements", y, net.const(places), axis=2)
    rows = net.const(np.argsort(net.random.random((1, 8, 2, 6)), axis=2))
    y = net.op("ScatterElements", y, rows, net.const(net.random.random((1, 8, 2, 6)).astype(np.float32)), axis=2)
    return finish(net, net.cbr(y, 8, 6), 6)


@topology
def scatter_before_opset_11() -> Net:
    net, x = start(size=6, opset=9)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    y, z = net.conv(x, 3, 8), net.conv(x, 3, 8)
    rows = net.const(net.random.permuted(np.tile(np.arange(6)[:, None], (1, 8, 1, 6)), axis=2))
    return finish(net, net.conv(net.op("Scatter", y, rows, net.relu(z), axis=2), 8, 6), 6)


@topology
def assigned_channels() -> Net:
    """``x[:, 2:5] = y`` as exporters write it: channels first, ScatterND with stored positions, and back."""
    net, x = start()
    y, part = net.cbr(x, 3, 8), net.cbr(x, 3, 3)
    turned = [net.op("Transpose", value, perm=[1, 0, 2, 3]) for value in (y, part)]
    written = net.op("ScatterND", turned[0], net.const(np.asarray([[2], [3], [-4]])), turned[1])
    return finish(net, net.cbr(net.op("Transpose", written, perm=[1, 0, 2, 3]), 8, 6), 6)


@topology
def assigned_channels_by_full_positions() -> Net:
    """torch's first exporter lists the position of every element that is written."""
    net, x = start(size=4)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    y, part = net.cbr(x, 3, 8), net.cbr(x, 3, 3)
    places = np.stack(np.meshgrid([0], [1, 4, 6], range(4), range(4), indexing="ij"), axis=-1)
    return finish(net, net.cbr(net.op("ScatterND", y, net.const(places), part), 8, 6), 6)


@topology
def channels_written_into_zeros() -> Net:
    net, x = start(size=4)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    turned = net.op("Transpose", net.cbr(x, 3, 6), perm=[1, 0, 2, 3])
    canvas = net.const(net.random.random((8, 1, 4, 4)).astype(np.float32))
    written = net.op("ScatterND", canvas, net.const(np.asarray([[6], [1], [5], [0], [3], [7]])), turned)
    return finish(net, net.cbr(net.op("Transpose", written, perm=[1, 0, 2, 3]), 8, 6), 6)


@topology
def assigned_rows() -> Net:
    """Writing to other axes than the channels': stored and computed values, and a canvas that follows."""
    net, x = start(size=6)
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    y = net.op("Transpose", net.cbr(x, 3, 8), perm=[2, 0, 3, 1])
    some = net.op("GatherND", y, net.const(np.asarray([[4], [0]])))
    y = net.op("ScatterND", y, net.const(np.asarray([[1], [3]])), net.op("Tanh", some), reduction="add")
    y = net.op("ScatterND", y, net.const(np.asarray([[5, 0]])), net.const(net.random.random((1, 6, 8)).astype(np.float32)))
    canvas = net.const(net.random.random((7, 1, 6, 8)).astype(np.float32))
    y = net.op("ScatterND", canvas, net.const(np.arange(6)[:, None]), y)
    return finish(net, net.cbr(net.op("Transpose", y, perm=[1, 3, 0, 2]), 8, 6), 6)


@topology
def channels_gathered_by_a_list_of_positions() -> Net:
    net, x = start(size=6)
    turned = net.op("Transpose", net.cbr(x, 3, 8), perm=[1, 0, 2, 3])
    chosen = net.op("GatherND", turned, net.const(np.asarray([[7], [0], [3], [3], [-2]])))
    return finish(net, net.cbr(net.op("Transpose", chosen, perm=[1, 0, 2, 3]), 5, 6), 6)


@topology
def running_sums() -> Net:
    net, x = start(size=6)
    y = net.op("CumSum", net.cbr(x, 3, 8), net.const(np.int64(2)))
    y = net.op("CumSum", net.relu(y), net.const(np.int64(1)), reverse=1)
    return finish(net, net.cbr(y, 8, 6), 6)


@topology
def positions_of_the_largest() -> Net:
    """Soft and hard positions over space; the classes of the output stay."""
    net, x = start(size=6)
    y = net.cbr(x, 3, 8)
    where = net.op("Cast", net.op("ArgMax", y, axis=3, keepdims=0), to=TensorProto.FLOAT)
    last = net.op("ArgMin", y, axis=2, keepdims=1, select_last_index=1)
    rows = net.op("Add", net.op("Unsqueeze", where, net.ints(3)), net.op("Cast", last, to=TensorProto.FLOAT))
    z = net.cbr(rows, 8, 6)
    net.output(net.op("ArgMax", net.conv(z, 6, 4), axis=1), TensorProto.INT64)
    return finish(net, z, 6)


@topology
def reversed_and_masked_sequences() -> Net:
    net, x = sequence(inputs=6, steps=5, batch=5)
    y = net.relu(linear(net, x, 6, 10))
    y = net.op("ReverseSequence", y, net.ints(5, 2, 3, 1, 4), time_axis=0, batch_axis=1)
    y = net.op("Transpose", net.op("Trilu", net.op("Transpose", y, perm=[2, 0, 1]), upper=0), perm=[1, 2, 0])
    net.output(linear(net, net.op("CastLike", y, x), 10, 4))
    return net


@topology
def labels_as_vectors() -> Net:
    net, x = start(size=6)
    marks = net.op("OneHot", net.op("ArgMax", net.cbr(x, 3, 8), axis=3, keepdims=0), net.const(np.int64(6)),
                   net.const(np.asarray([0, 1], np.float32)), axis=-1)  # fmt: skip
    return finish(net, net.cbr(marks, 8, 6), 6)


@topology
def sampled_regions() -> Net:
    net, x = start(size=8)
    boxes = net.const(np.asarray([[0, 0, 5, 5], [1, 2, 7, 7]], np.float32))
    y = net.op("RoiAlign", net.cbr(x, 3, 8), boxes, net.ints(0, 0), output_height=4, output_width=4)
    pooled = net.op("MaxRoiPool", net.cbr(y, 8, 8), net.const(np.asarray([[0, 0, 0, 3, 3]], np.float32)), pooled_shape=[2, 2])
    return finish(net, net.cbr(pooled, 8, 6), 6)


@topology
def spatial_transformer() -> Net:
    """Where to look is computed by a branch of its own, whose coordinates stay."""
    net, x = start(size=8, opset=20, ir_version=9)
    y = net.cbr(x, 3, 8)
    theta = net.op("Reshape", net.head(net.cbr(x, 3, 8), 8, 6), net.ints(-1, 2, 3))
    grid = net.op("AffineGrid", theta, net.op("Shape", y))
    return finish(net, net.cbr(net.op("GridSample", y, grid), 8, 6), 6)


@topology
def folded_columns() -> Net:
    net, x = start(size=4, opset=18)
    columns = net.op("Reshape", net.cbr(x, 3, 24), net.ints(0, 24, -1))
    y = net.op("Col2Im", columns, net.ints(8, 8), net.ints(2, 2), strides=[2, 2])
    return finish(net, net.cbr(y, 6, 8), 8)


@topology
def cropped_to_the_centre() -> Net:
    net, x = start(size=8, opset=18)
    y = net.op("CenterCropPad", net.cbr(x, 3, 8), net.ints(5, 10), axes=[2, 3])
    return finish(net, net.cbr(y, 8, 6), 6)


@topology
def bounds_from_shapes() -> Net:
    """Crops, pads and clips whose bounds are computed, from sizes and from the data."""
    net, x = start()
    for axis in (2, 3):
        net.inputs[0].type.tensor_type.shape.dim[axis].dim_param = "hw"[axis - 2]
    y = net.cbr(x, 3, 8)
    half = net.op("Div", size_of(net, y, 1), net.const(np.int64(2)))
    part = net.op("Slice", y, net.ints(0), dim(net, half), net.ints(1))
    edge = net.op("Sub", dim(net, size_of(net, y, 3)), net.ints(2))
    part = net.op("Slice", part, net.ints(1), edge, net.ints(3))
    missing = net.op("Sub", dim(net, size_of(net, y, 3)), dim(net, size_of(net, part, 3)))
    pads = net.op("Concat", net.ints(0, 0, 0, 0, 0, 0, 0), missing, axis=0)
    part = net.op("Pad", part, pads, net.const(np.float32(0)))
    most = net.op("ReduceMax", net.op("Sigmoid", net.conv(x, 3, 8)), keepdims=0)
    return finish(net, net.cbr(net.op("Clip", part, "", most), 4, 6), 6)


@topology
def dropout_with_its_mask() -> Net:
    net, x = start()
    y, mask = net.op("Dropout", net.cbr(x, 3, 8), outputs=2)
    kept = net.op("Mul", y, net.op("Cast", mask, to=TensorProto.FLOAT))
    return finish(net, net.op("Pow", net.cbr(kept, 8, 6), net.op("Sigmoid", net.conv(x, 3, 6))), 6)


@topology
def grouped_transposed_1d() -> Net:
    net = Net()
    y = net.relu(net.op("Conv", net.input("x", ["n", 2, 20]), net.weight(8, 2, 3), net.vector(8)))
    y = net.relu(net.op("ConvTranspose", y, net.weight(8, 3, 4), net.vector(12), group=4, strides=[2]))
    y = net.relu(net.op("ConvTranspose", y, net.weight(12, 1, 3), group=12))
    return finish(net, y, 12)


@topology
def grouped_transposed_3d() -> Net:
    net = Net()
    y = net.relu(net.op("Conv", net.input("x", ["n", 2, 4, 4, 4]), net.weight(8, 2, 1, 1, 1), net.vector(8)))
    y = net.relu(net.op("ConvTranspose", y, net.weight(8, 4, 2, 2, 2), net.vector(8), group=2, strides=[2, 2, 2]))
    return finish(net, y, 8)


@topology
def group_normalization_with_a_scale_per_channel() -> Net:
    net, x = start(opset=21, ir_version=10)
    y = net.op("GroupNormalization", net.conv(x, 3, 16), net.vector(16), net.vector(16), num_groups=4)
    return finish(net, net.cbr(y, 16, 6), 6)


@topology
def group_normalization_with_a_scale_per_group() -> Net:
    net, x = start(opset=18)
    y = net.op("GroupNormalization", net.conv(x, 3, 16), net.vector(4), net.vector(4), num_groups=4)
    return finish(net, net.cbr(y, 16, 6), 6)


@topology
def group_normalizations_around_a_shortcut() -> Net:
    """Two numbers of groups over one set of channels: both stay balanced."""
    net, x = start(opset=21, ir_version=10)
    stem = net.conv(x, 3, 16)
    y = net.relu(net.op("GroupNormalization", stem, net.vector(16), net.vector(16), num_groups=2))
    y = net.op("Add", net.conv(y, 16, 16), stem)
    y = net.relu(net.op("GroupNormalization", y, net.vector(16), net.vector(16), num_groups=4))
    return finish(net, net.cbr(y, 16, 6), 6)


@topology
def rms_normalization() -> Net:
    net, x = sequence(inputs=6, opset=23, ir_version=11)
    y = net.op("RMSNormalization", linear(net, x, 6, 16), net.vector(16), axis=-1)
    net.output(linear(net, net.op("Tanh", linear(net, y, 16, 12)), 12, 4))
    return net


@topology
def simplified_layer_normalization() -> Net:
    net, x = sequence(inputs=6)
    y = net.op("SimplifiedLayerNormalization", linear(net, x, 6, 16), net.vector(16), axis=-1)
    net.output(linear(net, net.op("Tanh", linear(net, y, 16, 12)), 12, 4))
    return net


@topology
def skip_normalizations() -> Net:
    """onnxruntime's fused residual blocks: the sum that was normalised goes on as the stream."""
    net, x = sequence(inputs=6)
    net.domains["com.microsoft"] = 1
    stream = linear(net, x, 6, 16)
    for kind in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        body = linear(net, net.op("QuickGelu", linear(net, stream, 16, 12), domain="com.microsoft"), 12, 16)
        parameters = [net.vector(16), net.vector(16)][: 2 if kind == "SkipLayerNormalization" else 1]
        y, _, _, total = net.op(kind, body, stream, *parameters, outputs=4, domain="com.microsoft")
        stream = net.op("BiasGelu", net.op("Add", y, total), net.vector(16), domain="com.microsoft")
    net.output(linear(net, stream, 16, 4))
    return net


@topology
def hard_and_mean_variance() -> Net:
    net, x = start(size=6)
    y = net.op("MeanVarianceNormalization", net.conv(x, 3, 8))
    z = net.op("Hardmax", net.cbr(y, 8, 8), axis=3)
    return finish(net, net.cbr(net.op("Add", z, net.op("MeanVarianceNormalization", y, axes=[1, 2])), 8, 6), 6)


@topology
def hardmax_over_channels() -> Net:
    net, x = start(size=6)
    y = net.op("Mul", net.op("Hardmax", net.conv(x, 3, 8), axis=1), net.conv(x, 3, 8))
    return finish(net, net.cbr(y, 8, 6), 6)


def quantized(net: Net, array: np.ndarray, axis: int | None, kind: type = np.int8) -> str:
    """A stored tensor as integers behind DequantizeLinear: one scale, or one along ``axis``; unsigned ones are lopsided."""
    info = np.iinfo(kind)
    over = None if axis is None else tuple(other for other in range(array.ndim) if other != axis)
    low = np.minimum(array.min(axis=over, keepdims=True), 0)
    high = np.maximum(array.max(axis=over, keepdims=True), 0)
    if info.min < 0:
        scale, zero = np.maximum(-low, high) / info.max, np.zeros_like(low)
    else:
        scale = (high - low) / info.max
        zero = np.round(-low / scale)
    integers = net.const(np.clip(np.round(array / scale) + zero, info.min, info.max).astype(kind))
    parts = [integers, net.const(scale.astype(np.float32).reshape(() if axis is None else -1))]
    parts.append(net.const(zero.astype(kind).reshape(() if axis is None else -1)))
    return str(net.op("DequantizeLinear", *parts, **({} if axis is None else {"axis": axis})))


def requantized(net: Net, x: str, scale: float = 0.05) -> str:
    """An activation through eight bits and back."""
    parts = [net.const(np.float32(scale)), net.const(np.uint8(120))]
    return str(net.op("DequantizeLinear", net.op("QuantizeLinear", x, *parts), *parts))


def quantized_conv(net: Net, x: str, inputs: int, outputs: int, axis: int | None, kind: type = np.int8) -> str:
    weight = net.random.standard_normal((outputs, inputs, 3, 3)) * np.sqrt(0.2 / inputs)
    bias = net.op("DequantizeLinear", net.const(net.random.integers(-900, 900, outputs).astype(np.int32)),
                  net.const((net.random.random(outputs) * 1e-3 + 1e-4).astype(np.float32)), axis=0)  # fmt: skip
    return str(net.op("Conv", x, quantized(net, weight, axis, kind), bias, pads=[1, 1, 1, 1]))


@topology
def quantized_per_channel() -> Net:
    net, x = start(size=6)
    y = requantized(net, net.relu(quantized_conv(net, requantized(net, x), 3, 8, 0)))
    y = requantized(net, net.relu(quantized_conv(net, y, 8, 12, 0)))
    return finish(net, y, 12)


@topology
def quantized_per_input_channel() -> Net:
    net, x = start(size=6)
    y = net.relu(quantized_conv(net, net.relu(quantized_conv(net, x, 3, 8, 1)), 8, 12, 1))
    return finish(net, y, 12)


@topology
def quantized_by_one_lopsided_scale() -> Net:
    """Zero is not stored as zero: a silent weight is a weight at its zero point."""
    net, x = start(size=6)
    y = net.op("Sigmoid", quantized_conv(net, requantized(net, x), 3, 8, None, np.uint8))
    return finish(net, net.relu(quantized_conv(net, requantized(net, y, 0.01), 8, 12, 0, np.uint8)), 12)


@topology
def quantized_linear_layers() -> Net:
    net = Net()
    x = net.input("x", ["n", 6])
    for inputs, outputs in ((6, 16), (16, 12)):
        weight = quantized(net, net.random.standard_normal((outputs, inputs)) * 0.5, 0)
        x = requantized(net, net.relu(net.op("MatMul", x, net.op("Transpose", weight, perm=[1, 0]))))
    net.output(linear(net, x, 12, 4))
    return net


@topology
def activations_with_a_scale_per_channel() -> Net:
    net, x = start(size=6)
    scales = [net.const((net.random.random(8) * 0.05 + 0.01).astype(np.float32)), net.const(np.full(8, 100, np.uint8))]
    y = net.op("QuantizeLinear", net.cbr(x, 3, 8), *scales, axis=1)
    return finish(net, net.cbr(net.op("DequantizeLinear", y, *scales, axis=1), 8, 6), 6)


def measured(net: Net, x: str) -> list[str]:
    return list(net.op("DynamicQuantizeLinear", x, outputs=3))


def integer_conv(net: Net, x: str, inputs: int, outputs: int, zero: int | None = None, group: int = 1) -> str:
    """A convolution as onnxruntime's dynamic quantisation leaves it, its bias in integers too."""
    y, scale, zero_of_y = measured(net, x)
    middle = 128 if zero is None else zero
    weight = net.random.integers(max(0, middle - 100), min(255, middle + 100), (outputs, inputs // group, 3, 3))
    parts = [y, net.const(weight.astype(np.uint8)), zero_of_y]
    parts += [] if zero is None else [net.const(np.uint8(zero))]
    both = net.op("Mul", scale, net.const(np.float32(0.004)))
    bias = net.op("Cast", net.op("Floor", net.op("Div", net.vector(outputs), both)), to=TensorProto.INT32)
    bias = net.op("Reshape", bias, net.ints(1, -1, 1, 1))
    total = net.op("Add", net.op("ConvInteger", *parts, pads=[1, 1, 1, 1], group=group), bias)
    return str(net.op("Mul", net.op("Cast", total, to=TensorProto.FLOAT), both))


@topology
def dynamically_quantized() -> Net:
    net, x = start(size=6)
    y = net.relu(integer_conv(net, net.relu(integer_conv(net, x, 3, 8, 128)), 8, 12, 100))
    y = net.relu(integer_conv(net, y, 12, 12, 128, group=12))
    rows, scale, zero = measured(net, net.op("Flatten", net.op("GlobalMaxPool", y)))
    weight = net.const(net.random.integers(-90, 90, (12, 16)).astype(np.int8))
    hidden = net.op("MatMulInteger", rows, weight, zero, net.const(np.zeros(16, np.int8)))
    hidden = net.op("Mul", net.op("Cast", hidden, to=TensorProto.FLOAT), net.op("Mul", scale, net.const(np.float32(0.01))))
    net.output(linear(net, net.relu(hidden), 16, 4))
    return net


@topology
def dynamically_quantized_without_zero_points() -> Net:
    net, x = start(size=6)
    y = net.relu(integer_conv(net, net.relu(integer_conv(net, x, 3, 8)), 8, 12))
    return finish(net, y, 12)


@topology
def divided_by_channels() -> Net:
    """Zero by zero is no number, so silent channels are gone before the division, in both judges' eyes or only in ours."""
    net, x = start(size=6)
    y = net.relu(net.conv(x, 3, 8))
    total = net.op("ReduceSum", y, net.ints(2, 3), keepdims=1)
    gate = net.op("Log", net.op("Softplus", net.op("Reciprocal", net.op("Exp", net.conv(y, 8, 8)))))
    return finish(net, net.cbr(net.op("Mul", net.op("Div", y, total), gate), 8, 6), 6)


@topology
def statistics_of_a_layer_norm() -> Net:
    net, x = sequence(inputs=6, opset=17)
    y, mean, _ = net.op("LayerNormalization", linear(net, x, 6, 16), net.vector(16), net.vector(16), outputs=3, axis=-1)
    net.output(linear(net, net.op("Add", y, net.op("Tanh", mean)), 16, 4))
    turned = net.op("Transpose", linear(net, x, 6, 10), perm=[2, 0, 1])
    _, _, spread = net.op("LayerNormalization", turned, net.vector(3), outputs=3, axis=-1)
    net.output(linear(net, net.op("Squeeze", net.op("Transpose", spread, perm=[1, 2, 0]), net.ints(1)), 10, 4))
    return net


@topology
def assigned_channels_as_torch_exports_them() -> Net:
    """Positions are cut out of a range over the computed number of channels."""
    net, x = start()
    y, part = net.cbr(x, 3, 8), net.cbr(x, 3, 5)
    every = net.op("Range", net.const(np.int64(0)), size_of(net, y, 1), net.const(np.int64(1)))
    places = net.op("Unsqueeze", net.op("Slice", every, net.ints(1), net.ints(6), net.ints(0)), net.ints(1))
    turned = [net.op("Transpose", value, perm=[1, 0, 2, 3]) for value in (y, part)]
    y = net.op("Transpose", net.op("ScatterND", turned[0], places, turned[1]), perm=[1, 0, 2, 3])
    return finish(net, net.cbr(y, 8, 6), 6)


@topology
def range_measured_over_what_is_left() -> Net:
    """A silent channel would hold the largest number, and the scale would be its."""
    net, x = start(size=6)
    shift = net.const(net.random.uniform(3, 4, (8, 1, 1)).astype(np.float32))
    y = net.op("Exp", net.op("Neg", net.op("Add", net.op("Abs", net.conv(x, 3, 8, bias=False)), shift)))
    y = net.op("Mul", y, net.const(np.float32(30)))
    return finish(net, net.relu(integer_conv(net, y, 8, 12, 128)), 12)


__all__ = ["INT64", "OPERATOR_TOPOLOGIES"]
