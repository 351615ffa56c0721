"""Local functions are put in the place of their calls: behind a call no shape would be known, so nothing could be removed.

onnx_ir's inliner does the copying.  What it leaves to its caller is here: bodies written for another opset, outputs that
are inputs, names that only clash with those of inner graphs, and functions that cannot be inlined and so stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from shrinkc.errors import ModelLoadError
from shrinkc.graphs import inner_graphs

Identifier = tuple[str, str, str]


def inline_functions(model: ir.Model) -> tuple[str, ...]:
    """Put the bodies of local functions in the place of their calls, in place.

    Names, types and metadata of the main graph stay.  A function stays, calls and all, if its body means something else
    at the model's opset or it takes a graph as attribute; functions that nothing calls go.

    Returns
    -------
    tuple of str
        Names of the functions that were inlined, sorted.

    Raises
    ------
    ModelLoadError
        Functions call each other in a circle, or a call has more inputs or outputs than its function.
    """
    if not model.functions:
        return ()
    for node in _called(model):
        _check_call(node, model.functions[node.op_identifier()])
    for function in model.functions.values():
        _prepare(function)
    fixed = _that_stay(model)
    before = set(model.graph.all_nodes())
    names = sorted({_label(node) for node in _called(model) if node.op_identifier() not in fixed})
    try:
        InlinePass(criteria=lambda function: function.identifier() not in fixed)(model)
    except ir.passes.PreconditionError as error:
        raise ModelLoadError("the model's functions call each other in a circle", because=str(error)) from error
    for identifier in model.functions.keys() - fixed:
        del model.functions[identifier]
    _name_apart(model, before)
    return tuple(names)


def _called(model: ir.Model) -> list[ir.Node]:
    """Nodes of the main graph and of functions that call a function."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    return [node for graph in graphs for node in graph.all_nodes() if node.op_identifier() in model.functions]


def _check_call(node: ir.Node, function: ir.Function) -> None:
    for what, given, known in (("inputs", node.inputs, function.inputs), ("outputs", node.outputs, function.outputs)):
        if len(given) > len(known):
            raise ModelLoadError(
                "a call does not fit its function",
                where=node.name or _label(node),
                because=f"{len(given)} {what} where {_label(node)} has {len(known)}",
            )


def _label(node: ir.Node) -> str:
    return "::".join(filter(None, (node.domain, node.op_type)))


def _prepare(function: ir.Function) -> None:
    """Name the nodes, and give every output a node of its own (the inliner would rename a value that is passed through)."""
    for node in function.graph:
        node.name = node.name or f"{function.name}.{node.op_type}"
    taken: set[ir.Value] = set(function.inputs)
    for index, output in enumerate(function.outputs):
        if output in taken:
            through = ir.Node("", "Identity", [output], name=f"{function.name}.Identity")
            through.outputs[0].name = f"{output.name}.through"
            function.graph.append(through)
            function.outputs[index] = through.outputs[0]
        taken.add(output)


def _that_stay(model: ir.Model) -> set[Identifier]:
    """Functions that cannot be inlined, and those they call: their bodies are not written for the model's opset."""
    stay = {node.op_identifier() for node in _called(model) if inner_graphs(node)}
    stay |= {key for key, function in model.functions.items() if not _adopt_opsets(model, function)}
    pending = list(stay)
    while pending:
        inner = {n.op_identifier() for n in model.functions[pending.pop()].graph.all_nodes()} & model.functions.keys()
        pending += inner - stay
        stay |= inner
    return stay & {node.op_identifier() for node in _called(model)}


def _adopt_opsets(model: ir.Model, function: ir.Function) -> bool:
    """Set the function's opsets to the model's, if every node of its body means the same there."""
    for domain, version in function.opset_imports.items():
        model.graph.opset_imports.setdefault(domain, version)
    imports = model.graph.opset_imports
    function.opset_imports.setdefault("", imports.get("", 1))  # of an Identity that was added
    nodes = [node for node in function.graph.all_nodes() if node.op_identifier() not in model.functions]
    if not all(_means_the_same(node, function.opset_imports.get(node.domain), imports.get(node.domain)) for node in nodes):
        return False
    for domain in function.opset_imports:
        function.opset_imports[domain] = imports[domain]
    return True


def _means_the_same(node: ir.Node, here: int | None, there: int | None) -> bool:
    if here == there:
        return True
    domain = "" if node.domain == "ai.onnx" else node.domain
    if here is None or there is None or not onnx.defs.has(node.op_type, domain):
        return False
    try:
        versions = {onnx.defs.get_schema(node.op_type, version, domain).since_version for version in (here, there)}
    except onnx.defs.SchemaError:
        return False
    return len(versions) == 1


def _name_apart(model: ir.Model, before: set[ir.Node]) -> None:
    """Give values of inlined nodes another name where theirs is empty or that of a value elsewhere in the model."""
    outputs = set(model.graph.outputs)
    values = list(_named(model.graph, before))
    count = Counter(value.name for value, _ in values)
    for value, is_new in values:
        unused = not value.name and not value.uses()
        if not is_new or value in outputs or unused or (value.name and count[value.name] == 1):
            continue
        count[value.name] -= 1
        value.name = _fresh(value.name or "value", count)
        count[value.name] += 1


def _named(graph: ir.Graph, before: set[ir.Node], is_new: bool = False) -> Iterator[tuple[ir.Value, bool]]:
    """Values of a graph and those inside it, each with whether it came in with a function."""
    for value in (*graph.inputs, *(v for v in graph.initializers.values() if not v.is_graph_input())):
        yield value, is_new
    for node in graph:
        came_in = node not in before
        for value in node.outputs:
            yield value, came_in
        for inner in inner_graphs(node):
            yield from _named(inner, before, came_in)


def _fresh(stem: str, taken: Counter[str | None]) -> str:
    number = 2
    while taken[f"{stem}_{number}"]:
        number += 1
    return f"{stem}_{number}"
