"""A model in bfloat16: weights and arithmetic, with float32 islands where ONNX defines an operator for no such type.

What the converted model computes is told by a second one, in which every bfloat16 value is a float32 rounded to it.  That runs
wherever casts do, while kernels for bfloat16 are rare.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from shrinkc import ir as shrinkc_ir
from shrinkc.canonicalize import drop_unused
from shrinkc.errors import BuildError
from shrinkc.graphs import inner_graphs
from shrinkc.inlining import inline_functions

HALF, FULL = ir.DataType.BFLOAT16, ir.DataType.FLOAT

OPSET, IR_VERSION = 22, 10
"""Convolution and pooling know bfloat16 since this opset; files that use it are of this version of the format."""

NEVER = frozenset({"Cast", "CastLike", "Constant", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear", "RandomNormal"})
"""Operators whose type is a matter of their attributes, or of scales."""

MOVES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that compute nothing: they keep the type of what they move, so that nothing between two islands is rounded."""


@dataclass(frozen=True)
class Converted:
    """What became of a model's nodes.

    Attributes
    ----------
    model : ir.Model
    halved : int
        Nodes that compute in bfloat16.
    islands : tuple of str
        Operators that stay in float32 though they compute with floats, each once.
    results : frozenset of str
        Names of what nodes give in bfloat16; the model says no types where it knows no shapes.
    """

    model: ir.Model
    halved: int
    islands: tuple[str, ...]
    results: frozenset[str]


@dataclass
class _Halving:
    """A graph on its way: which values become bfloat16, and copies of values in the other type."""

    graph: ir.Graph
    values: set[ir.Value] = field(default_factory=set)
    copies: dict[ir.Value, ir.Value] = field(default_factory=dict)


def converted(path: Path) -> Converted:
    """A model in bfloat16, inputs and outputs as they were.

    Raises
    ------
    BuildError
        No operator of the model is defined for bfloat16.
    """
    model = _typed(shrinkc_ir.load(path))
    opset, work = model.opset_imports.get("", 0), _Halving(model.graph)
    chosen: dict[ir.Node, list[int]] = {}
    islands: dict[str, None] = {}
    for node in model.graph:
        inputs = _halved_inputs(node, opset, work.values)
        if inputs:
            chosen[node] = inputs
            work.values.update(value for value in node.outputs if value.dtype == FULL)
        elif _computes(node):
            islands[node.op_type] = None
    if not any(node.op_type not in MOVES for node in chosen):
        raise BuildError("nothing in this model can be computed in bfloat16", where=str(path), because=f"opset {opset}")
    _widen(work, chosen)
    _halve(work, chosen)
    drop_unused(model)
    model.graph.sort()
    results = frozenset(value.name or "" for node in model.graph for value in node.outputs if value.dtype == HALF)
    _forget_shapeless(model.graph)
    return Converted(model, len(chosen), tuple(islands), results)


def _forget_shapeless(graph: ir.Graph) -> None:
    """Say no types of values whose shape nobody knows: a type without a shape is not valid in a file."""
    for node in graph:
        for value in node.outputs:
            if value.shape is None and not value.is_graph_output():
                value.type = None


def _typed(model: ir.Model) -> ir.Model:
    """The model without functions, at an opset that knows bfloat16 if it can be raised, with the type of every value."""
    from onnxscript import version_converter

    logging.getLogger("onnxscript.version_converter").setLevel(logging.ERROR)
    inline_functions(model)
    if model.opset_imports.get("", 0) < OPSET:
        raised = model.clone()
        try:
            version_converter.convert_version(raised, OPSET, fallback=True)
            model = raised
        except Exception:  # the converter raises whatever an operator without a conversion gives; then islands are larger
            logging.getLogger(__name__).info("the opset cannot be raised")
    model.ir_version = max(model.ir_version, IR_VERSION)
    return ShapeInferencePass(data_prop=False)(model).model


def _halved_inputs(node: ir.Node, opset: int, halved: set[ir.Value]) -> list[int]:
    """Which inputs of a node become bfloat16; none where the node stays as it is."""
    import onnx

    if node.domain not in ("", "ai.onnx") or node.op_type in NEVER or inner_graphs(node):
        return []
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return []
    allowed = {one.type_param_str for one in schema.type_constraints if "tensor(bfloat16)" in one.allowed_type_strs}
    floats = {index: value for index, value in enumerate(node.inputs) if value is not None and value.dtype == FULL}
    types = {index: schema.inputs[min(index, len(schema.inputs) - 1)].type_str for index in floats}
    inputs = [index for index in floats if types[index] in allowed]
    given = {schema.outputs[min(i, len(schema.outputs) - 1)].type_str for i, v in enumerate(node.outputs) if v.dtype == FULL}
    if not given:  # such as Shape, which need not see the numbers at all
        return inputs if len(floats) == 1 and floats[min(floats)] in halved else []
    if node.op_type in MOVES and not any(value in halved for value in floats.values()):
        return []
    return inputs if given <= allowed & {types[index] for index in inputs} else []


def _computes(node: ir.Node) -> bool:
    """Whether a node makes floats out of floats."""
    if node.op_type in NEVER | MOVES:
        return False
    values = [value for value in node.inputs if value is not None]
    return any(value.dtype == FULL for value in values) and any(value.dtype == FULL for value in node.outputs)


def _widen(work: _Halving, chosen: dict[ir.Node, list[int]]) -> None:
    """Give whoever still wants float32 a copy of what becomes bfloat16, and the graph its outputs under their names."""
    for value in sorted(work.values, key=lambda value: value.name or ""):
        wanting = [(use.node, use.idx) for use in value.uses() if use.idx not in chosen.get(use.node, ())]
        if not wanting and not value.is_graph_output():
            continue
        copy = _cast(work, value, FULL)
        for node, index in wanting:
            node.replace_input_with(index, copy)
        if value.is_graph_output():
            name = value.name
            value.name, copy.name = f"{name}_bfloat16", name
            work.graph.outputs[list(work.graph.outputs).index(value)] = copy


def _halve(work: _Halving, chosen: dict[ir.Node, list[int]]) -> None:
    """Set the type of values, and give nodes their other inputs in it."""
    for node, indices in chosen.items():
        for index in indices:
            value = node.inputs[index]
            if value is not None and value not in work.values:
                node.replace_input_with(index, _half_of(work, value))
    for value in work.values:
        value.type = ir.TensorType(HALF)


def _half_of(work: _Halving, value: ir.Value) -> ir.Value:
    """A value in bfloat16: one copy for all who want it."""
    if value not in work.copies:
        tensor = shrinkc_ir.constant_tensor(value)
        work.copies[value] = _cast(work, value, HALF) if tensor is None else _stored(work, value, tensor)
    return work.copies[value]


def _stored(work: _Halving, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    """A weight in bfloat16; the other one goes in the end, if nobody reads it any more."""
    name = f"{value.name}_bfloat16"
    half = ir.tensor(tensor.numpy().astype(HALF.numpy()), name=name)
    made = ir.Value(name=name, type=ir.TensorType(HALF), shape=ir.Shape(tensor.shape), const_value=half)  # type: ignore[arg-type]
    work.graph.register_initializer(made)
    return made


def _cast(work: _Halving, value: ir.Value, to: ir.DataType) -> ir.Value:
    """A node that casts a value, wherever the graph will be sorted to."""
    made = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(to))])
    made.outputs[0].name = f"{value.name}_{'bfloat16' if to == HALF else 'float32'}"
    made.outputs[0].type, made.outputs[0].shape = ir.TensorType(to), value.shape
    work.graph.append(made)
    return made.outputs[0]


def emulated(made: Converted) -> ir.Model:
    """A copy that computes the same in float32: whatever is bfloat16 is rounded to it and kept in float32.

    Products are summed in float32 and rounded once, which is what matrix units do.
    """
    copy = made.model.clone()
    for value in list(copy.graph.initializers.values()):
        if value.dtype == HALF and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(FULL.numpy()), name=value.name)
            value.type = ir.TensorType(FULL)
    for value in list(_halves(copy.graph, made.results)):
        value.type = None if value.type is None else ir.TensorType(FULL)
        narrow = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(HALF))])
        wide = ir.Node("", "Cast", [narrow.outputs[0]], [ir.AttrInt64("to", int(FULL))])
        for use in [use for use in value.uses() if use.node is not narrow]:
            use.node.replace_input_with(use.idx, wide.outputs[0])
        copy.graph.extend([narrow, wide])
    copy.graph.sort()
    return copy


def emulated_file(model: ir.Model) -> ir.Model:
    """The same of a model that was read from a file, whoever wrote it."""
    typed = ShapeInferencePass(data_prop=False)(model.clone()).model
    results = frozenset(value.name or "" for node in typed.graph for value in node.outputs if value.dtype == HALF)
    return emulated(Converted(typed, 0, (), results))


def _halves(graph: ir.Graph, results: frozenset[str]) -> Iterator[ir.Value]:
    """Results in bfloat16; a cast to it is one to float32 from then on."""
    for node in graph:
        for value in node.outputs:
            if value.name in results:
                yield value
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(FULL))
