"""Operators that are defined by other operators, by ONNX itself or by the model: their bodies are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from torch import Tensor

from shrinkc.training.lookup import domain_of
from shrinkc.training.ops.call import Builder, Call, Function
from shrinkc.training.ops.tensors import DTYPES
from shrinkc.training.program import Program

Compile = Callable[[ir.Graph, Mapping[str, int], Mapping[ir.Value, Tensor]], Program]

ONNX_TYPES = {torch_type: int(onnx_type) for onnx_type, torch_type in DTYPES.items()}


def schema_of(node: ir.Node, version: int) -> Any:
    """ONNX's own definition of an operator at an opset version, if it has one."""
    try:
        return onnx.defs.get_schema(node.op_type, version, domain_of(node))
    except onnx.defs.SchemaError:
        return None


def has_body(node: ir.Node, version: int) -> bool:
    """Whether ONNX defines an operator by others."""
    schema = schema_of(node, version)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def expanded(node: ir.Node, version: int, compile_body: Compile) -> Builder | None:
    """Builder that runs an operator's body; None if it has none."""
    schema = schema_of(node, version)
    if schema is None or not has_body(node, version):
        return None
    if schema.has_function:
        return lambda call: _bound(_body(schema, call, version, ()), call, compile_body)
    return lambda call: _bound_later(schema, call, version, compile_body)


def of_function(function: ir.Function, compile_body: Compile) -> Builder:
    """Builder that runs the body of a model's own function, at the function's own opset."""

    def build(call: Call) -> Function:
        body = ir.serde.deserialize_function(ir.serde.serialize_function(function))
        for node in body.graph.all_nodes():
            _set_attributes(node, call, {name: attribute for name, attribute in function.attributes.items() if attribute.value})
        return _bound(body, call, compile_body)

    return build


def _bound_later(schema: Any, call: Call, version: int, compile_body: Compile) -> Function:
    """The body depends on the types of the inputs: it is made when they are seen."""
    made: dict[tuple[Any, ...], Function] = {}

    def run(*inputs: Tensor | None) -> Any:
        types = tuple(None if tensor is None else tensor.dtype for tensor in inputs)
        if types not in made:
            made[types] = _bound(_body(schema, call, version, types), call, compile_body)
        return made[types](*inputs)

    return run


def _body(schema: Any, call: Call, version: int, types: tuple[Any, ...]) -> ir.Function:
    if schema.has_function:
        held = [since for since in schema.function_opset_versions if since <= version]
        data = schema.get_function_with_opset_version(max(held or schema.function_opset_versions[:1]))
    else:
        held = [since for since in schema.context_dependent_function_opset_versions if since <= version]
        node = ir.to_proto(call.node).SerializeToString()
        since = max(held or schema.context_dependent_function_opset_versions[:1])
        data = schema.get_context_dependent_function_with_opset_version(since, node, [_type(item) for item in types])
    proto = onnx.FunctionProto()
    proto.ParseFromString(data)
    _drop_unmade(proto)
    function = ir.serde.deserialize_function(proto)
    for node in function.graph.all_nodes():
        _set_attributes(node, call, _defaults(schema))
    return function


def _defaults(schema: Any) -> dict[str, ir.Attr]:
    declared = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    return {name: ir.serde.deserialize_attribute(value) for name, value in declared.items() if value.name}


def _drop_unmade(proto: onnx.FunctionProto) -> None:
    """Some bodies declare optional outputs that they do not make: an absent input stands in for them."""
    made = {name for node in proto.node for name in node.output} | set(proto.input)
    absent = sorted({name for name in proto.output if name not in made})
    proto.input.extend(absent)


def _type(dtype: Any) -> bytes:
    proto = onnx.TypeProto() if dtype is None else onnx.helper.make_tensor_type_proto(ONNX_TYPES[dtype], None)
    data: bytes = proto.SerializeToString()
    return data


def _set_attributes(node: ir.Node, call: Call, defaults: Mapping[str, ir.Attr]) -> None:
    """Put the call's attributes in the place of references to them, or the defaults."""
    for name, attribute in list(node.attributes.items()):
        if not attribute.is_ref():
            continue
        reference = str(attribute.ref_attr_name)
        given = call.node.attributes.get(reference) or defaults.get(reference)
        del node.attributes[name]
        if given is not None:
            node.attributes[name] = ir.Attr(name, given.type, given.value)


def _bound(function: ir.Function, call: Call, compile_body: Compile) -> Function:
    graph = function.graph
    known = {value: call.constant(i) for i, value in enumerate(graph.inputs) if call.constant(i) is not None}
    opsets = dict(function.opset_imports)
    program = compile_body(graph, opsets, {value: tensor for value, tensor in known.items() if tensor is not None})
    n_inputs = len(graph.inputs)

    def run(*inputs: Any) -> Any:
        results = program.called([*inputs, *[None] * (n_inputs - len(inputs))])
        return results[0] if len(results) == 1 else tuple(results)

    return run
