"""Walking graphs within graphs: in the IR, in the file's own form, and both side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    import onnx


def inner_graphs(node: ir.Node) -> list[ir.Graph]:
    """Graphs that a node holds as attributes (the branches of an If, the body of a Loop)."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def inner_protos(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The same for a node in the file's form."""
    return [graph for attribute in node.attribute for graph in ([attribute.g] if attribute.HasField("g") else attribute.graphs)]


def proto_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and every graph inside it."""
    yield graph
    for node in graph.node:
        for inner in inner_protos(node):
            yield from proto_graphs(inner)


def graph_pairs(graph: ir.Graph, proto: onnx.GraphProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """A graph beside its proto, and so on for the graphs inside it."""
    yield graph, proto
    for node, node_proto in zip(graph, proto.node, strict=True):
        for pair in zip(inner_graphs(node), inner_protos(node_proto), strict=True):
            yield from graph_pairs(*pair)


def all_graphs(model: ir.Model) -> list[ir.Graph]:
    """The main graph, those inside it, and the bodies of local functions with those inside them."""
    roots = [model.graph, *(function.graph for function in model.functions.values())]
    return [graph for root in roots for graph in (root, *root.subgraphs())]


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor of a model: initializers and attributes, wherever they lie."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                yield from attribute_tensors(attribute)


def attribute_tensors(attribute: ir.Attr) -> list[ir.TensorProtocol]:
    """Tensors that an attribute holds."""
    if attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.TENSOR:
        return [attribute.as_tensor()]
    return list(attribute.as_tensors()) if attribute.type == ir.AttributeType.TENSORS else []
