"""Layer after layer through the cut network: what every one reads there now, against what it gave in the original.

Inputs come from the network as repaired so far, targets from the original, so errors do not add up on the way (He, Zhang,
Sun. Channel Pruning. ICCV 2017, section 3.2; METHODS: asymmetric refit).  Where a layer's output is added to a value that is
there already, a shortcut, the target also makes up for that value's error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc.api import Fit, Layer, Repair, Repaired, RepairedLayer
from shrinkc.evidence.block_descent import fit_in_blocks
from shrinkc.evidence.blocks import is_wide, note_on
from shrinkc.evidence.coupling import couple
from shrinkc.evidence.endings import Ending, ending_of
from shrinkc.evidence.matching import Channels, kept_channels
from shrinkc.evidence.moments import CrossMomentsOf
from shrinkc.evidence.patches import Positions, columns, n_positions, rows
from shrinkc.evidence.products import Product, Products, products_of
from shrinkc.evidence.regression import relative_error
from shrinkc.evidence.rows import Rows, joined
from shrinkc.evidence.sampling import Sampling, sampling_to_fit, sampling_to_hold
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.walking import Walk
from shrinkc.shapes import Shadow

Array = NDArray[Any]

Change = tuple[list[str], RepairedLayer]
"""Names of the tensors that changed, and the error of what they make."""

LEFT_ALONE = (
    "Dims removed inside heads were not made up for in products neither side of which is the moved output of a layer with a "
    "weight and bias of its own: {}."
)


IN_BLOCKS = "were refitted one block of channels after the other"

Fitter = Callable[[Site, Iterator[Rows], int], tuple[Fit, RepairedLayer]]
"""Fits one layer to its rows, of so many batches."""


def fit_layers(repair: Repair, fit: Callable[[Layer], Fit]) -> Repaired:
    """Fit every layer whose inputs are not what they were to what it gave in the original, in the order of the graph."""
    work = _InTheCutNetwork(repair)
    return _repaired(work, [_fit_site(work, site, _by_moments(fit)) for site in work.sites])


def fit_network(repair: Repair, fit: Callable[[Layer], Fit]) -> Repaired:
    """Fit every layer as :func:`fit_layers` does, and couple what is left of queries and keys on the way."""
    return _fit_network(_InTheCutNetwork(repair), _by_moments(fit))


def fit_rows(repair: Repair, fit: Callable[[Layer, Rows], Fit]) -> Repaired:
    """Like :func:`fit_network`, for methods that look at single rows: those of one layer are in memory all at once."""

    def fitted(site: Site, batches: Iterator[Rows], count: int) -> tuple[Fit, RepairedLayer]:
        every = joined(batches, count)
        if is_wide(site.columns):
            return fit_in_blocks(site, every, fit)
        layer = _summed_up(site, every.parts())
        return _judged(layer, fit(layer, every))

    return _fit_network(_InTheCutNetwork(repair, sampling_to_hold), fitted)


def fit_layers_apart(repair: Repair, fit: Callable[[Layer], Fit]) -> Repaired:
    """Fit every layer that lost inputs by itself, as if its other inputs were still what the original gave."""
    work = _InTheOriginal(repair)
    return _repaired(work, [_fit_site(work, site, _by_moments(fit)) for site in work.sites])


def _by_moments(fit: Callable[[Layer], Fit]) -> Fitter:
    def fitted(site: Site, batches: Iterator[Rows], count: int) -> tuple[Fit, RepairedLayer]:
        if is_wide(site.columns):
            return fit_in_blocks(site, joined(batches, count), lambda layer, rows: fit(layer))
        layer = _summed_up(site, batches)
        return _judged(layer, fit(layer))

    return fitted


def _summed_up(site: Site, batches: Iterable[Rows]) -> Layer:
    moments = CrossMomentsOf()
    for batch in batches:
        moments.add(batch.inputs, batch.targets)
    return Layer(site.name, site.matrix(), site.bias(), moments.result(), site.taps, site.intercept is not None)


def _judged(layer: Layer, fit: Fit) -> tuple[Fit, RepairedLayer]:
    before = relative_error(layer, layer.weight, layer.bias)
    return fit, RepairedLayer(layer.name, before, relative_error(layer, fit.weight, fit.bias))


def _fit_network(work: _InTheCutNetwork, fitted: Fitter) -> Repaired:
    products = work.products()
    steps: list[Site | Product] = sorted([*work.sites, *products.foldable], key=lambda step: work.place(step.name))
    changes = [work.couple(step) if isinstance(step, Product) else _fit_site(work, step, fitted) for step in steps]
    result = _repaired(work, changes)
    notes = (LEFT_ALONE.format(", ".join(products.left_alone)),) if products.left_alone else ()
    return replace(result, notes=(*result.notes, *notes))


def _fit_site(work: _Fitting, site: Site, fitted: Fitter) -> Change | None:
    batches = work.rows(site)
    change = None if batches is None else _improve(site, *fitted(site, batches, work.n_batches))
    work.leave(site)
    return change


def _repaired(work: _Fitting, changes: Iterable[Change | None]) -> Repaired:
    made = [change for change in changes if change is not None]
    tensors = dict.fromkeys(name for names, _ in made for name in names)
    layers = tuple(report for _, report in made)
    wide = {site.name for site in work.sites if is_wide(site.columns)} & {layer.name for layer in layers}
    return Repaired(tuple(tensors), layers, note_on(IN_BLOCKS, sorted(wide)))


def _improve(site: Site, fit: Fit, report: RepairedLayer) -> Change:
    if not np.isfinite(report.error_after):
        return [], replace(report, error_after=report.error_before)
    return site.write(fit.weight, fit.bias), report


class _Fitting(ABC):
    """The walk through the original, and what one layer needs of it."""

    def __init__(self, repair: Repair, sampling: Callable[[Site, int, int], Sampling] = sampling_to_fit) -> None:
        self._repair, self._sampling = repair, sampling
        original = repair.analysis.model
        self._shadow = Shadow.of(repair.pruned, repair.shapes)
        self._dense_sites = {site.name: site for site in sites_of(original, repair.analysis.shadow)}
        found = sites_of(repair.pruned, self._shadow)
        self.sites = [site for site in found if site.name in self._dense_sites]
        needed = [name for site in self.sites for name in (site.name, self._data_name(site))]
        self._dense = Walk(original, repair.batches, repair.runtime, needed)
        self._samples = sum(len(next(iter(batch.values()))) for batch in repair.batches)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return self._dense.n_batches

    @abstractmethod
    def rows(self, site: Site) -> Iterator[Rows] | None:
        """Rows of one layer, batch by batch; None if it needs no repair."""

    def leave(self, site: Site) -> None:
        """Forget what only this layer needed."""
        self._dense.release(site.name)
        self._dense.release(self._data_name(site))

    def _data_name(self, site: Site) -> str:
        """What the layer reads in the original."""
        return self._dense_sites[site.name].data.name or ""

    def _positions(self, site: Site, number: int, data: Array) -> Positions | None:
        """Output positions of one batch that are looked at."""
        choose = sampling_to_hold if is_wide(site.columns) else self._sampling
        sampling = choose(site, self._samples, self._repair.seed)
        return sampling.positions(site, number, n_positions(site, data), len(data))

    def _kept(self, value: ir.Value, axis: int) -> Channels | None:
        return kept_channels(self._repair.analysis, self._repair.is_kept, value, axis)


class _InTheOriginal(_Fitting):
    """Inputs are the original's, without what is gone."""

    def rows(self, site: Site) -> Iterator[Rows] | None:
        original = self._dense_sites[site.name]
        inputs = self._kept(original.data, original.channel_axis)
        outputs = self._kept(original.output, original.channel_axis)
        there = self._dense.place(site.name)
        if there is None or inputs is None or outputs is None or len(inputs) == original.inputs:
            return None
        self._dense.advance(there + 1)
        return (self._batch(site, original, number, inputs, outputs) for number in range(self._dense.n_batches))

    def _batch(self, site: Site, original: Site, number: int, inputs: Channels, outputs: Channels) -> Rows:
        axis = original.channel_axis
        data = np.take(self._dense.value(original.data.name or "", number), inputs, axis=axis)
        target = np.take(self._dense.value(original.name, number), outputs, axis=axis)
        positions = self._positions(site, number, data)
        return Rows(columns(site, data, positions), rows(site, target, positions))


class _InTheCutNetwork(_Fitting):
    """Inputs are those of the cut network as repaired so far."""

    def __init__(self, repair: Repair, sampling: Callable[[Site, int, int], Sampling] = sampling_to_fit) -> None:
        super().__init__(repair, sampling)
        self._pruned = Walk(repair.pruned, repair.batches, repair.runtime)

    def place(self, name: str) -> int:
        """Position in the cut network of the node that makes a value."""
        place = self._pruned.place(name)
        return -1 if place is None else place

    def products(self) -> Products:
        """Products of two computed matrices that lost some of the dims they sum over."""
        sites = {site.name: site for site in sites_of(self._repair.pruned, self._shadow)}
        return products_of(self._repair.pruned, self._shadow, sites, self._repair.analysis, self._repair.is_kept)

    def couple(self, product: Product) -> Change | None:
        """Bring a product near to what it was."""
        here, there = self._pruned.place(product.name), self._dense.place(product.name)
        if here is None or there is None:
            return None
        self._pruned.advance(here)
        self._dense.advance(there)
        return couple(product, self._dense, self._pruned)

    def rows(self, site: Site) -> Iterator[Rows] | None:
        original = self._dense_sites[site.name]
        here, there = self._pruned.place(site.name), self._dense.place(site.name)
        if here is None or there is None:
            return None
        self._pruned.advance(here)
        self._dense.advance(there + 1)
        outputs = self._kept(original.output, original.channel_axis)
        if outputs is None or not self._is_disturbed(site, original):
            return None
        ending = ending_of(site, self._shadow)
        if ending.other is not None and not (self._pruned.has(ending.other) and self._dense.has(ending.other)):
            ending = Ending(np.ones(site.outputs), np.zeros(site.outputs))  # the shortcut comes later, and makes up for it
        return (self._batch(site, number, outputs, ending) for number in range(self._pruned.n_batches))

    def _batch(self, site: Site, number: int, outputs: Channels, ending: Ending) -> Rows:
        data = self._pruned.value(site.data.name or "", number)
        target = np.take(self._dense.value(site.name, number), outputs, axis=site.channel_axis)
        positions = self._positions(site, number, data)
        other = self._shortcut(ending, number, target, outputs, site.channel_axis)
        if other is not None:
            now, then = other
            along = [1] * target.ndim
            along[site.channel_axis] = site.outputs
            target = target + ((then - now) * ending.inverse_gain.reshape(along)).astype(target.dtype)
        below, above = None, None
        if ending.is_rectified and (ending.other is None or other is not None):
            edges = ending.cuts(0.0 if other is None else other[0], site.channel_axis, target.ndim)
            below, above = (rows(site, np.broadcast_to(edge, target.shape), positions) for edge in edges)
        return Rows(columns(site, data, positions), rows(site, target, positions), below, above)

    def _shortcut(self, ending: Ending, number: int, target: Array, outputs: Channels, axis: int) -> tuple[Array, Array] | None:
        """What is added to a layer's output now, and what was added in the original; None if nothing of its shape is."""
        if ending.other is None:
            return None
        now, then = self._pruned.value(ending.other, number), self._dense.value(ending.other, number)
        return (now, np.take(then, outputs, axis=axis)) if now.shape == target.shape else None

    def _is_disturbed(self, site: Site, original: Site) -> bool:
        before, after = self._dense.value(original.data.name or "", 0), self._pruned.value(site.data.name or "", 0)
        if before.shape != after.shape:
            return True
        return not np.allclose(before, after, rtol=1e-4, atol=1e-5 * float(np.abs(before).max(initial=0)))
