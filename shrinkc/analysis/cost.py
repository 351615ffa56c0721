"""What a graph costs under a choice of kept channels: MACs, parameters and bytes, without building anything."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.constants import Use, is_fill
from shrinkc.analysis.groups import Analysis, BoolArray, stored_tensors
from shrinkc.analysis.labels import Labels


@dataclass(frozen=True)
class Cost:
    """Cost of one model.

    Attributes
    ----------
    macs : int
        Multiply-accumulates of convolutions and matrix products for one run at the analysed shapes.
    parameters : int
        Elements of floating-point tensors.
    size_bytes : int
        Bytes of all tensors plus what the file holds besides them.  An estimate until the file is written.
    """

    macs: int
    parameters: int
    size_bytes: int


@dataclass(frozen=True)
class _Term:
    """A number that shrinks with the kept share of each of its axes."""

    amount: int
    axes: tuple[Labels, ...]

    def under(self, is_kept: BoolArray) -> int:
        share = self.amount
        for classes in self.axes:
            share = share * int(is_kept[classes].sum()) // len(classes)
        return share


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
        self._tensors = _tensor_terms(analysis)
        self._overhead = overhead_bytes
        self._all = np.ones(analysis.n_classes + 1, bool)

    def of(self, is_kept: BoolArray) -> Cost:
        """Cost when the classes with ``is_kept`` false are gone."""
        elements = [(term.under(is_kept), item_bytes, counts) for term, item_bytes, counts in self._tensors]
        return Cost(
            macs=sum(term.under(is_kept) for term in self._macs),
            parameters=sum(count for count, _, is_parameter in elements if is_parameter),
            size_bytes=self._overhead + round(sum(count * item_bytes for count, item_bytes, _ in elements)),
        )

    def dense(self) -> Cost:
        """Cost of the graph as it is."""
        return self.of(self._all)


def _work_terms(analysis: Analysis) -> list[_Term]:
    axes: dict[tuple[object, int], dict[int, Labels]] = defaultdict(dict)
    for attachment in analysis.flow.attachments:
        axes[(attachment.node, attachment.input_index)][attachment.axis] = analysis.classes[attachment.labels]
    return [
        _Term(work.macs, () if work.weight_index is None else tuple(axes[(work.node, work.weight_index)].values()))
        for work in analysis.flow.work
    ]


def _tensor_terms(analysis: Analysis) -> list[tuple[_Term, float, bool]]:
    """(term, bytes per element, counts as parameters) for every stored tensor, copies of shared ones included."""
    by_use: dict[Use, dict[int, Labels]] = defaultdict(dict)
    for cut in analysis.cuts:
        by_use[cut.use][cut.axis] = cut.classes
    variants: dict[ir.Value, dict[object, tuple[Labels, ...]]] = defaultdict(dict)
    for use, cuts in by_use.items():
        signature = tuple((axis, classes.tobytes()) for axis, classes in sorted(cuts.items()))
        variants[use.tensor][signature] = tuple(cuts.values())
    fills = [cut.use.tensor for cut in analysis.cuts if is_fill(cut.use.tensor)]
    terms = []
    for value in dict.fromkeys([*stored_tensors(analysis.model), *fills]):
        fact = analysis.shadow[value]
        if fact.shape is None or fact.dtype is None:
            continue
        tensor = shrinkc_ir.constant_tensor(value)
        item_bytes = 0.0 if tensor is None or not tensor.size else tensor.nbytes / tensor.size
        for axes in variants.get(value, {None: ()}).values():
            terms.append((_Term(math.prod(fact.shape), axes), item_bytes, fact.dtype.is_floating_point()))
    return terms
