"""What a graph costs under a choice of kept channels: MACs, parameters and bytes, without building anything."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.constants import UNTOUCHED, Use, is_fill
from shrinkc.analysis.groups import Analysis, BoolArray, stored_tensors
from shrinkc.analysis.labels import Labels

QUANTIZED = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4})


@dataclass(frozen=True)
class Cost:
    """Cost of one model.

    Attributes
    ----------
    macs : int
        Multiply-accumulates of convolutions and matrix products for one run at the analysed shapes.
    parameters : int
        Elements of floating-point tensors, and of those of eight bits or fewer: quantised weights.
    size_bytes : int
        Bytes of all tensors plus what the file holds besides them.  An estimate until the file is written.
    latency_s : float or None
        Predicted seconds of one run; None where nothing predicts them.
    """

    macs: int
    parameters: int
    size_bytes: int
    latency_s: float | None = None


@dataclass(frozen=True)
class _Term:
    """A number that shrinks with the kept share of each of its axes."""

    amount: int
    axes: tuple[Labels, ...]
    operands: tuple[Labels, ...] = ()

    def under(self, is_kept: BoolArray) -> int:
        share = self.amount
        for classes in self.axes:
            share = share * int(is_kept[classes].sum()) // len(classes)
        if self.operands:
            kept = _all_of([is_kept[classes] for classes in self.operands])
            share = share * int(kept.sum()) // kept.size
        return share


def _all_of(masks: list[BoolArray]) -> BoolArray:
    """Positions that all of several masks, broadcast against each other, keep."""
    result = masks[0]
    for mask in masks[1:]:
        result = result & mask
    return result


@dataclass(frozen=True)
class _Stored:
    """A stored tensor: one shape per way it is used; uses that lose the same share one copy."""

    variants: tuple[_Term, ...]
    has_whole_use: bool
    item_bytes: float
    is_parameter: bool

    @property
    def classes(self) -> tuple[Labels, ...]:
        """Classes along every axis of every variant."""
        return tuple(classes for term in self.variants for classes in term.axes)

    def bytes(self, is_kept: BoolArray) -> float:
        """Bytes of all copies together."""
        return self.elements(is_kept) * self.item_bytes

    def elements(self, is_kept: BoolArray) -> int:
        """Elements of all copies together."""
        copies = {tuple(is_kept[classes].tobytes() for classes in term.axes): term for term in self.variants}
        sizes = [(term.under(is_kept), term.amount) for term in copies.values()]
        cut = sum(size for size, amount in sizes if size < amount)
        is_whole_kept = self.has_whole_use or any(size == amount for size, amount in sizes)
        return cut + (self.variants[0].amount if is_whole_kept else 0)


@dataclass(frozen=True)
class Part:
    """What one layer or stored tensor adds to a quantity, and the arrays of classes it depends on."""

    classes: tuple[Labels, ...]
    under: Callable[[BoolArray], float]


class CostModel:
    """Cost of a graph as a function of the kept classes.

    Parameters
    ----------
    analysis : Analysis
    overhead_bytes : int
        Bytes of the file that are not tensors.
    """

    def __init__(self, analysis: Analysis, overhead_bytes: int = 0) -> None:
        self._macs = _work_terms(analysis)
        self._tensors = _stored_tensors(analysis)
        self._overhead = overhead_bytes
        self._timed: Sequence[Part] = ()
        self._all = np.ones(analysis.n_classes + 1, bool)

    def plus_overhead(self, extra_bytes: int) -> CostModel:
        """The same model of cost with other bytes beside the tensors."""
        other = copy.copy(self)
        other._overhead = self._overhead + extra_bytes
        return other

    def with_latency(self, parts: Sequence[Part]) -> CostModel:
        """The same model of cost, with parts that add up to seconds."""
        other = copy.copy(self)
        other._timed = parts
        return other

    def of(self, is_kept: BoolArray) -> Cost:
        """Cost when the classes with ``is_kept`` false are gone."""
        elements = [(tensor.elements(is_kept), tensor) for tensor in self._tensors]
        return Cost(
            macs=sum(term.under(is_kept) for term in self._macs),
            parameters=sum(count for count, tensor in elements if tensor.is_parameter),
            size_bytes=self._overhead + round(sum(count * tensor.item_bytes for count, tensor in elements)),
            latency_s=sum(part.under(is_kept) for part in self._timed) if self._timed else None,
        )

    def quantity(self, name: str, is_kept: BoolArray) -> float:
        """One attribute of :class:`Cost`; MACs alone are quickly counted."""
        if name == "macs":
            return sum(term.under(is_kept) for term in self._macs)
        return float(getattr(self.of(is_kept), name))

    def parts(self, name: str) -> list[Part]:
        """Parts that add up to one attribute of :class:`Cost`, bytes up to rounding."""
        if name == "macs":
            return [Part((*term.axes, *term.operands), term.under) for term in self._macs]
        if name == "parameters":
            return [Part(tensor.classes, tensor.elements) for tensor in self._tensors if tensor.is_parameter]
        if name == "latency_s":
            return list(self._timed)
        return [Part((), lambda is_kept: self._overhead), *(Part(tensor.classes, tensor.bytes) for tensor in self._tensors)]

    def dense(self) -> Cost:
        """Cost of the graph as it is."""
        return self.of(self._all)


def weight_axes(analysis: Analysis) -> dict[tuple[object, int], dict[int, Labels]]:
    """Labels along the attached axes of every constant, by node and index of the input that reads it."""
    axes: dict[tuple[object, int], dict[int, Labels]] = defaultdict(dict)
    for attachment in analysis.flow.attachments:
        axes[(attachment.node, attachment.input_index)][attachment.axis] = analysis.classes[attachment.labels]
    for use, inputs in analysis.regroupings():
        axes[(use.node, use.input_index)][1] = inputs.reshape(-1)
    return axes


def _work_terms(analysis: Analysis) -> list[_Term]:
    axes = weight_axes(analysis)
    return [
        _Term(
            work.macs,
            () if work.weight_index is None else tuple(axes[(work.node, work.weight_index)].values()),
            tuple(analysis.classes[labels] for labels in work.operands),
        )
        for work in analysis.flow.work
    ]


def _stored_tensors(analysis: Analysis) -> list[_Stored]:
    by_use: dict[Use, dict[int, Labels]] = defaultdict(dict)
    for cut in analysis.cuts:
        earlier = by_use[cut.use].get(cut.axis, cut.classes)  # readers behind one edge may each see a part of the axis
        by_use[cut.use][cut.axis] = np.where(earlier == UNTOUCHED, cut.classes, earlier)
    for use, inputs in analysis.regroupings():
        by_use[use][1] = inputs.reshape(-1)
    axes_of: dict[ir.Value, list[tuple[Labels, ...]]] = defaultdict(list)
    for use, cuts in by_use.items():
        axes_of[use.tensor].append(tuple(cuts[axis] for axis in sorted(cuts)))
    fills = [cut.use.tensor for cut in analysis.cuts if is_fill(cut.use.tensor)]
    stored = []
    for value in dict.fromkeys([*stored_tensors(analysis.model), *fills]):
        fact = analysis.shadow[value]
        if fact.shape is None or fact.dtype is None:
            continue
        tensor = shrinkc_ir.constant_tensor(value)
        item_bytes = 0.0 if tensor is None or not tensor.size else tensor.nbytes / tensor.size
        uses = axes_of.get(value, [])
        variants = tuple(_Term(math.prod(fact.shape), axes) for axes in uses) or (_Term(math.prod(fact.shape), ()),)
        readers = [usage for usage in value.uses() if usage.node.op_type not in ("Shape", "Size")]
        has_whole_use = len(readers) > len(uses) or value.is_graph_output()
        stored.append(_Stored(variants, has_whole_use, item_bytes, _holds_parameters(fact.dtype)))
    return stored


def _holds_parameters(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point() or dtype in QUANTIZED
