"""Weights that an exporter put into Constant nodes, as Paddle's does: they become initializers, so that they can be trained."""

from __future__ import annotations

import onnx_ir as ir

from shrinkc.training.roles import LEARNED, STATISTICS


def lift_weights(model: ir.Model) -> tuple[str, ...]:
    """Turn Constant nodes into initializers, in place, where a layer reads them as weight, bias or statistics.

    What else is constant, masks or positions say, stays: it was not learned.

    Returns
    -------
    tuple of str
        Names of the new initializers, which are those of the nodes' outputs.
    """
    lifted = []
    for node in list(model.graph):
        if _holds_a_weight(node):
            lifted.append(_lifted(node, model.graph))
    return tuple(lifted)


def _holds_a_weight(node: ir.Node) -> bool:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or "value" not in node.attributes:
        return False
    tensor, value = node.attributes["value"].as_tensor(), node.outputs[0]
    if value.is_graph_output() or not tensor.dtype.is_floating_point():
        return False
    uses = ((use.node.op_type, use.idx) for use in value.uses())
    return any(index in LEARNED.get(name, ()) or index in STATISTICS.get(name, ()) for name, index in uses)


def _lifted(node: ir.Node, graph: ir.Graph) -> str:
    tensor, name = node.attributes["value"].as_tensor(), node.outputs[0].name or ""
    stored = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)  # type: ignore[arg-type]
    node.outputs[0].replace_all_uses_with(stored)
    graph.remove(node, safe=True)
    graph.register_initializer(stored)
    return name
