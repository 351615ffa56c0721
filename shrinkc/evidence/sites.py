"""Layers as linear maps: what is stored, which channels its inputs and outputs are, and where an intercept can go.

A site is a Conv, Gemm or MatMul whose weight is stored in the model and read by nobody else.  Its weight in matrix form is
``(groups, outputs, columns)``, a group of a convolution being a linear map of its own; the columns of one input channel
(its taps) lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at, int_of, ints_of, string_of
from shrinkc.analysis.constants import trace
from shrinkc.analysis.flow import Blocked
from shrinkc.analysis.labels import Labels, Shape
from shrinkc.api import FloatArray, Windows
from shrinkc.shapes import Shadow


@dataclass(frozen=True)
class Intercept:
    """Stored vector that can take up a constant added to a site's output.

    Attributes
    ----------
    tensor : ir.Value
        One entry an output.
    sign : int
        ``-1`` where it is subtracted (the mean of a BatchNormalization), else ``1``.
    is_own : bool
        Whether the site adds it itself, so that its output holds it already.
    factor : float
        What the tensor is multiplied by (the beta of a Gemm).
    places : int64 ndarray of shape (outputs,), optional
        Where in the flattened tensor the entries lie; None where it holds nothing else.
    """

    tensor: ir.Value
    sign: int = 1
    is_own: bool = False
    factor: float = 1.0
    places: Labels | None = field(default=None, repr=False)

    def moved(self, change: FloatArray) -> FloatArray:
        """The tensor with a change of the outputs, shape (outputs,), taken up."""
        array: FloatArray = shrinkc_ir.stored_array(self.tensor).astype(np.float64)
        flat = array.reshape(-1)
        flat[slice(None) if self.places is None else self.places] += self.sign * change / self.factor
        return array


@dataclass(frozen=True)
class Site:
    """One layer.

    Attributes
    ----------
    node : ir.Node
    data : ir.Value
        What it reads.
    output : ir.Value
    weight : ir.Value
        The stored tensor; ``places`` says where in it the entries of the weight as the node sees it lie, None if it is that.
    groups : int
    inputs, outputs : int
        Channels of all groups together.
    taps : int
        Columns per input channel.
    windows : Windows or None
        None for matrix products, whose channels lie on the last axis.
    is_transposed : bool
        The weight as the node sees it is ``(inputs, outputs)``.
    factor : float
        What the product is multiplied by (the alpha of a Gemm).
    intercept : Intercept or None
    """

    node: ir.Node
    data: ir.Value
    output: ir.Value
    weight: ir.Value
    groups: int
    inputs: int
    outputs: int
    taps: int
    windows: Windows | None
    is_transposed: bool
    factor: float
    intercept: Intercept | None
    places: Labels | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name of its output, the same before and after surgery."""
        return self.output.name or ""

    @property
    def channel_axis(self) -> int:
        """Axis of the data and of the output that channels lie on."""
        return -1 if self.windows is None else 1

    @property
    def is_depthwise(self) -> bool:
        """Whether every group reads one channel: no channel is mixed with another."""
        return self.groups > 1 and self.inputs == self.groups

    @property
    def columns(self) -> int:
        """Columns of the weight of one group in matrix form."""
        return self.inputs // self.groups * self.taps

    @property
    def is_stored_in_single(self) -> bool:
        """Whether single precision holds the weight as it is."""
        return self.weight.dtype != ir.DataType.DOUBLE and self.factor == 1.0

    def matrix(self) -> FloatArray:
        """The weight as ``(groups, outputs per group, columns)``, float64, with its factor."""
        array: Any = shrinkc_ir.stored_array(self.weight).astype(np.float64) * self.factor
        if self.places is not None:
            array = array.reshape(-1)[self.places]
        if self.is_transposed:
            array = array.T
        matrix: FloatArray = array.reshape(self.groups, self.outputs // self.groups, -1)
        return matrix

    def bias(self) -> FloatArray:
        """What the site itself adds, shape ``(groups, outputs per group)``; zero where it adds nothing."""
        if self.intercept is None or not self.intercept.is_own:
            return np.zeros((self.groups, self.outputs // self.groups))
        stored: FloatArray = shrinkc_ir.stored_array(self.intercept.tensor).astype(np.float64)
        return (stored * self.intercept.factor).reshape(self.groups, -1)

    def attributes(self, names: Sequence[str]) -> dict[str, str | tuple[int, ...]]:
        """Attributes of its node by name, texts and lists of integers, those that are there."""
        found = {name: self.node.attributes[name] for name in names if name in self.node.attributes}
        return {
            name: attribute.as_string() if attribute.type == ir.AttributeType.STRING else tuple(map(int, attribute.as_ints()))
            for name, attribute in found.items()
        }

    def write(self, matrix: FloatArray, bias: FloatArray) -> list[str]:
        """Store another weight and intercept (of the output, see :meth:`bias`); returns the names of what changed."""
        seen: FloatArray = (matrix / self.factor).reshape(self.outputs, -1)
        old = shrinkc_ir.stored_array(self.weight)
        if self.is_transposed:
            seen = seen.T
        if self.places is not None:
            order = np.argsort(self.places.reshape(-1))  # a permutation: its inverse
            seen = seen.reshape(-1)[order].reshape(old.shape)
        shrinkc_ir.replace_tensor(self.weight, np.ascontiguousarray(seen.reshape(old.shape).astype(old.dtype)))
        return [self.weight.name or "", *self.write_bias(bias)]

    def write_bias(self, bias: FloatArray) -> list[str]:
        """Store another intercept, see :meth:`write`; nothing changes where there is no place for it."""
        change = (bias - self.bias()).reshape(-1)
        if self.intercept is None or not change.any():
            return []
        moved = _without_dust(self.intercept.moved(change))
        dtype = shrinkc_ir.stored_array(self.intercept.tensor).dtype
        shrinkc_ir.replace_tensor(self.intercept.tensor, moved.astype(dtype))
        return [self.intercept.tensor.name or ""]


DUST = 1e-9
"""Share of the largest weight below which a fitted one is noise; as denormal numbers such make a processor crawl."""


def _without_dust(values: FloatArray) -> FloatArray:
    return np.where(np.abs(values) > DUST * np.abs(values).max(initial=0), values, 0.0)


def sites_of(model: ir.Model, shadow: Shadow) -> list[Site]:
    """Every site of a graph, in its order."""
    found = (_site(node, shadow) for node in model.graph if node.domain in ("", "ai.onnx"))
    return [site for site in found if site is not None]


def _site(node: ir.Node, shadow: Shadow) -> Site | None:
    maker = _MAKERS.get(node.op_type)
    if maker is None:
        return None
    weight = _weight(node, 1, shadow)
    if weight is None or shadow.shape(node.inputs[0]) is None or shadow[node.inputs[0]].is_static:
        return None
    return maker(node, shadow, *weight)


def _weight(node: ir.Node, index: int, shadow: Shadow) -> tuple[ir.Value, Labels | None] | None:
    """Stored tensor behind a weight and the places of its entries; None if it is shared, or computed by more than movement."""
    value = node.inputs[index]
    shape = shadow.shape(value)
    if value is None or shape is None or not shadow[value].is_static or not _is_float(shadow, value):
        return None
    if shrinkc_ir.constant_tensor(value) is not None:
        return (value, None) if is_alone(value) else None
    return _moved_weight(node, index, shadow, shape)


def _moved_weight(node: ir.Node, index: int, shadow: Shadow, shape: Shape) -> tuple[ir.Value, Labels] | None:
    try:
        sources = trace(shadow, node, index)
    except Blocked:
        return None
    if len(sources) != 1 or shrinkc_ir.constant_tensor(sources[0].use.tensor) is None or not _only_moves(node.inputs[index]):
        return None
    stored = sources[0].use.tensor
    size = shadow.shape(stored) or ()
    axes = [np.broadcast_to(axis, shape) for axis in sources[0].coordinates]
    places = np.ravel_multi_index(tuple(axes), size)
    is_bijection = math.prod(shape) == math.prod(size) == len(np.unique(places))
    return (stored, places) if is_bijection and is_alone(stored) else None


def _only_moves(value: ir.Value | None) -> bool:
    while value is not None and shrinkc_ir.constant_tensor(value) is None:
        producer = value.producer()
        if producer is None or producer.op_type not in ("Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten"):
            return False
        if len(value.uses()) != 1:
            return False
        value = producer.inputs[0]
    return True


def _is_float(shadow: Shadow, value: ir.Value) -> bool:
    return shadow[value].dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def is_alone(value: ir.Value) -> bool:
    """Whether one node only reads a stored tensor, its shape aside; what is shared cannot be fitted to one of its uses."""
    readers = [usage for usage in value.uses() if usage.node.op_type not in ("Shape", "Size")]
    return len(readers) == 1 and not value.is_graph_output() and not value.is_graph_input()


def _conv(node: ir.Node, shadow: Shadow, weight: ir.Value, places: Labels | None) -> Site | None:
    shape, data = shadow.shape(node.inputs[1]) or (), shadow.shape(node.inputs[0]) or ()
    windows = _windows(node, shape[2:], data[2:])
    if windows is None or len(data) < 3:
        return None
    groups = int_of(node, "group", 1)
    taps = math.prod(shape[2:])
    intercept = _intercept(node, input_at(node, 2), shape[0], 1.0, shadow)
    return Site(
        node,
        _data(node),
        node.outputs[0],
        weight,
        groups,
        shape[1] * groups,
        shape[0],
        taps,
        windows,
        False,
        1.0,
        intercept,
        places,
    )


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise ValueError("a layer lost its input")
    return value


def _windows(node: ir.Node, kernel: Shape, sizes: Shape) -> Windows | None:
    rank = len(kernel)
    strides = tuple(ints_of(node, "strides") or [1] * rank)
    dilations = tuple(ints_of(node, "dilations") or [1] * rank)
    rule = string_of(node, "auto_pad", "NOTSET")
    if rule in ("SAME_UPPER", "SAME_LOWER"):
        # Depends on the size, which is the same for every sample of a run.
        pads = tuple(_same(*numbers, rule) for numbers in zip(sizes, kernel, strides, dilations, strict=True))
    else:
        flat = [0] * 2 * rank if rule == "VALID" else ints_of(node, "pads") or [0] * 2 * rank
        pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
    return Windows(tuple(kernel), strides, dilations, pads)


def _same(size: int, kernel: int, stride: int, dilation: int, rule: str) -> tuple[int, int]:
    total = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
    less, more = total // 2, total - total // 2
    return (less, more) if rule == "SAME_UPPER" else (more, less)


def _gemm(node: ir.Node, shadow: Shadow, weight: ir.Value, places: Labels | None) -> Site | None:
    if int_of(node, "transA", 0):
        return None
    is_transposed = not int_of(node, "transB", 0)
    shape = shadow.shape(node.inputs[1]) or ()
    inputs, outputs = shape if is_transposed else shape[::-1]
    alpha, beta = (_float_of(node, name) for name in ("alpha", "beta"))
    if not alpha or not beta:
        return None
    intercept = _intercept(node, input_at(node, 2), outputs, beta, shadow)
    return Site(
        node, _data(node), node.outputs[0], weight, 1, inputs, outputs, 1, None, is_transposed, alpha, intercept, places
    )


def _float_of(node: ir.Node, name: str) -> float:
    attribute = node.attributes.get(name)
    return 1.0 if attribute is None else attribute.as_float()


def _matmul(node: ir.Node, shadow: Shadow, weight: ir.Value, places: Labels | None) -> Site | None:
    shape = shadow.shape(node.inputs[1]) or ()
    if len(shape) != 2 or len(shadow.shape(node.inputs[0]) or ()) < 2:
        return None
    intercept = _intercept(node, None, shape[1], 1.0, shadow)
    return Site(node, _data(node), node.outputs[0], weight, 1, shape[0], shape[1], 1, None, True, 1.0, intercept, places)


_MAKERS: dict[str, Callable[[ir.Node, Shadow, ir.Value, Labels | None], Site | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _intercept(node: ir.Node, own: ir.Value | None, outputs: int, factor: float, shadow: Shadow) -> Intercept | None:
    """Where an intercept can go without a new tensor: the layer's own bias, a BatchNormalization or an Add behind it."""
    if own is not None:
        return Intercept(own, is_own=True, factor=factor) if _is_vector(own, outputs, shadow) else None
    users = list(node.outputs[0].uses())
    if len(users) != 1 or node.outputs[0].is_graph_output():
        return None
    reader, index = users[0].node, users[0].idx
    if reader.op_type == "BatchNormalization" and index == 0 and _is_vector(mean := reader.inputs[3], outputs, shadow):
        return None if mean is None else Intercept(mean, sign=-1)
    if reader.op_type == "Add" and node.op_type != "Conv" and _is_vector(other := reader.inputs[1 - index], outputs, shadow):
        return None if other is None else Intercept(other)
    return None


def _is_vector(value: ir.Value | None, size: int, shadow: Shadow) -> bool:
    if value is None or shrinkc_ir.constant_tensor(value) is None or not is_alone(value) or not _is_float(shadow, value):
        return False
    shape = shadow.shape(value) or ()
    return shape[-1:] == (size,) and math.prod(shape) == size
