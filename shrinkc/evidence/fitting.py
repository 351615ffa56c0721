"""Layer after layer through the cut network: what every one reads there now, against what it gave in the original.

Inputs come from the network as repaired so far, targets from the original, so errors do not add up on the way (He, Zhang,
Sun. Channel Pruning. ICCV 2017, section 3.2; METHODS: asymmetric refit).  Where a layer's output is added to a value that is
there already, a shortcut, the target also makes up for that value's error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.api import Fit, FloatArray, Layer, Repair, Repaired, RepairedLayer
from shrinkc.evidence.coupling import couple
from shrinkc.evidence.gathering import LARGEST_GRAM, sampling_for
from shrinkc.evidence.matching import Channels, kept_channels
from shrinkc.evidence.moments import CrossMomentsOf
from shrinkc.evidence.patches import columns, n_positions, rows
from shrinkc.evidence.products import Product, Products, products_of
from shrinkc.evidence.regression import relative_error
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.walking import Walk
from shrinkc.shapes import Shadow

Array = NDArray[Any]

SMALLEST_GAIN = 1e-3
"""Share of the largest gain below which a layer cannot make up for a shortcut's error."""


Change = tuple[list[str], RepairedLayer]
"""Names of the tensors that changed, and the error of what they make."""

LEFT_ALONE = (
    "Dims removed inside heads were not made up for in products neither side of which is the moved output of a layer with a "
    "weight and bias of its own: {}."
)


def fit_layers(repair: Repair, fit: Callable[[Layer], Fit]) -> Repaired:
    """Fit every layer whose inputs are not what they were to what it gave in the original, in the order of the graph."""
    work = _InTheCutNetwork(repair)
    return _repaired([_fit_site(work, site, fit) for site in work.sites])


def fit_network(repair: Repair, fit: Callable[[Layer], Fit]) -> Repaired:
    """Fit every layer as :func:`fit_layers` does, and couple what is left of queries and keys on the way."""
    work = _InTheCutNetwork(repair)
    products = work.products()
    steps: list[Site | Product] = sorted([*work.sites, *products.foldable], key=lambda step: work.place(step.name))
    changes = [work.couple(step) if isinstance(step, Product) else _fit_site(work, step, fit) for step in steps]
    notes = (LEFT_ALONE.format(", ".join(products.left_alone)),) if products.left_alone else ()
    return replace(_repaired(changes), notes=notes)


def fit_layers_apart(repair: Repair, fit: Callable[[Layer], Fit]) -> Repaired:
    """Fit every layer that lost inputs by itself, as if its other inputs were still what the original gave."""
    work = _InTheOriginal(repair)
    return _repaired([_fit_site(work, site, fit) for site in work.sites])


def _fit_site(work: _Fitting, site: Site, fit: Callable[[Layer], Fit]) -> Change | None:
    layer = work.layer(site)
    change = None if layer is None else _improve(site, layer, fit(layer))
    work.leave(site)
    return change


def _repaired(changes: Iterable[Change | None]) -> Repaired:
    made = [change for change in changes if change is not None]
    tensors = dict.fromkeys(name for names, _ in made for name in names)
    return Repaired(tuple(tensors), tuple(report for _, report in made))


def _improve(site: Site, layer: Layer, fit: Fit) -> Change:
    before = relative_error(layer, layer.weight, layer.bias)
    after = relative_error(layer, fit.weight, fit.bias)
    if not np.isfinite(after):
        return [], RepairedLayer(layer.name, before, before)
    return site.write(fit.weight, fit.bias), RepairedLayer(layer.name, before, after)


@dataclass(frozen=True)
class _Shortcut:
    """A value that a layer's output is added to, and the gain between the two."""

    other: str
    gain: FloatArray


class _Fitting(ABC):
    """The walk through the original, and what one layer needs of it."""

    def __init__(self, repair: Repair) -> None:
        self._repair = repair
        original = repair.analysis.model
        self._shadow = Shadow.of(repair.pruned, repair.shapes)
        self._dense_sites = {site.name: site for site in sites_of(original, repair.analysis.shadow)}
        found = sites_of(repair.pruned, self._shadow)
        self.sites = [site for site in found if site.name in self._dense_sites and _fits_memory(site)]
        needed = [name for site in self.sites for name in (site.name, self._data_name(site))]
        self._dense = Walk(original, repair.batches, repair.runtime, needed)
        self._samples = sum(len(next(iter(batch.values()))) for batch in repair.batches)

    @abstractmethod
    def layer(self, site: Site) -> Layer | None:
        """Moments of one layer; None if it needs no repair."""

    def leave(self, site: Site) -> None:
        """Forget what only this layer needed."""
        self._dense.release(site.name)
        self._dense.release(self._data_name(site))

    def _data_name(self, site: Site) -> str:
        """What the layer reads in the original."""
        return self._dense_sites[site.name].data.name or ""

    def _summed_up(self, site: Site, given: Iterable[tuple[Array, Array]]) -> Layer:
        """The layer with the moments of inputs and targets, given batch by batch."""
        moments, sampling = CrossMomentsOf(), sampling_for(site, self._samples, self._repair.seed)
        for number, (data, target) in enumerate(given):
            positions = sampling.positions(site, number, n_positions(site, data), len(data))
            moments.add(columns(site, data, positions), rows(site, target, positions))
        return Layer(site.name, site.matrix(), site.bias(), moments.result(), site.taps, site.intercept is not None)

    def _kept(self, value: ir.Value, axis: int) -> Channels | None:
        return kept_channels(self._repair.analysis, self._repair.is_kept, value, axis)


class _InTheOriginal(_Fitting):
    """Inputs are the original's, without what is gone."""

    def layer(self, site: Site) -> Layer | None:
        original = self._dense_sites[site.name]
        inputs = self._kept(original.data, original.channel_axis)
        outputs = self._kept(original.output, original.channel_axis)
        there = self._dense.place(site.name)
        if there is None or inputs is None or outputs is None or len(inputs) == original.inputs:
            return None
        self._dense.advance(there + 1)
        return self._summed_up(site, self._given(original, inputs, outputs))

    def _given(self, original: Site, inputs: Channels, outputs: Channels) -> Iterator[tuple[Array, Array]]:
        axis = original.channel_axis
        for number in range(self._dense.n_batches):
            data = np.take(self._dense.value(original.data.name or "", number), inputs, axis=axis)
            yield data, np.take(self._dense.value(original.name, number), outputs, axis=axis)


class _InTheCutNetwork(_Fitting):
    """Inputs are those of the cut network as repaired so far."""

    def __init__(self, repair: Repair) -> None:
        super().__init__(repair)
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

    def layer(self, site: Site) -> Layer | None:
        original = self._dense_sites[site.name]
        here, there = self._pruned.place(site.name), self._dense.place(site.name)
        if here is None or there is None:
            return None
        self._pruned.advance(here)
        self._dense.advance(there + 1)
        outputs = self._kept(original.output, original.channel_axis)
        if outputs is None or not self._is_disturbed(site, original):
            return None
        return self._summed_up(site, self._given(site, outputs))

    def _given(self, site: Site, outputs: Channels) -> Iterator[tuple[Array, Array]]:
        shortcut = _shortcut(site, self._shadow)
        for number in range(self._pruned.n_batches):
            target = np.take(self._dense.value(site.name, number), outputs, axis=site.channel_axis)
            if shortcut is not None and self._pruned.has(shortcut.other) and self._dense.has(shortcut.other):
                target = target + self._lost(shortcut, site, number, outputs, target.shape)
            yield self._pruned.value(site.data.name or "", number), target

    def _lost(self, shortcut: _Shortcut, site: Site, number: int, outputs: Channels, shape: tuple[int, ...]) -> Array | float:
        """What the layer has to add so that its sum with the shortcut is the original's."""
        dense, pruned = self._dense.value(shortcut.other, number), self._pruned.value(shortcut.other, number)
        if pruned.shape != shape:
            return 0.0
        difference = np.take(dense, outputs, axis=site.channel_axis) - pruned
        along = [1] * difference.ndim
        along[site.channel_axis] = len(shortcut.gain)
        scaled: Array = difference * (1 / shortcut.gain).astype(difference.dtype).reshape(along)
        return scaled

    def _is_disturbed(self, site: Site, original: Site) -> bool:
        before, after = self._dense.value(original.data.name or "", 0), self._pruned.value(site.data.name or "", 0)
        if before.shape != after.shape:
            return True
        return not np.allclose(before, after, rtol=1e-4, atol=1e-5 * float(np.abs(before).max(initial=0)))


def _fits_memory(site: Site) -> bool:
    return site.inputs // site.groups * site.taps <= LARGEST_GRAM


def _shortcut(site: Site, shadow: Shadow) -> _Shortcut | None:
    """The other operand of the addition that a layer's output ends in, through scales and shifts at most."""
    value, gain = site.output, np.ones(site.outputs)
    while len(users := list(value.uses())) == 1 and not value.is_graph_output():
        node, index = users[0].node, users[0].idx
        if node.op_type == "Add":
            other = node.inputs[1 - index]
            if other is not None and not shadow[other].is_static:
                return _Shortcut(other.name or "", gain) if _is_usable(gain) else None
        factor = _gain(node, index, site, shadow)
        if factor is None:
            return None
        value, gain = node.outputs[0], gain * factor
    return None


def _is_usable(gain: FloatArray) -> bool:
    sizes = np.abs(gain)
    return bool(sizes.min() > SMALLEST_GAIN * sizes.max())


def _gain(node: ir.Node, index: int, site: Site, shadow: Shadow) -> FloatArray | None:
    """What a node multiplies a layer's output by, per channel; None if it does more than scale and shift it."""
    if node.op_type in ("Identity", "Dropout", "Add", "Cast"):
        return np.ones(site.outputs)
    if node.op_type == "BatchNormalization" and index == 0:
        scale, variance = node.inputs[1], node.inputs[4]
        if scale is None or variance is None or None in map(shrinkc_ir.constant_tensor, (scale, variance)):
            return None
        epsilon = node.attributes.get("epsilon")
        spread = shrinkc_ir.stored_array(variance).astype(np.float64) + (1e-5 if epsilon is None else epsilon.as_float())
        factor: FloatArray = shrinkc_ir.stored_array(scale) / np.sqrt(spread)
        return factor
    if node.op_type == "Mul":
        other = node.inputs[1 - index]
        if other is not None and shrinkc_ir.constant_tensor(other) is not None:
            stored = shrinkc_ir.stored_array(other).astype(np.float64)
            return np.broadcast_to(stored.reshape(-1), (site.outputs,)) if stored.size in (1, site.outputs) else None
    return None
