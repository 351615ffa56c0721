"""Branches, loops and scans beside and around layers: what they touch stays, what they do not is removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.builder import Net
from models.topologies import finish, start, topology

FLAG = TensorProto.BOOL


def untyped(name: str, elem: int = TensorProto.FLOAT, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, shape)


def branch(name: str, nodes: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [untyped(nodes[-1].output[0])])


def beside(net: Net, x: str, y: str, channels: int) -> Net:
    """Join what control flow made with a path of its own that can be pruned."""
    free = net.cbr(net.cbr(x, 3, 8), 8, 6)
    return finish(net, net.op("Concat", net.conv(y, channels, 6), free, axis=1), 12)


def flagged(net: Net) -> str:
    return net.op("Greater", net.op("ReduceMax", "x", keepdims=0), net.const(np.float32(0.5)))


@topology
def branch_with_a_layer_inside() -> Net:
    """Both branches read a captured value; one convolves it with a weight of the outer graph."""
    net, x = start()
    stem, weight = net.cbr(x, 3, 8), net.weight(8, 8, 3, 3)
    then = branch("then", [helper.make_node("Conv", [stem, weight], ["wide"], pads=[1, 1, 1, 1])])
    other = branch("other", [helper.make_node("Tanh", [stem], ["same"])])
    y = net.op("If", flagged(net), then_branch=then, else_branch=other)
    return beside(net, x, y, 8)


@topology
def weight_inside_and_outside_of_a_branch() -> Net:
    """One tensor is read by a layer of the main graph and by one inside a branch: it must not change under the latter."""
    net, x = start()
    weight, bias = net.weight(8, 8, 3, 3, name="both"), net.vector(8, name="both_bias")
    y = net.cbr(x, 3, 8)
    outside = net.relu(net.op("Conv", y, weight, bias, pads=[1, 1, 1, 1]))
    seen = net.cbr(x, 3, 8)
    then = branch("then", [helper.make_node("Conv", [seen, weight, bias], ["inner"], pads=[1, 1, 1, 1])])
    other = branch("other", [helper.make_node("Relu", [seen], ["plain"])])
    chosen = net.op("If", flagged(net), then_branch=then, else_branch=other)
    joined = net.op("Concat", net.conv(outside, 8, 6), net.conv(chosen, 8, 6), axis=1)
    return finish(net, joined, 12)


@topology
def branch_within_a_branch() -> Net:
    net, x = start()
    deep = net.cbr(x, 3, 8)
    flag = flagged(net)
    inner = helper.make_node(
        "If", [flag], ["chosen"], then_branch=branch("a", [helper.make_node("Neg", [deep], ["negative"])]),
        else_branch=branch("b", [helper.make_node("Abs", [deep], ["positive"])]),
    )  # fmt: skip
    other = branch("other", [helper.make_node("Exp", [deep], ["grown"])])
    return beside(net, x, net.op("If", flag, then_branch=branch("then", [inner]), else_branch=other), 8)


@topology
def branch_whose_result_is_the_only_user() -> Net:
    """The branches make an output directly, so their captured channels are outputs too."""
    net, x = start()
    y = net.cbr(x, 3, 8)
    then = branch("then", [helper.make_node("Identity", [y], ["kept"])])
    other = branch("other", [helper.make_node("Neg", [y], ["turned"])])
    net.output(net.op("If", flagged(net), then_branch=then, else_branch=other))
    return finish(net, net.cbr(net.cbr(x, 3, 8), 8, 6), 6)


@topology
def loop_over_a_captured_value() -> Net:
    net, x = start()
    seen, state = net.cbr(x, 3, 8), net.cbr(x, 3, 8)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["carried", seen], ["added"]),
            helper.make_node("Tanh", ["added"], ["next"]),
        ],
        "body",
        [untyped("step", TensorProto.INT64, []), untyped("go", FLAG, []), untyped("carried")],
        [untyped("go_on", FLAG, []), untyped("next")],
    )
    y = net.op("Loop", net.const(np.int64(3)), net.const(np.asarray(True)), state, body=body)
    return beside(net, x, y, 8)


@topology
def scan_over_rows() -> Net:
    net, x = start()
    rows, weight = net.cbr(x, 3, 8), net.vector(8, name="scanned_scale")
    scale = net.op("Reshape", weight, net.ints(8, 1))
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "row"], ["total"]), helper.make_node("Mul", ["total", scale], ["scaled"])],
        "body",
        [untyped("sum", shape=[1, 8, 12]), untyped("row", shape=[1, 8, 12])],
        [untyped("total", shape=[1, 8, 12]), untyped("scaled", shape=[1, 8, 12])],
    )
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 1
    start_sum = net.const(np.zeros((1, 8, 12), np.float32))
    _, y = net.op("Scan", start_sum, rows, outputs=2, body=body, num_scan_inputs=1, scan_input_axes=[2], scan_output_axes=[2])
    return beside(net, x, y, 8)
