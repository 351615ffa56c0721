"""Merging of parallel units: what a removed unit gave, a unit that stays and gives a multiple of it takes over.

If a removed unit's incoming weights and bias are ``c > 0`` times those of one that stays, so is its output, and
``W[:, kept] += c W[:, removed]`` in the layers that read both makes up for it exactly (the exact counterpart of pruning by
spline boundaries: You, Balestriero, Lu, Kou, Shi, Zhang, Wu, Lin, Baraniuk. Max-Affine Spline Insights Into Deep Network
Pruning. TMLR 2022).  Nearly parallel units are merged too, down to a cosine.  Needs no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from shrinkc.api import FloatArray, Repair, Repaired
from shrinkc.evidence.matching import Channels, kept_channels
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.units import Units, units_of
from shrinkc.shapes import Shadow

MERGED = "{} inputs of layers that removed units fed were taken over by parallel units (cosine {:g} or more)."


@dataclass(frozen=True)
class Merge:
    """See the module.

    Attributes
    ----------
    least_cosine : float
        Between the numbers of two units that are merged.
    """

    least_cosine: float = 0.99

    name = "merge"
    needs_data = False

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        analysis = repair.analysis
        dense = {site.name: site for site in sites_of(analysis.model, analysis.shadow)}
        tensors, merged = [], 0
        for site in sites_of(repair.pruned, Shadow.of(repair.pruned, repair.shapes)):
            original = dense.get(site.name)
            if original is None or original.is_depthwise or site.groups != original.groups:
                continue
            reading = _reading(site, original, dense, repair)
            pairs = [] if reading is None else list(reading.pairs(self.least_cosine))
            if reading is not None and pairs:
                tensors += site.write(reading.merged(pairs), site.bias())
                merged += len(pairs)
        return Repaired(tuple(dict.fromkeys(tensors)), notes=(MERGED.format(merged, self.least_cosine),))


@dataclass(frozen=True)
class _Pair:
    """Two inputs of a layer: the removed one is ``factor`` times the kept one."""

    removed: int
    kept: int
    factor: float


@dataclass(frozen=True, eq=False)
class _Reading:
    """A layer, cut and original, and the units behind its inputs."""

    site: Site
    original: Site
    inputs: Channels
    outputs: Channels
    units: Units

    def pairs(self, least_cosine: float) -> Iterator[_Pair]:
        """Every removed input that an input of the same group of the layer can stand for."""
        of_channel, per_group = self.units.of_channel, self.original.inputs // self.original.groups
        for removed in np.setdiff1d(np.arange(self.original.inputs), self.inputs).tolist():
            near = self.inputs[self.inputs // per_group == removed // per_group]
            # An input of a layer behind a Flatten is one position of a unit: only the same position can stand for it.
            near = near[_place(of_channel)[near] == _place(of_channel)[removed]]
            pair = _nearest(self.units, removed, near, least_cosine)
            if pair is not None:
                yield pair

    def merged(self, pairs: list[_Pair]) -> FloatArray:
        """The cut layer's weight with the removed inputs' columns added to those that stand for them."""
        groups, taps = self.site.groups, self.site.taps
        matrix = self.site.matrix()
        now = matrix.reshape(*matrix.shape[:2], -1, taps)
        was = (
            self.original.matrix()
            .reshape(self.original.outputs, -1, taps)[self.outputs]
            .reshape(groups, len(matrix[0]), -1, taps)
        )
        rank = {int(channel): place for place, channel in enumerate(self.inputs)}
        for pair in pairs:
            group, column = divmod(pair.removed, was.shape[2])
            now[group, :, rank[pair.kept] - group * now.shape[2]] += pair.factor * was[group, :, column]
        return now.reshape(matrix.shape)


def _reading(site: Site, original: Site, dense: Mapping[str, Site], repair: Repair) -> _Reading | None:
    analysis, axis = repair.analysis, original.channel_axis
    inputs, outputs = (kept_channels(analysis, repair.is_kept, value, axis) for value in (original.data, original.output))
    if inputs is None or outputs is None or len(inputs) == original.inputs:
        return None
    units = units_of(original.data, axis, dense, analysis.shadow)
    return None if units is None else _Reading(site, original, inputs, outputs, units)


def _place(of_channel: Channels) -> Channels:
    """How many channels of the same unit come before each."""
    order = np.argsort(of_channel, kind="stable")
    ordered = of_channel[order]
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return place


def _nearest(units: Units, removed: int, kept: Channels, least_cosine: float) -> _Pair | None:
    own = units.of_channel[removed]
    kept = kept[units.kind[units.of_channel[kept]] == units.kind[own]]
    vector, others = units.numbers[own], units.numbers[units.of_channel[kept]]
    energies = np.square(others).sum(1)
    products, sizes = others @ vector, np.sqrt(energies * np.square(vector).sum())
    cosines = np.divide(products, sizes, out=np.full(len(kept), -1.0), where=sizes > 0)
    if not len(kept) or cosines.max() < least_cosine:
        return None
    best = int(np.argmax(cosines))
    return _Pair(removed, int(kept[best]), float(products[best] / energies[best]))
