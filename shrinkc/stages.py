"""A layer as a chain of linear nodes: what factorising puts in its place, and what such a chain amounts to.

A stage is one node with its own stored weight.  A chain of stages is turned into nodes of a graph by
:mod:`shrinkc.factoring`, into a model of its own by :func:`layer_model`, and back into one dense weight by :func:`composed`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from shrinkc import ir as shrinkc_ir
from shrinkc.evidence.sites import Site

RECURRENT = ("LSTM", "GRU", "RNN")
"""Operators whose weight is ``(directions, gates x hidden, inputs)``."""

Array = NDArray[Any]
Attribute = int | float | str | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Stage:
    """One linear node.

    Attributes
    ----------
    op_type : str
        ``Conv``, ``Gemm``, ``MatMul``, ``Gather``, or a recurrent layer, whose weight is that of its inputs.
    weight : ndarray
        As the operator takes it: ``(O, I/g, taps...)``, ``(K, N)`` (``(N, K)`` with ``transB``), or the table of a Gather.
    bias : ndarray of shape (outputs,), optional
    attributes : mapping of str to int, float, str or tuple of int
    rest : tuple of ndarray or None
        What else the node reads, after its weight and bias; in a graph it reads what the layer's own node did.
    """

    op_type: str
    weight: Array
    bias: Array | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    rest: tuple[Array | None, ...] = ()

    @property
    def data_index(self) -> int:
        """Which input of the node is the data."""
        return 1 if self.op_type == "Gather" else 0

    def ordered(self, data: Any, weight: Any, bias: Any | None) -> list[Any]:
        """Inputs in the operator's order."""
        first = [weight, data] if self.data_index else [data, weight]
        return first if bias is None else [*first, bias]


def recurrent_stage(site: Site, matrix: Array) -> Stage:
    """The recurrent node of a layer, with other input matrices."""
    directions = len(shrinkc_ir.stored_array(site.weight))
    weight = matrix.reshape(directions, -1, matrix.shape[1])
    stored = [None if value is None else shrinkc_ir.constant_tensor(value) for value in site.node.inputs[2:4]]
    rest = tuple(None if tensor is None else tensor.numpy() for tensor in stored)
    attributes = {
        name: _plain(attribute) for name, attribute in site.node.attributes.items() if name not in ("activations", "clip")
    }
    return Stage(site.node.op_type, weight, None, attributes, rest)


def _plain(attribute: ir.Attr) -> int | str:
    return attribute.as_string() if attribute.type == ir.AttributeType.STRING else attribute.as_int()


def composed(stages: Sequence[Stage]) -> tuple[Array, Array | None]:
    """Weight and bias of the one node that a chain amounts to, float64, in the layout of its first stage.

    Raises
    ------
    ValueError
        The stages do not make one linear map: different operators, or a bias before the last one.
    """
    if any(stage.bias is not None for stage in stages[:-1]):
        raise ValueError("a bias lies between the stages")
    weight = stages[0].weight.astype(np.float64)
    for before, stage in itertools.pairwise(stages):
        weight = _joined(before, weight, stage)
    bias = stages[-1].bias
    return weight, None if bias is None else bias.astype(np.float64)


def _joined(before: Stage, weight: Array, stage: Stage) -> Array:
    other = stage.weight.astype(np.float64)
    if stage.op_type in RECURRENT and before.op_type == "MatMul":
        inside: Array = other @ weight.T
        return inside
    if before.op_type == stage.op_type == "Conv":
        groups = int(stage.attributes.get("group", 1))  # type: ignore[arg-type]
        return _convolutions(weight, other, groups)
    is_transposed = [bool(part.attributes.get("transB", 0)) for part in (before, stage)]
    if is_transposed[0] != is_transposed[1]:
        raise ValueError("one stage is transposed, the other is not")
    product: Array = other @ weight if is_transposed[0] else weight @ other
    return product


def _convolutions(first: Array, second: Array, groups: int) -> Array:
    """Kernel of one convolution after another: their taps add up."""
    inner = second.shape[1]
    kernel = [a + b - 1 for a, b in zip(first.shape[2:], second.shape[2:], strict=True)]
    result = np.zeros((second.shape[0], first.shape[1], *kernel))
    outputs = second.shape[0] // groups
    for group in range(groups):
        own, read = slice(group * outputs, (group + 1) * outputs), slice(group * inner, (group + 1) * inner)
        for tap in np.ndindex(*second.shape[2:]):
            window = tuple(slice(start, start + size) for start, size in zip(tap, first.shape[2:], strict=True))
            mixed = np.tensordot(second[(own, slice(None), *tap)], first[read], axes=1)
            result[(own, slice(None), *window)] += mixed
    return result


def parameters(stages: Sequence[Stage]) -> int:
    """Elements of all weights and biases."""
    return sum(stage.weight.size + (0 if stage.bias is None else stage.bias.size) for stage in stages)


def layer_model(
    stages: Sequence[Stage], opsets: Mapping[str, int], ir_version: int, data_type: int, element_type: np.dtype[Any]
) -> bytes:
    """A chain as a model of its own, from ``x`` to ``y``; weights are stored in ``element_type``."""
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    name = "x"
    for number, stage in enumerate(stages):
        own = [_stored(tensors, f"w{number}", stage.weight, element_type)]
        own.append("" if stage.bias is None else _stored(tensors, f"b{number}", stage.bias, element_type))
        output = "y" if number == len(stages) - 1 else f"v{number}"
        inputs = stage.ordered(name, own[0], own[1] or None)
        inputs += [
            "" if array is None else _stored(tensors, f"r{number}.{place}", array, element_type)
            for place, array in enumerate(stage.rest)
        ]
        attributes: dict[str, Any] = {key: _listed(value) for key, value in stage.attributes.items()}
        nodes.append(helper.make_node(stage.op_type, inputs, [output], **attributes))
        name = output
    inputs = [helper.make_tensor_value_info("x", data_type, None)]
    graph = helper.make_graph(nodes, "layer", inputs, [helper.make_empty_tensor_value_info("y")], tensors)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=max(ir_version, 4))
    data: bytes = model.SerializeToString()
    return data


def _listed(value: Attribute) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _stored(tensors: list[onnx.TensorProto], name: str, array: Array, element_type: np.dtype[Any]) -> str:
    tensors.append(numpy_helper.from_array(np.ascontiguousarray(array, element_type), name))
    return name
