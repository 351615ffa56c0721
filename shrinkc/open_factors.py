"""Layers taken apart for a while: as two factors of full rank that components can be taken from, and put together again.

Opened, a layer is the chain that its form makes of it at full rank, which equals the layer.  Closed, it is the chain of the
components that are left where these cost less than the layer whole, else the one dense node again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.cost import Cost
from shrinkc.api import RuntimeAdapter
from shrinkc.canonicalize import drop_unused
from shrinkc.decomposing import scope_without
from shrinkc.evidence.data import Data, fixed_batch
from shrinkc.factor_proof import prove_equal
from shrinkc.factorable import Candidate, candidates_in
from shrinkc.factoring import factorise
from shrinkc.factors import Work
from shrinkc.inlining import inline_functions
from shrinkc.merging import merge_factors
from shrinkc.opening import counted_cost
from shrinkc.shapes import Shadow, input_shapes

Kept = NDArray[np.bool_]


@dataclass(frozen=True)
class OpenLayer:
    """A layer that lies open in a graph.

    Attributes
    ----------
    name : str
        Of its output.
    first, second : str
        Names of its factors, as stored.
    first_axis, second_axis : int
        Of the factors, that components lie along; in the first one, group by group.
    groups : int
    rank : int
        Components.
    whole : Work
        Of the layer whole.
    component : Work
        Of every component that is left.
    """

    name: str
    first: str
    second: str
    first_axis: int
    second_axis: int
    groups: int
    rank: int
    whole: Work
    component: Work

    def pays(self, rank: int) -> bool:
        """Whether so many components cost less than the layer whole."""
        return rank * self.component.macs < self.whole.macs and rank * self.component.parameters < self.whole.parameters

    def work(self, rank: int) -> Work:
        """Of the layer as it is closed with so many components."""
        return Work(rank * self.component.macs, rank * self.component.parameters) if self.pays(rank) else self.whole


def opened(
    model: ir.Model, shapes: Mapping[str, tuple[int, ...]], runtime: RuntimeAdapter, exclude: Sequence[str] = ()
) -> tuple[OpenLayer, ...]:
    """Open every layer that some rank of costs less, in place; the strongest component of each comes first.

    Parameters
    ----------
    model : ir.Model
    shapes : mapping of input name to shape
    runtime : RuntimeAdapter
    exclude : sequence of str
        Patterns of names of nodes and tensors that are left alone.
    """
    scope = scope_without(exclude)
    found = {
        candidate.name: candidate for candidate in candidates_in(model, Shadow.of(model, shapes), scope, [], runtime).candidates
    }
    chains = {name: candidate.chain(candidate.full_rank) for name, candidate in found.items()}
    added = factorise(model, [candidate.site for candidate in found.values()], chains)
    drop_unused(model)
    return tuple(_layer(name, candidate, *added[name]) for name, candidate in found.items())


def _layer(name: str, candidate: Candidate, first: str, second: str) -> OpenLayer:
    has_rows = candidate.site.windows is not None or not candidate.site.is_transposed
    return OpenLayer(
        name,
        first,
        second,
        first_axis=0 if has_rows else 1,
        second_axis=1 if has_rows else 0,
        groups=candidate.site.groups,
        rank=candidate.full_rank,
        whole=candidate.dense(),
        component=candidate.work(1),
    )


def closed(
    model: ir.Model, shapes: Mapping[str, tuple[int, ...]], layers: Sequence[OpenLayer], kept: Mapping[str, Kept]
) -> dict[str, int | None]:
    """Close layers in place; components that are not kept must be zero in one of the factors.

    Parameters
    ----------
    model : ir.Model
    shapes : mapping of input name to shape
    layers : sequence of OpenLayer
    kept : mapping of layer name to bool ndarray of shape (rank,)

    Returns
    -------
    dict of layer name to int or None
        Rank of the factors, None where the layer is whole again.
    """
    ranks = {layer.name: int(kept[layer.name].sum()) for layer in layers}
    merged = {layer.name for layer in layers if not layer.pays(ranks[layer.name])}
    for layer in layers:
        if layer.name not in merged:
            _cut(model, layer, kept[layer.name])
    merge_factors(model, Shadow.of(model, shapes), lambda pair: pair.second.name in merged)
    return {name: None if name in merged else rank for name, rank in ranks.items()}


def _cut(model: ir.Model, layer: OpenLayer, kept: Kept) -> None:
    """Take components out of both factors."""
    parts = ((layer.first, layer.first_axis, np.tile(kept, layer.groups)), (layer.second, layer.second_axis, kept))
    for name, axis, chosen in parts:
        value = model.graph.initializers[name]
        array = np.compress(chosen, shrinkc_ir.stored_array(value), axis)
        shrinkc_ir.replace_tensor(value, np.ascontiguousarray(array))


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A copy of a model with all layers open, and what the model was.

    Attributes
    ----------
    model : ir.Model
    shapes : mapping of input name to shape
        That costs are counted at: one sample, or the fixed batch.
    layers : tuple of OpenLayer
    before : Cost
        Of the model as it was.
    runtime : RuntimeAdapter
    """

    model: ir.Model
    shapes: dict[str, tuple[int, ...]]
    layers: tuple[OpenLayer, ...]
    before: Cost
    runtime: RuntimeAdapter

    @classmethod
    def of(cls, model: ir.Model, data: Data, runtime: RuntimeAdapter, exclude: Sequence[str] = ()) -> OpenModel:
        """Open a copy of a model, at the shapes of its data; see :func:`opened`."""
        copy = model.clone()
        inline_functions(copy)
        unit = fixed_batch(copy) or 1
        shapes = input_shapes(copy, {name: (unit, *array.shape[1:]) for name, array in data.inputs.items()})
        before = counted_cost(copy, shapes)
        return cls(copy, shapes, opened(copy, shapes, runtime, exclude), before, runtime)

    def close(self, model: ir.Model, kept: Mapping[str, Kept], seed: int = 0) -> tuple[dict[str, int | None], Cost]:
        """Close a model that was trained open, in place; see :func:`closed`.  What it costs then is counted anew.

        Raises
        ------
        VerificationError
            The model does not give what it gave open.
        """
        open_model = model.clone()
        ranks = closed(model, self.shapes, self.layers, kept)
        prove_equal(open_model, model, self.shapes, self.runtime, seed=seed)
        return ranks, counted_cost(model, self.shapes)
