"""The shadow: static shape, type and, where small, value of everything in a graph at one set of input shapes.

The model itself is never changed.  Free dimensions get a concrete size here (batch 1), so shape arithmetic that legacy
exporters leave in the graph becomes constants one can look at.  One forward walk does shape inference (onnx's own, node
by node) and constant folding (onnx's reference operators) together; each feeds the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import RecipeError, UnsupportedGraphError
from shrinkc.own_shapes import SHAPES, ShapeRule

DEFAULT_SPATIAL = 224
"""Size given to a free height or width when neither the user nor the data says one."""

DEFAULT_SEQUENCE = 16
"""Size given to any other free dimension but the first."""

FOLD_LIMIT = 65_536
"""Largest number of elements whose value is computed; shape arithmetic is far below, weights are above."""

_NONDETERMINISTIC = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Fact:
    """What is known of one value.

    Attributes
    ----------
    shape : tuple of int, or None if unknown
    dtype : ir.DataType or None
    value : ndarray or None
        The value, if it is the same for every input of these shapes and small.
    is_static : bool
        The value depends on no graph input, not even on its shape.
    """

    shape: tuple[int, ...] | None = None
    dtype: ir.DataType | None = None
    value: Array | None = None
    is_static: bool = False


UNKNOWN = Fact()


def input_shapes(model: ir.Model, given: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, tuple[int, ...]]:
    """Concrete shape of every graph input that is not an initializer.

    Parameters
    ----------
    model : ir.Model
    given : mapping of input name to shape, optional
        From the user or the data; the rest is filled in: batch 1, height and width 224, anything else 16.

    Raises
    ------
    RecipeError
        A given name is no input of the model, or contradicts a size the model fixes.
    UnsupportedGraphError
        An input is a sequence or an optional.
    """
    given = dict(given or {})
    shapes: dict[str, tuple[int, ...]] = {}
    for value in real_inputs(model):
        name = value.name or ""
        declared = _declared(value)
        chosen = given.pop(name, None)
        if not is_tensor(value):
            raise UnsupportedGraphError("a model input is no tensor", where=name, because=f"it is a {value.type}")
        if chosen is None and declared is None:
            raise RecipeError(
                "the model does not say the shape of an input",
                where=name,
                because="nothing can be told of channels without shapes",
                hint=f"--input-shapes {name}:1x3x224x224",
            )
        shapes[name] = _fill(declared or ()) if chosen is None else _checked(name, declared, chosen)
    if given:
        known = ", ".join(shapes)
        raise RecipeError("no such model input", where=next(iter(given)), hint=f"the inputs are: {known}")
    return shapes


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """Graph inputs a caller must feed: those without a default initializer."""
    return [value for value in model.graph.inputs if value.const_value is None]


def is_tensor(value: ir.Value) -> bool:
    """Whether a value is a tensor, as far as the model says; sequences and optionals are not."""
    return value.type is None or isinstance(value.type, ir.TensorType)


def with_free_sizes(model: ir.Model) -> list[str]:
    """Names of the inputs with a free dimension besides the first, the batch."""
    return [value.name or "" for value in real_inputs(model) if None in (_declared(value) or [])[1:]]


def _declared(value: ir.Value) -> list[int | None] | None:
    if value.shape is None or not is_tensor(value):  # the shape of a sequence is that of its elements
        return None
    return [int(dim) if isinstance(dim, int) and dim > 0 else None for dim in value.shape]


def _fill(declared: Sequence[int | None]) -> tuple[int, ...]:
    is_image = len(declared) in (4, 5)
    fallback = [1] + [DEFAULT_SPATIAL if is_image and axis >= 2 else DEFAULT_SEQUENCE for axis in range(1, len(declared))]
    return tuple(dim if dim is not None else fallback[axis] for axis, dim in enumerate(declared))


def _checked(name: str, declared: list[int | None] | None, chosen: tuple[int, ...]) -> tuple[int, ...]:
    fits = declared is None or (
        len(declared) == len(chosen) and all(fixed in (None, size) for fixed, size in zip(declared, chosen, strict=True))
    )
    if not fits:
        raise RecipeError(
            "an input shape contradicts the model", where=name, because=f"the model says {declared}, asked for {list(chosen)}"
        )
    return chosen


class Shadow:
    """Facts about the values of a graph, filled by visiting its nodes in order.

    Parameters
    ----------
    model : ir.Model
    shapes : mapping of input name to shape
        As returned by :func:`input_shapes`.
    """

    def __init__(self, model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.opsets = dict(model.graph.opset_imports)
        self.input_shapes = dict(shapes)
        self._opset_protos = [onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        self._sizes = _named_sizes(model, shapes)
        self._facts: dict[ir.Value, Fact] = {}
        for value in model.graph.inputs:
            if value.const_value is None:
                self._facts[value] = Fact(shapes.get(value.name or ""), value.dtype)
        for value in model.graph.initializers.values():
            self._facts[value] = _constant_fact(value)

    @classmethod
    def of(cls, model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Shadow:
        """Shadow with every node visited."""
        shadow = cls(model, shapes)
        for node in model.graph:
            shadow.visit(node)
        return shadow

    def __getitem__(self, value: ir.Value | None) -> Fact:
        return UNKNOWN if value is None else self._facts.get(value, UNKNOWN)

    def shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Static shape of a value, None if unknown."""
        return self[value].shape

    def refresh(self, value: ir.Value) -> None:
        """Read an initializer anew after it was edited or added."""
        self._facts[value] = _constant_fact(value)

    def visit(self, node: ir.Node) -> None:
        """Work out the outputs of ``node`` from what is known of its inputs."""
        for output, fact in zip(node.outputs, self._infer(node), strict=True):
            self._facts[output] = fact

    def _infer(self, node: ir.Node) -> list[Fact]:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            return [_constant_fact(node.outputs[0])]
        if node.op_type == "Shape" and (shape := self.shape(node.inputs[0])) is not None:
            return [_shape_fact(node, shape)]
        inputs = [self[value] for value in node.inputs]
        is_static = all(fact.is_static for value, fact in zip(node.inputs, inputs, strict=True) if value is not None)
        if folded := self._fold(node, inputs, is_static):
            return folded
        return [Fact(fact.shape, fact.dtype, None, is_static) for fact in self._infer_types(node, inputs)]

    def _fold(self, node: ir.Node, inputs: list[Fact], is_static: bool) -> list[Fact] | None:
        present = [fact for value, fact in zip(node.inputs, inputs, strict=True) if value is not None]
        if not present or any(fact.value is None for fact in present) or not _is_foldable(node):
            return None
        from onnx.reference import ReferenceEvaluator

        feeds: dict[str, Any] = {value.name or "": self[value].value for value in node.inputs if value is not None}
        # A bare node would be run by the newest operator version, whatever the model's opset; a graph is not.
        infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in feeds]
        outputs = [onnx.helper.make_empty_tensor_value_info(value.name or "") for value in node.outputs]
        graph = onnx.helper.make_graph([ir.to_proto(node)], "fold", infos, outputs)
        try:
            results = ReferenceEvaluator(graph, opsets=self.opsets).run(None, feeds)
        except Exception:  # the reference lacks some operators and types; then only the shape is inferred
            return None
        if any(not isinstance(result, np.ndarray | np.generic) or np.size(result) > FOLD_LIMIT for result in results):
            return None
        return [_known(np.asarray(result), is_static) for result in results]

    def _infer_types(self, node: ir.Node, inputs: list[Fact]) -> Iterable[Fact]:
        """Onnx's own inference for one node; falls back to what the model declares."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        sized = [Fact(_declared_shape(value, self._sizes), value.dtype) for value in node.outputs]
        if (domain, node.op_type) in SHAPES:
            return _by_own_rule(SHAPES[(domain, node.op_type)], node, inputs, sized)
        if _has_subgraph(node) or not onnx.defs.has(node.op_type, domain):
            return sized
        declared = [Fact(_declared_shape(value), value.dtype) for value in node.outputs]
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get(node.domain, self.opsets.get("", 1)), domain)
            types, data = self._inference_inputs(node, inputs)
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.to_proto(node), types, data, opset_imports=self._opset_protos
            )
        except Exception:  # inference refuses what it cannot prove; unknown is an honest answer
            return declared
        return [_typed(found.get(value.name or ""), fallback) for value, fallback in zip(node.outputs, declared, strict=True)]

    def _inference_inputs(self, node: ir.Node, inputs: list[Fact]) -> tuple[dict[str, Any], dict[str, Any]]:
        types: dict[str, Any] = {}
        data: dict[str, Any] = {}
        for value, fact in zip(node.inputs, inputs, strict=True):
            if value is None or value.name is None or fact.dtype is None:
                continue
            types[value.name] = onnx.helper.make_tensor_type_proto(int(fact.dtype), fact.shape)
            if fact.value is not None:
                data[value.name] = onnx.numpy_helper.from_array(np.ascontiguousarray(fact.value))
        return types, data


def _by_own_rule(rule: ShapeRule, node: ir.Node, inputs: list[Fact], declared: list[Fact]) -> list[Fact]:
    """Facts by a shape rule of ours; results are of the first input's type unless the model says otherwise."""
    shapes = rule(node, [fact.shape for fact in inputs])
    return [Fact(shape or fact.shape, fact.dtype or inputs[0].dtype) for shape, fact in zip(shapes, declared, strict=True)]


def _is_foldable(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type not in _NONDETERMINISTIC and not _has_subgraph(node)


def _has_subgraph(node: ir.Node) -> bool:
    return any(
        isinstance(attribute, ir.Attr) and attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for attribute in node.attributes.values()
    )


def _constant_fact(value: ir.Value) -> Fact:
    tensor = shrinkc_ir.constant_tensor(value)
    if tensor is None:
        return Fact(_declared_shape(value), value.dtype)
    shape = tuple(tensor.shape.numpy())
    small = int(np.prod(shape, dtype=np.int64)) <= FOLD_LIMIT and tensor.dtype != ir.DataType.STRING
    is_float = tensor.dtype.is_floating_point()
    # Float weights of any rank above one are never shape arithmetic; leaving them unread keeps the walk lazy.
    wanted = small and not (is_float and len(shape) > 1)
    return Fact(shape, tensor.dtype, tensor.numpy() if wanted else None, is_static=True)


def _shape_fact(node: ir.Node, shape: tuple[int, ...]) -> Fact:
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else len(shape)
    return Fact((len(shape[start:end]),), ir.DataType.INT64, np.asarray(shape[start:end], np.int64), is_static=False)


def _known(array: Array, is_static: bool) -> Fact:
    return Fact(tuple(array.shape), ir.DataType.from_numpy(array.dtype), array, is_static)


def _named_sizes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Size of every symbolic dimension of the inputs; a name that stands for several sizes tells nothing."""
    found: dict[str, set[int]] = {}
    for value in real_inputs(model):
        for dim, size in zip(value.shape or (), shapes.get(value.name or "", ()), strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value:
                found.setdefault(dim.value, set()).add(size)
    return {name: sizes.pop() for name, sizes in found.items() if len(sizes) == 1}


def _declared_shape(value: ir.Value, sizes: Mapping[str, int] | None = None) -> tuple[int, ...] | None:
    """Shape the model declares, with symbolic dimensions put in where ``sizes`` has them."""
    if value.shape is None or not is_tensor(value):
        return None
    named = [(sizes or {}).get(dim.value or "") if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape]
    known = tuple(int(dim) for dim in named if dim is not None and dim > 0)
    return known if len(known) == len(named) else None


def _typed(found: onnx.TypeProto | None, fallback: Fact) -> Fact:
    if found is None or not found.HasField("tensor_type"):
        return fallback
    tensor = found.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    known = tensor.HasField("shape") and all(dim is not None for dim in dims)
    shape = tuple(int(dim) for dim in dims if dim is not None) if known else fallback.shape
    return Fact(shape, ir.DataType(tensor.elem_type), None)
