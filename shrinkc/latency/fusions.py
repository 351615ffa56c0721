"""Which nodes of a model a runtime's kernels carry out: fused kernels are named after one of the nodes or values they replace.

onnxruntime names a fused kernel after the value it ends in (``/layer1/Relu_output_0_nchwc``), and lets it take over further
nodes without renaming it; what no kernel is named after belongs to the kernel it is computed from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_ir as ir

from shrinkc.api import LayerTime
from shrinkc.shapes import Shadow

DECORATION = re.compile(r"^fused |_nchwc$|_nhwc$|_token_\d+$|_kernel_time$|/WithoutBiases$|/fused_.*$|_transformed$")
"""What runtimes put around the name of a node or value."""

OP_DECORATION = re.compile(r"^Fused|^Nhwc|^NCHWc|^QLinear")

MOST_FUSED = 12
"""Nodes a walk back from the end of a kernel may pass."""


def sources_of(model: ir.Model, shadow: Shadow, kernels: Sequence[LayerTime]) -> list[tuple[ir.Node, ...]]:
    """Nodes that each kernel carries out, in the order of the graph; none for kernels that only convert layouts.

    Parameters
    ----------
    model : ir.Model
        As the runtime was given it.
    shadow : Shadow
    kernels : sequence of LayerTime
    """
    nodes = [node for node in model.graph if not all(shadow[value].is_static for value in node.outputs)]
    names = {value.name: node for node in nodes for value in node.outputs} | {node.name: node for node in nodes if node.name}
    owner: dict[ir.Node, int] = {}
    for number, kernel in enumerate(kernels):
        for end in _ends(kernel, names):
            owner.setdefault(end, number)
    for number, kernel in enumerate(kernels):
        for end in _ends(kernel, names):
            if owner[end] == number:
                for node in _way_back(end, kernel.op_type, owner):
                    owner.setdefault(node, number)
    _adopt(nodes, owner)
    return [tuple(node for node in nodes if owner.get(node) == number) for number in range(len(kernels))]


def _ends(kernel: LayerTime, names: dict[str | None, ir.Node]) -> list[ir.Node]:
    given = kernel.sources or (kernel.name,)
    return [names[name] for name in (plain_name(text, names) for text in given) if name in names]


def plain_name(name: str, known: dict[str | None, ir.Node]) -> str:
    """The name without what a runtime put around it, as soon as it is known."""
    while name not in known:
        shorter = DECORATION.sub("", name)
        if shorter == name:
            return name
        name = shorter
    return name


def _way_back(end: ir.Node, op_type: str, owner: dict[ir.Node, int]) -> list[ir.Node]:
    """Nodes from the end of a kernel back to the one it is named for by type; none if that is the end itself."""
    wanted, node = OP_DECORATION.sub("", op_type), end
    passed: list[ir.Node] = []
    while node.op_type != wanted and len(passed) < MOST_FUSED:
        producers = [value.producer() for value in node.inputs if value is not None]
        before = next((made for made in producers if made is not None and made.op_type != "Constant"), None)
        if before is None or before in owner:
            return []
        passed.append(before)
        node = before
    return passed if node.op_type == wanted else []


def _adopt(nodes: Sequence[ir.Node], owner: dict[ir.Node, int]) -> None:
    """Give nodes that no kernel is named after to the kernel of the latest of their inputs, else to their reader's."""
    order = {node: number for number, node in enumerate(nodes)}
    for node in nodes:
        made = [value.producer() for value in node.inputs if value is not None]
        known = [producer for producer in made if producer in owner]
        if node not in owner and known:
            owner[node] = owner[max(known, key=lambda producer: order.get(producer, -1))]
    for node in reversed(nodes):
        readers = [usage.node for value in node.outputs for usage in value.uses() if usage.node in owner]
        if node not in owner and readers:
            owner[node] = owner[readers[0]]
