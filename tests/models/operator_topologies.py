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


__all__ = ["INT64", "OPERATOR_TOPOLOGIES"]
