"""Layer after layer through the cut network: what every one reads there now, against what it gave in the original.

Inputs come from the network as repaired so far, targets from the original, so errors do not add up on the way (He, Zhang,
Sun. Channel Pruning. ICCV 2017, section 3.2; METHODS: asymmetric refit).  Where a layer's output is added to a value that is
there already, a shortcut, the target also makes up for that value's error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc.api import Fit, FloatArray, Layer, Repair, Repaired, RepairedLayer
from shrinkc.evidence.endings import Ending, ending_of
from shrinkc.evidence.gathering import LARGEST_GRAM, Sampling, sampling_for
from shrinkc.evidence.moments import CrossMomentsOf
from shrinkc.evidence.patches import columns, n_positions, rows
from shrinkc.evidence.regression import relative_error
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.walking import Walk
from shrinkc.shapes import Shadow

Array = NDArray[Any]


def fit_layers(repair: Repair, fit: Callable[[Layer], Fit]) -> Repaired:
    """Fit every layer whose inputs are not what they were to what it gave in the original, in the order of the graph."""

    def fitted(site: Site, batches: Iterator[Rows]) -> tuple[Layer, Fit]:
        moments = CrossMomentsOf()
        for batch in batches:
            moments.add(batch.inputs, batch.targets)
        layer = _layer(site, moments)
        return layer, fit(layer)

    return _fit_all(repair, fitted)


def fit_rows(repair: Repair, fit: Callable[[Layer, Rows], Fit]) -> Repaired:
    """The same, for methods that look at single rows: they are all in memory at once."""

    def fitted(site: Site, batches: Iterator[Rows]) -> tuple[Layer, Fit]:
        rows = _joined(list(batches))
        moments = CrossMomentsOf()
        moments.add(rows.inputs, rows.targets)
        layer = _layer(site, moments)
        return layer, fit(layer, rows)

    return _fit_all(repair, fitted)


def _layer(site: Site, moments: CrossMomentsOf) -> Layer:
    return Layer(site.name, site.matrix(), site.bias(), moments.result(), site.taps, site.intercept is not None)


def _fit_all(repair: Repair, fitted: Callable[[Site, Iterator[Rows]], tuple[Layer, Fit]]) -> Repaired:
    work = _Fitting(repair)
    layers, tensors = [], []
    for site in work.sites:
        batches = work.rows(site)
        if batches is not None:
            changed, report = _improve(site, *fitted(site, batches))
            tensors += changed
            layers.append(report)
        work.leave(site)
    return Repaired(tuple(dict.fromkeys(tensors)), tuple(layers))


@dataclass(frozen=True, eq=False)
class Rows:
    """What one layer reads and should give, row by row.

    Attributes
    ----------
    inputs : ndarray of shape (groups, rows, columns)
    targets : ndarray of shape (groups, rows, outputs)
    cut_below, cut_above : ndarray of shape (groups, rows, outputs) or None
        Outputs below (above) these are all the same to the network: a rectifier follows.
    """

    inputs: FloatArray
    targets: FloatArray
    cut_below: FloatArray | None = None
    cut_above: FloatArray | None = None


def _joined(parts: list[Rows]) -> Rows:
    def joined(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays, axis=1)

    return parts[0] if len(parts) == 1 else Rows(*(joined(field.name) for field in fields(Rows)))


def _improve(site: Site, layer: Layer, fit: Fit) -> tuple[list[str], RepairedLayer]:
    before = relative_error(layer, layer.weight, layer.bias)
    after = relative_error(layer, fit.weight, fit.bias)
    if not np.isfinite(after):
        return [], RepairedLayer(layer.name, before, before)
    return site.write(fit.weight, fit.bias), RepairedLayer(layer.name, before, after)


class _Fitting:
    """The two walks, and what one layer needs of them."""

    def __init__(self, repair: Repair) -> None:
        self._repair = repair
        original = repair.analysis.model
        shadow = Shadow.of(repair.pruned, repair.shapes)
        dense = {site.name: site for site in sites_of(original, repair.analysis.shadow)}
        self._dense_sites = dense
        self.sites = [site for site in sites_of(repair.pruned, shadow) if site.name in dense and _fits_memory(site)]
        needed = [name for site in self.sites for name in (site.name, dense[site.name].data.name or "")]
        self._dense = Walk(original, repair.batches, repair.runtime, needed)
        self._pruned = Walk(repair.pruned, repair.batches, repair.runtime)
        self._shadow = shadow
        self._samples = sum(len(next(iter(batch.values()))) for batch in repair.batches)

    def rows(self, site: Site) -> Iterator[Rows] | None:
        """Rows of one layer in the cut network, batch by batch; None if it reads what it always read."""
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
            ending = Ending(
                np.ones(site.outputs), np.zeros(site.outputs)
            )  # the shortcut comes later, and makes up for this layer
        sampling = sampling_for(site, self._samples, self._repair.seed)
        return (self._batch(site, number, sampling, outputs, ending) for number in range(self._pruned.n_batches))

    def leave(self, site: Site) -> None:
        """Forget what only this layer needed."""
        self._dense.release(site.name)
        self._dense.release(self._dense_sites[site.name].data.name or "")

    def _batch(self, site: Site, number: int, sampling: Sampling, outputs: NDArray[np.int64], ending: Ending) -> Rows:
        data = self._pruned.value(site.data.name or "", number)
        target = np.take(self._dense.value(site.name, number), outputs, axis=site.channel_axis)
        positions = sampling.positions(site, number, n_positions(site, data), len(data))
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

    def _shortcut(
        self, ending: Ending, number: int, target: Array, outputs: NDArray[np.int64], axis: int
    ) -> tuple[Array, Array] | None:
        """What is added to a layer's output now, and what was added in the original; None if nothing of its shape is."""
        if ending.other is None:
            return None
        now, then = self._pruned.value(ending.other, number), self._dense.value(ending.other, number)
        if now.shape != target.shape:
            return None
        return now, np.take(then, outputs, axis=axis)

    def _kept(self, value: ir.Value, axis: int) -> NDArray[np.int64] | None:
        """Channels of an original value that are left."""
        classes, shape = self._repair.analysis.classes_of(value), self._repair.analysis.shadow.shape(value)
        if classes is None or shape is None:
            return None
        kept = np.moveaxis(np.broadcast_to(self._repair.is_kept[classes], shape), axis, -1).reshape(-1, shape[axis])
        return np.flatnonzero(kept[0]) if (kept == kept[0]).all() else None

    def _is_disturbed(self, site: Site, original: Site) -> bool:
        before, after = self._dense.value(original.data.name or "", 0), self._pruned.value(site.data.name or "", 0)
        if before.shape != after.shape:
            return True
        return not np.allclose(before, after, rtol=1e-4, atol=1e-5 * float(np.abs(before).max(initial=0)))


def _fits_memory(site: Site) -> bool:
    return site.inputs // site.groups * site.taps <= LARGEST_GRAM
