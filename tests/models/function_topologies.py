"""Local functions in every form the format allows: their bodies are analysed as if they stood in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.builder import Net
from models.topologies import finish, start, topology

DOMAIN = "acme.nn"


def define(
    net: Net, name: str, inputs: Sequence[str], outputs: Sequence[str], body: Sequence[onnx.NodeProto], *,
    opset: int | None = None, domain: str = DOMAIN, **options: object,
) -> None:  # fmt: skip
    opsets = [helper.make_opsetid("", opset or net.opset), helper.make_opsetid(DOMAIN, 1), helper.make_opsetid("acme.more", 1)]
    net.functions.append(helper.make_function(domain, name, inputs, outputs, body, opsets, **options))
    net.domains.update({DOMAIN: 1, "acme.more": 1})


def referring(node: onnx.NodeProto, attribute: str, parameter: str, kind: int) -> onnx.NodeProto:
    """A node whose attribute is a parameter of the function around it."""
    node.attribute.append(onnx.AttributeProto(name=attribute, ref_attr_name=parameter, type=kind))
    return node


@topology
def function_with_parameters() -> Net:
    """Weights come as inputs, padding and slope as attributes, one of them with a default."""
    net, x = start()
    body = [
        referring(helper.make_node("Conv", ["a", "w", "b"], ["c"]), "pads", "padding", onnx.AttributeProto.INTS),
        referring(helper.make_node("LeakyRelu", ["c"], ["d"]), "alpha", "slope", onnx.AttributeProto.FLOAT),
    ]
    define(
        net,
        "Block",
        ["a", "w", "b"],
        ["d"],
        body,
        attributes=["padding"],
        attribute_protos=[helper.make_attribute("slope", 0.1)],
    )
    y = net.op("Block", x, net.weight(8, 3, 3, 3), net.vector(8), domain=DOMAIN, padding=[1, 1, 1, 1])
    y = net.op("Block", y, net.weight(8, 8, 3, 3), net.vector(8), domain=DOMAIN, padding=[0, 0, 0, 0], slope=0.5)
    y = net.op("Block", y, net.weight(6, 8, 3, 3), "", domain=DOMAIN)  # without a bias
    return finish(net, y, 6)


@topology
def function_within_a_function() -> Net:
    net, x = start()
    define(net, "Act", ["a"], ["b"], [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])])
    call = helper.make_node("Act", ["c"], ["d"], domain=DOMAIN)
    body = [helper.make_node("Conv", ["a", "w"], ["c"]), call]
    define(net, "Block", ["a", "w"], ["d"], body, domain="acme.more")
    y = net.op("Block", x, net.weight(8, 3, 1, 1), domain="acme.more")
    y = net.op("Block", net.op("Act", y, domain=DOMAIN), net.weight(6, 8, 3, 3), domain="acme.more")
    return finish(net, y, 6)


@topology
def function_overloads() -> Net:
    net, x = start(ir_version=10)
    for overload, kind in (("", "Relu"), ("soft", "Softplus")):
        define(net, "Act", ["a"], ["b"], [helper.make_node(kind, ["a"], ["b"])], overload=overload)
    y = net.op("Act", net.conv(x, 3, 8), domain=DOMAIN)
    y = net.op("Act", net.conv(y, 8, 8), domain=DOMAIN, overload="soft")
    return finish(net, y, 8)


@topology
def function_of_an_older_opset() -> Net:
    """Relu means the same in both opsets, so the body can move."""
    net, x = start()
    define(net, "Act", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opset=14)
    return finish(net, net.cbr(net.op("Act", net.conv(x, 3, 8), domain=DOMAIN), 8, 6), 6)


@topology
def function_that_stays() -> Net:
    """Softmax means something else at opset 11: the call stays and freezes what it touches, the rest is pruned."""
    net, x = start()
    define(net, "Gate", ["a"], ["b"], [helper.make_node("Softmax", ["a"], ["b"], axis=1)], opset=11)
    y = net.cbr(net.cbr(x, 3, 8), 8, 4)
    net.output(net.op("Gate", y, domain=DOMAIN))
    return finish(net, net.cbr(y, 4, 6), 6)


@topology
def function_that_passes_through() -> Net:
    net, x = start()
    body = [helper.make_node("Conv", ["a", "w"], ["b"])]
    define(net, "Both", ["a", "w"], ["a", "b"], body)
    stem = net.cbr(x, 3, 8)
    same, made = net.op("Both", stem, net.weight(8, 8, 1, 1), domain=DOMAIN, outputs=2)
    return finish(net, net.op("Sum", stem, same, made), 8)


@topology
def function_with_an_output_nobody_takes() -> Net:
    net, x = start()
    body = [helper.make_node("Conv", ["a", "w"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    define(net, "Two", ["a", "w"], ["b", "c"], body)
    node = helper.make_node("Two", [net.cbr(x, 3, 8), net.weight(6, 8, 3, 3)], ["", "taken"], name="two", domain=DOMAIN)
    net.nodes.append(node)
    return finish(net, "taken", 6)


@topology
def function_whose_names_clash() -> Net:
    """The body calls its values what the graph and its branches call others, and holds a branch of its own."""
    net, x = start()
    stem = net.cbr(x, 3, 8)
    empty = [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)]
    then = helper.make_graph([helper.make_node("Relu", ["a"], ["chosen"])], "then", [], empty)
    other = helper.make_graph([helper.make_node("Neg", ["a"], ["chosen"])], "other", [], empty)
    hidden = net.nodes[0].output[0]
    body = [
        helper.make_node("Tanh", ["a"], [hidden]),
        helper.make_node("Constant", [], ["flag"], value=numpy_helper.from_array(np.asarray(True))),
        helper.make_node("If", ["flag"], ["b"], then_branch=then, else_branch=other),
        helper.make_node("Add", [hidden, "b"], ["out"]),
    ]
    define(net, "Clash", ["a"], ["out"], body)
    frozen = net.op("Clash", net.op("Clash", stem, domain=DOMAIN), domain=DOMAIN)
    same = [helper.make_node("Neg", [frozen], ["b"]), helper.make_node("Abs", ["b"], ["chosen"])]
    late = helper.make_graph(same, "late", [], empty)
    frozen = net.op("If", net.const(np.asarray(True)), then_branch=late, else_branch=late)
    return finish(net, net.op("Concat", net.cbr(frozen, 8, 6), net.cbr(net.cbr(x, 3, 8), 8, 6), axis=1), 12)


@topology
def function_with_weights_inside() -> Net:
    net, x = start()
    stored = net.initializers
    kernel = net.weight(8, 8, 3, 3)
    body = [
        helper.make_node("Constant", [], ["kernel"], value=stored.pop(), name="kernel"),
        helper.make_node("Conv", ["a", "kernel"], ["b"], pads=[1, 1, 1, 1]),
    ]
    assert kernel
    define(net, "Layer", ["a"], ["b"], body)
    y = net.cbr(x, 3, 8)
    for _ in range(2):
        y = net.relu(net.op("Layer", y, domain=DOMAIN))
    return finish(net, y, 8)
