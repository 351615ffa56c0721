"""Products of two computed matrices that share channels: queries and keys.

Where channels that two matrices are multiplied along were removed, the product of what is left lacks their part.  If either
matrix is made of the outputs of a layer that are only moved on the way, a map between the channels that stay can be folded
into the layer's weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.api import FloatArray
from shrinkc.evidence.sites import Site
from shrinkc.evidence.tracing import origin_of
from shrinkc.shapes import Shadow

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Product:
    """A product ``left @ right`` in the cut network, many matrices at once.

    Attributes
    ----------
    node : ir.Node
    left, right : str
        Names of what is multiplied, the same in the original.
    is_left : bool
        Whether the map goes into the left operand.
    site : Site
        Layer that makes that operand.
    rows : ndarray of shape (heads, dims)
        Its outputs that are the dims of every head.
    operand_head : ndarray of shape (matrices of that operand,)
        Head that each of them belongs to; of one sample where the batch is free.
    head : ndarray of shape (matrices of the product,)
    kept : ndarray of bool, shape (matrices of the original's product, dims there)
        Dims that are left; of matrices that are gone, none.
    """

    node: ir.Node
    left: str
    right: str
    is_left: bool
    site: Site
    rows: Indices
    operand_head: Indices
    head: Indices
    kept: BoolArray

    @property
    def name(self) -> str:
        """Name of its output."""
        return self.node.outputs[0].name or ""

    @property
    def operand(self) -> str:
        """Name of the operand that takes the map."""
        return self.left if self.is_left else self.right

    def fold(self, maps: Sequence[FloatArray]) -> list[str]:
        """Put a map between the dims of every head, ``new = map @ old``, into the layer; returns the names of what changed."""
        matrix = self.site.matrix()[0]
        for rows, own in zip(self.rows, maps, strict=True):
            matrix[rows] = own @ matrix[rows]
        return [*self.site.write(matrix[None], self.site.bias()), *self._fold_bias(maps)]

    def _fold_bias(self, maps: Sequence[FloatArray]) -> list[str]:
        if self.site.intercept is None:
            return []
        tensor = self.site.intercept.tensor
        old = shrinkc_ir.stored_array(tensor)
        vector = old.astype(np.float64).reshape(-1)
        for rows, own in zip(self.rows, maps, strict=True):
            vector[rows] = own @ vector[rows]
        shrinkc_ir.replace_tensor(tensor, vector.reshape(old.shape).astype(old.dtype))
        return [tensor.name or ""]


@dataclass(frozen=True)
class Products:
    """Products that lost dims: those a map can be folded into, and the names of the others."""

    foldable: tuple[Product, ...]
    left_alone: tuple[str, ...]


def products_of(
    pruned: ir.Model, shadow: Shadow, sites: Mapping[str, Site], analysis: Analysis, is_kept: BoolArray
) -> Products:
    """Every product of two computed matrices that lost some of the dims it sums over.

    Parameters
    ----------
    pruned : ir.Model
    shadow : Shadow
        Of ``pruned``.
    sites : mapping of output name to Site
        Of ``pruned``.
    analysis : Analysis
        Of the original.
    is_kept : ndarray of bool
        See :meth:`shrinkc.analysis.groups.Analysis.keep_mask`.
    """
    originals = {output.name: node for node in analysis.model.graph for output in node.outputs}
    foldable, left_alone = [], []
    for node in pruned.graph:
        original = originals.get(node.outputs[0].name) if node.outputs else None
        kept = None if original is None else _kept_dims(node, original, analysis, is_kept)
        if kept is None:
            continue
        product = _product(node, kept, shadow, sites)
        if product is None:
            left_alone.append(node.outputs[0].name or "")
        else:
            foldable.append(product)
    return Products(tuple(foldable), tuple(left_alone))


def _kept_dims(node: ir.Node, original: ir.Node, analysis: Analysis, is_kept: BoolArray) -> BoolArray | None:
    """Dims that are left of every matrix of the original's product; None if it is no such product or none are missing."""
    if (node.op_type, original.op_type) != ("MatMul", "MatMul"):
        return None
    shapes = [analysis.shadow.shape(value) for value in original.inputs]
    classes = [None if value is None else analysis.classes_of(value) for value in original.inputs]
    if any(shape is None or len(shape) < 2 for shape in shapes) or any(labels is None for labels in classes):
        return None
    lead = np.broadcast_shapes(*(shape[:-2] for shape in shapes if shape is not None))
    dims = (shapes[0] or ())[-1]
    left, right = (is_kept[labels] for labels in classes if labels is not None)
    if left.shape[-2] > 1 or right.shape[-1] > 1:
        return None
    kept, also = (np.broadcast_to(own, (*lead, dims)).reshape(-1, dims) for own in (left[..., 0, :], right[..., :, 0]))
    is_missing = (~kept & kept.any(1, keepdims=True)).any()
    return kept if is_missing and np.array_equal(kept, also) else None


def _product(node: ir.Node, kept: BoolArray, shadow: Shadow, sites: Mapping[str, Site]) -> Product | None:
    left, right = node.inputs
    shapes = [shadow.shape(value) for value in node.inputs]
    if left is None or right is None or shapes[0] is None or shapes[1] is None:
        return None
    lead = np.broadcast_shapes(shapes[0][:-2], shapes[1][:-2])
    for is_left, value, shape in ((True, left, shapes[0]), (False, right, shapes[1])):
        origin = origin_of(value, sites, shadow)
        rows = None if origin is None else origin.heads(-2 if is_left else -1)
        if origin is not None and rows is not None and math.prod(lead) == kept.any(1).sum():
            heads, own = np.unique(rows.reshape(-1, rows.shape[-1]), axis=0, return_inverse=True)
            own = own.reshape(shape[:-2])
            head = np.broadcast_to(own, lead).reshape(-1)
            return Product(node, left.name or "", right.name or "", is_left, origin.site, heads, own.reshape(-1), head, kept)
    return None
