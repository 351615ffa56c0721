"""Weights as matrices: one row an output unit, one column an input of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir
import torch

from shrinkc import ir as shrinkc_ir

WEIGHT_INPUT = 1
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
RECTIFIERS = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softplus", "Softmax"})
"""Operators whose result is never negative; so is what the following leave of it."""

KEEPING_SIGN = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Reshape", "Identity"})


@dataclass(frozen=True)
class WeightView:
    """How a stored weight becomes a matrix of shape (units, fan_in), and back.

    Attributes
    ----------
    name : str
        Of the stored tensor.
    shape : tuple of int
        As it is stored.
    permutation : tuple of int
        Axes in the order (unit axes first) that :meth:`to2d` brings them into.
    units : int
        Rows of the matrix.
    node : str
        Name of the layer's output.
    is_depthwise : bool
    is_first, is_last : bool
        Reads an input of the graph; nothing but element-wise operators lies between it and an output of the graph.
    reads_nonnegative : bool
        What it reads is provably not negative.
    is_normalized : bool
        A BatchNormalization reads what it gives, and nothing else does: its scale does not matter.
    """

    name: str
    shape: tuple[int, ...]
    permutation: tuple[int, ...]
    units: int
    node: str
    is_depthwise: bool = False
    is_first: bool = False
    is_last: bool = False
    reads_nonnegative: bool = False
    is_normalized: bool = False

    def to2d(self, tensor: torch.Tensor) -> torch.Tensor:
        """Matrix of shape (units, fan_in) out of a tensor laid out as it is stored."""
        return tensor.permute(self.permutation).reshape(self.units, -1)

    def from2d(self, matrix: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`to2d`."""
        permuted = [self.shape[axis] for axis in self.permutation]
        inverse = [self.permutation.index(axis) for axis in range(len(self.permutation))]
        return matrix.reshape(permuted).permute(inverse).contiguous()


def weight_views(model: ir.Model) -> list[WeightView]:
    """Views of the weights of all convolutions and matrix products, each tensor once, in the order of the graph."""
    views: dict[str, WeightView] = {}
    for node in model.graph:
        if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx"):
            continue
        weight = node.inputs[WEIGHT_INPUT]
        if weight is not None and weight.name and weight.name not in views and _is_matrix(weight):
            views[weight.name] = _view(node, weight)
    return list(views.values())


def prunable(views: list[WeightView], *, keep_first: bool = False, keep_last: bool = False) -> list[WeightView]:
    """Views that a mask may be put on: no depthwise convolutions, and neither end where asked."""
    return [
        view
        for view in views
        if not view.is_depthwise and not (keep_first and view.is_first) and not (keep_last and view.is_last)
    ]


def _is_matrix(weight: ir.Value) -> bool:
    tensor = shrinkc_ir.constant_tensor(weight)
    return tensor is not None and len(tensor.shape) >= 2 and tensor.dtype in _FLOATS


_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def _view(node: ir.Node, weight: ir.Value) -> WeightView:
    tensor = shrinkc_ir.constant_tensor(weight)
    shape = tuple(tensor.shape.numpy()) if tensor is not None else ()
    permutation, units = _layout(node, shape)
    return WeightView(
        name=weight.name or "",
        shape=shape,
        permutation=permutation,
        units=units,
        node=node.outputs[0].name or "",
        is_depthwise=node.op_type == "Conv" and shape[1] == 1 and _group(node) > 1,
        is_first=node.inputs[0] is not None and node.inputs[0].is_graph_input(),
        is_last=_ends(node.outputs[0]),
        reads_nonnegative=_is_nonnegative(node.inputs[0]),
        is_normalized=_is_normalized(node.outputs[0]),
    )


def _layout(node: ir.Node, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    axes = tuple(range(len(shape)))
    if node.op_type == "Conv" or (node.op_type == "Gemm" and _integer(node, "transB")):
        return axes, shape[0]
    if node.op_type == "ConvTranspose":
        # Rows are outputs within a group; which inputs feed them is the rest.
        return (1, 0, *axes[2:]), shape[1]
    return (*axes[:-2], axes[-1], axes[-2]), math.prod(shape[:-2]) * shape[-1]


def _group(node: ir.Node) -> int:
    return _integer(node, "group") or 1


def _integer(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else int(attribute.as_int())


def _ends(value: ir.Value) -> bool:
    """Whether a value is an output of the graph, or only dressed up before it becomes one."""
    if value.is_graph_output():
        return True
    users = [usage.node for usage in value.uses()]
    return len(users) == 1 and users[0].op_type in ("Add", "Softmax", "LogSoftmax", "Identity") and _ends(users[0].outputs[0])


def _is_normalized(value: ir.Value) -> bool:
    uses = list(value.uses())
    return len(uses) == 1 and uses[0].node.op_type == "BatchNormalization" and uses[0].idx == 0 and not value.is_graph_output()


def _is_nonnegative(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type == "Clip":
        return _lower_bound(node) >= 0
    if node.op_type in KEEPING_SIGN:
        return _is_nonnegative(node.inputs[0])
    return node.op_type in RECTIFIERS


def _lower_bound(node: ir.Node) -> float:
    bound = node.inputs[1] if len(node.inputs) > 1 else None
    if bound is None or shrinkc_ir.constant_tensor(bound) is None:
        return -math.inf
    return float(shrinkc_ir.stored_array(bound).reshape(-1)[0])


def normalization_scales(model: ir.Model) -> list[str]:
    """Names of the gains of all BatchNormalizations, each once."""
    names = {
        node.inputs[1].name or "": None
        for node in model.graph
        if node.op_type == "BatchNormalization" and node.inputs[1] is not None
    }
    return list(names)
