"""Layers as a latency table knows them: everything about one but its widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from shrinkc.analysis.attributes import int_of
from shrinkc.analysis.oprules.convolution import is_depthwise
from shrinkc.shapes import Shadow

CHANNELS = 0
"""Stands in a shape where the width goes."""

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")
OPSET, IR_VERSION = 17, 8

IGNORED_ATTRIBUTES = frozenset({"alpha", "beta"})


@dataclass(frozen=True)
class LayerSpec:
    """One layer but for its widths.

    Attributes
    ----------
    op_type : str
    shape : tuple of int
        Of its input, :data:`CHANNELS` along the axis of the channels.
    kernel : tuple of int
        Spatial size of the weight; empty for a product.
    groups : int
        0 for a depthwise convolution, which has one width, not two.
    multiplier : int
        Outputs per input of a depthwise convolution.
    has_bias : bool
    attributes : tuple of (name, value)
        Strides, padding and the like, sorted.
    """

    op_type: str
    shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    groups: int = 1
    multiplier: int = 1
    has_bias: bool = True
    attributes: tuple[tuple[str, Any], ...] = ()

    @property
    def is_depthwise(self) -> bool:
        """Whether inputs and outputs have one width."""
        return self.groups == 0

    @property
    def n_widths(self) -> int:
        """How many widths it has: inputs and outputs, or one."""
        return 1 if self.is_depthwise else 2

    def input_shape(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Shape of its input at some widths, inputs first."""
        return tuple(widths[0] if size == CHANNELS else size for size in self.shape)

    def weight_shape(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Shape of its weight."""
        if self.is_depthwise:
            return self._depthwise_shape(widths[0])
        inputs, outputs = widths
        if self.op_type in PRODUCTS:
            is_transposed = dict(self.attributes).get("transB", 0)
            return (outputs, inputs) if is_transposed else (inputs, outputs)
        if self.op_type == "ConvTranspose":
            return (inputs, outputs // self.groups, *self.kernel)
        return (outputs, inputs // self.groups, *self.kernel)

    def _depthwise_shape(self, width: int) -> tuple[int, ...]:
        if self.op_type == "ConvTranspose":
            return (width, self.multiplier, *self.kernel)
        return (width * self.multiplier, 1, *self.kernel)

    def outputs(self, widths: Sequence[int]) -> int:
        """Width of its output."""
        return widths[0] * self.multiplier if self.is_depthwise else widths[1]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "op_type": self.op_type,
            "shape": list(self.shape),
            "kernel": list(self.kernel),
            "groups": self.groups,
            "multiplier": self.multiplier,
            "has_bias": self.has_bias,
            "attributes": {name: list(value) if isinstance(value, tuple) else value for name, value in self.attributes},
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> LayerSpec:
        """The reverse of :meth:`to_json`."""
        attributes = {name: tuple(value) if isinstance(value, list) else value for name, value in data["attributes"].items()}
        return LayerSpec(
            data["op_type"],
            tuple(data["shape"]),
            tuple(data["kernel"]),
            data["groups"],
            data["multiplier"],
            data["has_bias"],
            tuple(sorted(attributes.items())),
        )


@dataclass(frozen=True)
class Layer:
    """A layer of a graph.

    Attributes
    ----------
    node : ir.Node
    spec : LayerSpec
    widths : tuple of int
        Of the original: inputs and outputs, or the one of a depthwise convolution.
    """

    node: ir.Node
    spec: LayerSpec
    widths: tuple[int, ...]


def layer_of(node: ir.Node, weight_index: int | None, shadow: Shadow) -> Layer | None:
    """The layer a node is, None where a table does not know its kind."""
    if weight_index != 1 or node.op_type not in CONVOLUTIONS + PRODUCTS or node.domain:
        return None
    shape, weight = (None if value is None else shadow.shape(value) for value in node.inputs[:2])
    if shape is None or weight is None:
        return None
    if node.op_type in CONVOLUTIONS:
        return _convolution(node, shape, weight)
    return _product(node, shape, weight) if len(weight) == 2 else None


def _convolution(node: ir.Node, shape: tuple[int, ...], weight: tuple[int, ...]) -> Layer:
    free = (shape[0], CHANNELS, *shape[2:])
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    groups = int_of(node, "group", 1)
    if is_depthwise(node, weight):
        multiplier = weight[1] if node.op_type == "ConvTranspose" else weight[0] // groups
        spec = LayerSpec(node.op_type, free, weight[2:], 0, multiplier, has_bias, _attributes(node))
        return Layer(node, spec, (shape[1],))
    outputs = weight[1] * groups if node.op_type == "ConvTranspose" else weight[0]
    return Layer(node, LayerSpec(node.op_type, free, weight[2:], groups, 1, has_bias, _attributes(node)), (shape[1], outputs))


def _product(node: ir.Node, shape: tuple[int, ...], weight: tuple[int, ...]) -> Layer | None:
    if int_of(node, "transA", 0):
        return None
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    spec = LayerSpec(node.op_type, (*shape[:-1], CHANNELS), (), 1, 1, has_bias, _attributes(node))
    is_transposed = int_of(node, "transB", 0)
    return Layer(node, spec, (weight[1], weight[0]) if is_transposed else weight)


def _attributes(node: ir.Node) -> tuple[tuple[str, Any], ...]:
    """Attributes but the group, with lists as tuples; those that change no shape are left out."""
    found = {
        name: tuple(attribute.value) if isinstance(attribute.value, (list, tuple)) else attribute.value
        for name, attribute in node.attributes.items()
        if name != "group" and name not in IGNORED_ATTRIBUTES
    }
    return tuple(sorted(found.items()))


def micro_model(spec: LayerSpec, widths: Sequence[int], copies: int = 1) -> bytes:
    """A model of the sum of some copies of this one layer, with random weights of their own; its input is ``x``."""
    random = np.random.default_rng(0)
    attributes: dict[str, Any] = dict(spec.attributes)
    if spec.op_type in CONVOLUTIONS:
        attributes["group"] = spec.groups or widths[0]
    nodes, stored = [], []
    for number in range(copies):
        weight = (0.1 * random.standard_normal(spec.weight_shape(widths))).astype(np.float32)
        own = [numpy_helper.from_array(weight, f"weight{number}")]
        if spec.has_bias:
            own.append(numpy_helper.from_array(np.ones(spec.outputs(widths), np.float32), f"bias{number}"))
        stored += own
        nodes.append(helper.make_node(spec.op_type, ["x", *(tensor.name for tensor in own)], [f"y{number}"], **attributes))
    sums = ["y0", *(f"sum{number}" for number in range(1, copies))]
    for number in range(1, copies):
        nodes.append(helper.make_node("Add", [f"y{number}", sums[number - 1]], [sums[number]]))
    nodes[-1].output[0] = "y"
    return model_bytes(nodes, {"x": spec.input_shape(widths)}, stored)


def model_bytes(nodes: list[Any], inputs: dict[str, tuple[int, ...]], stored: list[Any]) -> bytes:
    """A model of float32 inputs whose output is ``y``."""
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layer", ports, [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    return bytes(model.SerializeToString())
