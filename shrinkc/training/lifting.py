"""Weights that an exporter put into Constant nodes, as Paddle's does: they become initializers, so that they can be trained.

Parts of normalisations that share a tensor through an Identity, as torch's older exporter leaves tensors that happen to be
equal, get one each: trained, they differ.
"""

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
            lifted.append(_lifted(node, node.attributes["value"].as_tensor(), model.graph))
        elif (shared := _shared(node)) is not None:
            lifted.append(_lifted(node, shared, model.graph))
    return tuple(lifted)


def _shared(node: ir.Node) -> ir.TensorProtocol | None:
    """The stored tensor that a normalisation reads through an Identity."""
    if node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
        return None
    source, value = node.inputs[0], node.outputs[0]
    if source is None or source.const_value is None or not source.is_initializer() or value.is_graph_output():
        return None
    parts = LEARNED["BatchNormalization"] | STATISTICS["BatchNormalization"]
    uses = [(use.node.op_type, use.idx) for use in value.uses()]
    return source.const_value if uses and all(name == "BatchNormalization" and at in parts for name, at in uses) else None


def _holds_a_weight(node: ir.Node) -> bool:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or "value" not in node.attributes:
        return False
    tensor, value = node.attributes["value"].as_tensor(), node.outputs[0]
    if value.is_graph_output() or not tensor.dtype.is_floating_point():
        return False
    uses = ((use.node.op_type, use.idx) for use in value.uses())
    return any(index in LEARNED.get(name, ()) or index in STATISTICS.get(name, ()) for name, index in uses)


def _lifted(node: ir.Node, tensor: ir.TensorProtocol, graph: ir.Graph) -> str:
    name = node.outputs[0].name or ""
    stored = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)  # type: ignore[arg-type]
    node.outputs[0].replace_all_uses_with(stored)
    graph.remove(node, safe=True)
    graph.register_initializer(stored)
    return name
