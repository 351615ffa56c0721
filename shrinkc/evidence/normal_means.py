"""Means of channels without data, from the BatchNormalization before them.

What leaves a BatchNormalization has mean ``beta`` and standard deviation ``|gamma|``, and is taken to be normal (Nagel, van
Baalen, Blankevoort, Welling. Data-Free Quantization. ICCV 2019, section 4.2.1).  The mean behind a ReLU is in closed form, that
behind any other operators that work element by element by Gauss-Hermite quadrature.  Averages over positions keep it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import ndtr

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.analysis.flow import Blocked
from shrinkc.analysis.labels import Labels, along
from shrinkc.analysis.node_moves import MOVES, setting
from shrinkc.analysis.oprules.elementwise import NARY, UNARY
from shrinkc.api import FloatArray
from shrinkc.shapes import Shadow

NODES = 64
"""Points of the quadrature."""

POOLS = frozenset({"AveragePool", "GlobalAveragePool"})

ELEMENTWISE = frozenset({*UNARY, *NARY})


@dataclass(frozen=True, eq=False)
class _Way:
    """From a BatchNormalization through operators that work element by element, then averages and movement, to a value."""

    normalization: ir.Node
    elementwise: tuple[ir.Node, ...]
    moves: tuple[ir.Node, ...]


def channel_means(value: ir.Value, axis: int, opsets: Mapping[str, int], shadow: Shadow) -> FloatArray:
    """Mean of every channel of a value.

    Parameters
    ----------
    value : ir.Value
    axis : int
        Its channels' axis, not negative.
    opsets : mapping of domain to version
    shadow : Shadow
        Of the value's graph.

    Returns
    -------
    ndarray of shape (channels,), float64
        NaN where no BatchNormalization tells.
    """
    shape, node = shadow.shape(value) or (), value.producer()
    if node is not None and node.op_type == "Concat" and int_of(node, "axis", 1) % len(shape) == axis:
        return np.concatenate([channel_means(part, axis, opsets, shadow) for part in node.inputs if part is not None])
    try:
        means = _means_along(value, axis, opsets, shadow)
    except (Blocked, RuntimeError, TypeError, ValueError):  # the reference lacks some operators and types
        means = None
    return np.full(shape[axis], np.nan) if means is None else np.broadcast_to(means, (shape[axis],))


def _means_along(value: ir.Value, axis: int, opsets: Mapping[str, int], shadow: Shadow) -> FloatArray | None:
    way = _way_to(value, shadow)
    if way is None:
        return None
    labels = _moved(way, shadow)
    rows = np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])
    return None if (rows != rows[0]).any() else _means(way, opsets, shadow)[rows[0]]


def _way_to(value: ir.Value, shadow: Shadow) -> _Way | None:
    moves: list[ir.Node] = []
    node = value.producer()
    while node is not None and _averages_or_moves(node):
        moves.insert(0, node)
        before = node.inputs[0]
        node = None if before is None else before.producer()
    found: dict[ir.Node, None] = {}
    if node is None or not _collect(node, found, shadow):
        return None
    sources = [node for node in found if node.op_type == "BatchNormalization"]
    if len(sources) != 1:
        return None
    order = {node: place for place, node in enumerate(sources[0].graph or ())}
    elementwise = sorted((node for node in found if node is not sources[0]), key=lambda node: order[node])
    return _Way(sources[0], tuple(elementwise), tuple(moves))


def _averages_or_moves(node: ir.Node) -> bool:
    return node.op_type in POOLS or node.op_type == "ReduceMean" or (node.op_type in MOVES and node.op_type != "Expand")


def _collect(node: ir.Node, found: dict[ir.Node, None], shadow: Shadow) -> bool:
    """Add the nodes a value is computed by, back to the BatchNormalization; False if others are among them."""
    if node in found:
        return True
    found[node] = None
    if node.op_type == "BatchNormalization":
        return all(shrinkc_ir.constant_tensor(value) is not None for value in node.inputs[1:3] if value is not None)
    if node.op_type not in ELEMENTWISE or node.domain not in ("", "ai.onnx"):
        return False
    return all(
        shadow[value].is_static or ((producer := value.producer()) is not None and _collect(producer, found, shadow))
        for value in node.inputs
        if value is not None
    )


def _moved(way: _Way, shadow: Shadow) -> Labels:
    """Channel of the BatchNormalization behind every entry of the value."""
    rank = len(shadow.shape(way.normalization.outputs[0]) or ())
    labels = along(np.arange(len(_stored(way.normalization, 1))), 1, rank)
    for node in way.moves:
        if node.op_type in MOVES:
            labels = MOVES[node.op_type](shadow, node, labels)
        elif node.op_type == "ReduceMean":
            labels = _reduced(labels, node, shadow)
    return labels


def _reduced(labels: Labels, node: ir.Node, shadow: Shadow) -> Labels:
    axes = setting(shadow, node, 1, "axes")
    chosen = tuple(axis % labels.ndim for axis in axes) if axes else tuple(range(labels.ndim))
    if 0 in chosen or any(labels.shape[axis] > 1 for axis in chosen):
        raise Blocked("it averages over channels")
    return labels if int_of(node, "keepdims", 1) else labels.squeeze(chosen)


def _means(way: _Way, opsets: Mapping[str, int], shadow: Shadow) -> FloatArray:
    spread, mean = np.abs(_stored(way.normalization, 1)), _stored(way.normalization, 2)
    if not way.elementwise:
        return mean
    if [node.op_type for node in way.elementwise] == ["Relu"]:
        return rectified_mean(mean, spread)
    points, weights = hermegauss(NODES)
    rank = len(shadow.shape(way.normalization.outputs[0]) or ())
    values = (mean + points[:, None] * spread).reshape(NODES, -1, *(1,) * (rank - 2))
    result = np.asarray(_executed(way, values.astype(np.float32), opsets, shadow), np.float64)
    per_channel: FloatArray = result.reshape(NODES, len(mean), -1).mean(2)
    averaged: FloatArray = weights @ per_channel / math.sqrt(2 * math.pi)
    return averaged


def rectified_mean(mean: FloatArray, spread: FloatArray) -> FloatArray:
    """Mean of a normal variable's positive part; the standard deviation may be zero."""
    ratio = np.divide(mean, spread, out=np.where(mean > 0, np.inf, -np.inf), where=spread > 0)
    result: FloatArray = spread * np.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi) + mean * ndtr(ratio)
    return result


def _stored(node: ir.Node, index: int) -> FloatArray:
    value = input_at(node, index)
    if value is None:
        raise Blocked("a BatchNormalization lacks an input")
    stored: FloatArray = shrinkc_ir.stored_array(value).astype(np.float64)
    return stored


def _executed(way: _Way, values: FloatArray, opsets: Mapping[str, int], shadow: Shadow) -> FloatArray:
    """What the operators make of values of the BatchNormalization, by onnx's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    source, target = way.normalization.outputs[0].name or "", way.elementwise[-1].outputs[0].name or ""
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node) for node in way.elementwise],
        "elementwise",
        [onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, None)],
        [onnx.helper.make_empty_tensor_value_info(target)],
        [onnx.numpy_helper.from_array(array, name) for name, array in _constants(way.elementwise, shadow)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(*item) for item in opsets.items()])
    with np.errstate(all="ignore"):  # far points may overflow; the caller looks whether the mean is finite
        results: Any = ReferenceEvaluator(model).run([target], {source: values})
    executed: FloatArray = results[0]
    return executed


def _constants(nodes: Sequence[ir.Node], shadow: Shadow) -> Iterator[tuple[str, FloatArray]]:
    for value in dict.fromkeys(
        value for node in nodes for value in node.inputs if value is not None and shadow[value].is_static
    ):
        array = shadow[value].value
        if array is None and shrinkc_ir.constant_tensor(value) is None:
            raise Blocked("a constant is computed")
        known = shrinkc_ir.stored_array(value) if array is None else array
        yield value.name or "", known.astype(np.float32) if known.dtype == np.float16 else known
