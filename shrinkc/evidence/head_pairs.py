"""Layers that meet inside attention heads: queries and keys, whose products are the scores; values and what reads their sums.

What such a pair gives depends on ``W_Q,h^T W_K,h`` (``W_O,h W_V,h``) of every head alone, so the dims inside a head can be
chosen freely, and fewer of them are a product of lower rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at
from shrinkc.api import FloatArray
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.tracing import Origin, carried, obstacle_to, origin_of
from shrinkc.shapes import Shadow

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two layers.

    Attributes
    ----------
    site : Site
    places : ndarray of int64, shape (heads, members, dims)
        Its outputs that are the dims of every head; its inputs where it ``reads`` them.  Of queries that share their keys
        there are several members to a head.
    reads : bool
    """

    site: Site
    places: Indices
    reads: bool = False

    def vectors(self) -> FloatArray:
        """Rows of the weight, and the bias beside them where it makes the dims: ``(heads, members, dims, any)``."""
        weight = self.site.matrix()[0]
        if self.reads:
            found: FloatArray = weight.T[self.places]
            return found
        rows: FloatArray = np.concatenate([weight, self.bias()[:, None]], axis=1)[self.places]
        return rows

    def bias(self) -> FloatArray:
        """What is added to its outputs, by itself or behind it; zeros where nothing is."""
        intercept = self.site.intercept
        if intercept is None or intercept.is_own:
            return self.site.bias().reshape(-1)
        stored: FloatArray = shrinkc_ir.stored_array(intercept.tensor).astype(np.float64)
        return intercept.sign * stored.reshape(-1)


@dataclass(frozen=True, eq=False)
class HeadPair:
    """Two layers and the product in which they meet.

    Attributes
    ----------
    node : ir.Node
        The product: of queries and keys, or of weights and values.
    dims_of : ir.Value
        A value whose last axis are the dims of a head.
    left, right : Side
        Queries and keys; the layer that reads, and values.
    """

    node: ir.Node
    dims_of: ir.Value
    left: Side
    right: Side

    @property
    def name(self) -> str:
        """Of what the product gives."""
        return self.node.outputs[0].name or ""

    @property
    def is_read(self) -> bool:
        """Whether the second layer reads what the first made, through the weights of the attention."""
        return self.left.reads

    @property
    def heads(self) -> int:
        """Heads with dims of their own."""
        return len(self.right.places)

    @property
    def dims(self) -> int:
        """Of every head."""
        return int(self.right.places.shape[-1])


@dataclass(frozen=True)
class Pairs:
    """Pairs of a graph in its order, and the reasons of products that are none, by name."""

    found: tuple[HeadPair, ...]
    refused: Mapping[str, str]


FUSED = frozenset({"Attention", "GroupQueryAttention", "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention"})
"""Nodes that hold whole heads, of ONNX and of onnxruntime."""

FUSED_HINT = "no value shows what their products give; --prune head-dim removes their dims as they are stored"


def pairs_in(model: ir.Model, shadow: Shadow) -> Pairs:
    """Every pair of a graph.

    Parameters
    ----------
    model : ir.Model
    shadow : Shadow
        Of the model.
    """
    sites = {site.name: site for site in sites_of(model, shadow)}
    found: list[HeadPair] = []
    refused: dict[str, str] = {}
    for node in model.graph:
        if node.op_type in FUSED:
            refused[node.outputs[0].name or ""] = f"its heads are inside one fused node, {node.op_type}: {FUSED_HINT}"
        if node.op_type != "MatMul" or any(value is None or shadow[value].is_static for value in node.inputs):
            continue
        look = _values if _is_weighted(node.inputs[0]) else _scores
        pair = look(node, sites, shadow)
        if isinstance(pair, HeadPair):
            found.append(pair)
        else:
            refused[node.outputs[0].name or ""] = pair
    return Pairs(tuple(found), refused)


def _is_weighted(value: ir.Value | None) -> bool:
    """Whether a value is what a Softmax gave, moved perhaps."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Softmax":
            return True
        if node.op_type not in ("Cast", "Dropout", "Identity", "Reshape", "Transpose", "Where", "Mul"):
            return False
        value = node.inputs[1 if node.op_type == "Where" and len(node.inputs) > 2 else 0]
    return False


def _scores(node: ir.Node, sites: Mapping[str, Site], shadow: Shadow) -> HeadPair | str:
    """Queries and keys, or why they are none."""
    operands = [value for value in node.inputs if value is not None]
    rows = []
    origins = []
    for value, axis in zip(operands, (-2, -1), strict=True):
        origin = origin_of(value, sites, shadow)
        own = None if origin is None else _rows(origin, axis)
        if origin is None or own is None:
            return obstacle_to(value, sites, shadow)
        if _has_odd_bias(origin.site):
            return f"the bias of {origin.site.name} is shared or no stored vector"
        origins.append(origin)
        rows.append(own)
    places = _matched(*rows)
    if places is None:
        return "several queries share several keys"
    left, right = (Side(origin.site, own) for origin, own in zip(origins, places, strict=True))
    return HeadPair(node, operands[0], left, right)


def _values(node: ir.Node, sites: Mapping[str, Site], shadow: Shadow) -> HeadPair | str:
    """Values and the layer that reads their weighted sums, or why they are none."""
    value = node.inputs[1]
    if value is None:
        return "it has no values"
    origin = origin_of(value, sites, shadow)
    rows = None if origin is None else _rows(origin, -2)
    if origin is None or rows is None:
        return obstacle_to(value, sites, shadow)
    if _has_odd_bias(origin.site):
        return f"the bias of {origin.site.name} is shared or no stored vector"
    reader = _reader_of(node.outputs[0], sites)
    if reader is None:
        return "no layer alone reads what the heads give"
    shape = shadow.shape(node.outputs[0]) or ()
    labels = np.broadcast_to(rows[..., None, :], shape)
    read = carried(node.outputs[0], labels, reader.data, shadow)
    if read is None or reader.groups > 1 or reader.taps > 1:
        return "what the heads give is more than moved before it is read"
    columns = np.moveaxis(read, reader.channel_axis, -1).reshape(-1, reader.inputs)
    heads = np.unique(rows.reshape(-1, rows.shape[-1]), axis=0)
    if (columns != columns[0]).any() or not np.array_equal(np.sort(columns[0]), np.sort(heads.reshape(-1))):
        return "heads share their values, or not all that is read are heads"
    places = np.argsort(columns[0])[np.searchsorted(np.sort(columns[0]), heads)]
    return HeadPair(node, value, Side(reader, places[:, None], reads=True), Side(origin.site, heads[:, None]))


def _rows(origin: Origin, positions_axis: int) -> Indices | None:
    """Heads of a layer that sees one position at a time; None of any other."""
    return origin.heads(positions_axis) if origin.site.taps == 1 else None


def _matched(left: Indices, right: Indices) -> tuple[Indices, Indices] | None:
    """Heads of either side that belong together, ``(heads, members, dims)`` both."""
    lead = np.broadcast_shapes(left.shape[:-1], right.shape[:-1])
    pairs = [np.broadcast_to(own, (*lead, own.shape[-1])).reshape(-1, own.shape[-1]) for own in (left, right)]
    both = np.unique(np.concatenate(pairs, axis=1), axis=0)
    dims = left.shape[-1]
    queries, keys = both[:, :dims], both[:, dims:]
    shared = np.unique(keys, axis=0)
    members = [queries[(keys == own).all(1)] for own in shared]
    is_even = len({len(own) for own in members}) == 1
    if not is_even or len(np.unique(queries, axis=0)) != len(queries):
        return None
    return np.stack(members), shared[:, None]


def _reader_of(value: ir.Value, sites: Mapping[str, Site]) -> Site | None:
    """The layer at the end of the way that a value goes alone."""
    while True:
        readers = [usage.node for usage in value.uses() if usage.node.op_type not in ("Shape", "Size")]
        if len(readers) != 1 or not readers[0].outputs or value.is_graph_output():
            return None
        site = sites.get(readers[0].outputs[0].name or "")
        if site is not None and site.data is value:
            return site
        if len(readers[0].outputs) != 1:
            return None
        value = readers[0].outputs[0]


def _has_odd_bias(site: Site) -> bool:
    """Whether a bias is there that cannot be written to."""
    return site.intercept is None and site.node.op_type != "MatMul" and input_at(site.node, 2) is not None
