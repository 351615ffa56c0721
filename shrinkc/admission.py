"""What a model file must be to be let in: complete, consistent, inside its folder, and nothing the IR would lose."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from shrinkc.errors import ModelLoadError, UnsupportedGraphError
from shrinkc.graphs import proto_graphs, tensors

if TYPE_CHECKING:
    import onnx


def check_proto(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse what the IR would silently lose or invent.

    Raises
    ------
    ModelLoadError
        There is no graph, or a tensor's data does not fill its shape.
    UnsupportedGraphError
        There are sparse initializers or training information.
    """
    if not proto.ir_version or not (proto.graph.node or proto.graph.output):
        raise ModelLoadError(
            "not an ONNX model", where=str(path), because="it has no graph", hint="encrypted and renamed files look like this"
        )
    for graph in proto_graphs(proto.graph):
        constants = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
        for tensor in (*graph.initializer, *constants):
            _check_stored(tensor, path)
    _check_sparse(proto)
    if proto.training_info:
        raise UnsupportedGraphError(
            "the model carries training information",
            where=str(path),
            because="it would be lost on the way through",
            hint="save the model without training_info",
        )


def _check_sparse(proto: onnx.ModelProto) -> None:
    names = [tensor.values.name for graph in proto_graphs(proto.graph) for tensor in graph.sparse_initializer]
    if names:
        raise UnsupportedGraphError(
            "the model has sparse initializers",
            where=", ".join(names[:3]),
            because="they would be lost on the way through",
            hint="convert them to dense tensors first",
        )


def _check_stored(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a tensor whose stored bytes do not fill its shape."""
    import onnx

    where = f"{path}: {tensor.name}"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelLoadError("a tensor has a negative size", where=where)
    elements = math.prod(tensor.dims)
    external = {entry.key: entry.value for entry in tensor.external_data}
    is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if tensor.data_type == onnx.TensorProto.STRING or not (tensor.HasField("raw_data") or "length" in external):
        typed = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
        if elements and not is_external and not any(len(getattr(tensor, name)) for name in typed):
            raise ModelLoadError("a tensor holds no data", where=where)
        return
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
        stored = int(external["length"]) if is_external else len(tensor.raw_data)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelLoadError("a tensor is malformed", where=where, because=str(error)) from error
    if stored != -(-elements * bits // 8):
        raise ModelLoadError(
            "a tensor's data does not fill its shape", where=where, because=f"{stored} bytes for {list(tensor.dims)}"
        )


def check_external_data(model: ir.Model, folder: Path) -> None:
    """Refuse external data that leaves the model's folder, is missing, or is shorter than declared.

    Raises
    ------
    UnsupportedGraphError
        A location is absolute, climbs with ``..`` or passes through a symbolic link out of ``folder``.
    ModelLoadError
        The data file is missing or truncated.
    """
    root = folder.resolve()
    for tensor in tensors(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        if "\0" in os.fspath(tensor.location):
            raise ModelLoadError("external data has an impossible location", where=tensor.name or "")
        location = Path(os.fspath(tensor.location))
        resolved = (root / location).resolve()
        if location.is_absolute() or ".." in location.parts or not resolved.is_relative_to(root):
            raise UnsupportedGraphError(
                "external data outside the model's folder is refused", where=f"{tensor.name}: {location}"
            )
        if not resolved.is_file():
            raise ModelLoadError("external data is missing", where=f"{tensor.name}: {location}")
        if resolved.stat().st_size < (tensor.offset or 0) + tensor.nbytes:
            raise ModelLoadError("external data is truncated", where=f"{tensor.name}: {location}")


def check_structure(model: ir.Model, path: Path) -> None:
    """Refuse graphs that name values nothing produces, and nodes that do not fit their operator.

    Raises
    ------
    ModelLoadError
        There is no output, a graph output or a node's input has no source, or a node has too many or too few inputs or outputs.
    """
    if not model.graph.outputs:
        raise ModelLoadError("the model has no output", where=str(path), because="then nothing it computes matters")
    for output in model.graph.outputs:
        if output.producer() is None and not output.is_graph_input() and not output.is_initializer():
            raise ModelLoadError("nothing produces a graph output", where=f"{path}: {output.name}", because=NO_SOURCE)
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.graph is None and value.producer() is None:
                raise ModelLoadError(
                    "a node reads a value that nothing produces",
                    where=f"{node.name or node.op_type}: {value.name}",
                    because=NO_SOURCE,
                    hint="the file may be truncated or hand-edited; run onnx.checker on it",
                )
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            if node.op_identifier() not in model.functions:
                _check_arity(node, graph.opset_imports, path)


NO_SOURCE = "no node, input or initializer has that name"


def _check_arity(node: ir.Node, opsets: Mapping[str, int], path: Path) -> None:
    """Refuse what onnx's shape inference, which is native code, would read past the end of."""
    because = _misfit(node, opsets)
    if because:
        raise ModelLoadError("a node does not fit its operator", where=f"{path}: {node.name or node.op_type}", because=because)


def _misfit(node: ir.Node, opsets: Mapping[str, int]) -> str:
    from onnx import defs

    domain = "" if node.domain == "ai.onnx" else node.domain
    version = opsets.get(node.domain, opsets.get("", 1))
    try:
        schema = defs.get_schema(node.op_type, version, domain)
    except (defs.SchemaError, TypeError):  # unknown, or a version beyond any integer
        return ""
    parts = node.attributes.get("num_outputs")
    if node.op_type == "Split" and parts is not None and parts.value != len(node.outputs):
        return f"num_outputs is {parts.value}, it has {len(node.outputs)}"
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        return f"{node.op_type} takes {schema.min_input} to {schema.max_input} inputs, it has {len(node.inputs)}"
    single = defs.OpSchema.FormalParameterOption.Single
    for formal, value in zip(schema.inputs, node.inputs, strict=False):
        if value is None and formal.option == single:
            return f"its input {formal.name} is missing"
    if len(node.outputs) > schema.max_output:
        return f"{node.op_type} makes {schema.max_output} outputs, it has {len(node.outputs)}"
    return ""
