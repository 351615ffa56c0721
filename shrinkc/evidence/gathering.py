"""One pass over the data: moments of the inputs of every layer that reads channels which could go."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkc.analysis.groups import Analysis
from shrinkc.analysis.labels import Labels
from shrinkc.api import Activity, Consumer, Evidence, FloatArray, Group, Moments, RuntimeAdapter
from shrinkc.evidence.data import Data
from shrinkc.evidence.moments import MomentsOf
from shrinkc.evidence.patches import Positions, columns, n_positions
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.walking import Walk

Array = NDArray[Any]

ROWS, ROWS_PER_COLUMN = 8192, 16
"""Rows beyond the larger of the two numbers are sampled: they cost time and change nothing that can be seen."""

COLUMNS_IN_SINGLE = 1024
"""Second moments of more columns are kept in float32 once they are summed."""

LOOK_AHEAD_BYTES = 192 << 20
"""Values that may wait to be looked at, so that the graph is run in few stretches."""

LARGEST_GRAM = 6144
"""Layers with more columns get no second moments: three hundred megabytes each, in double precision."""


@dataclass(frozen=True)
class Sampling:
    """Which output positions of a layer are looked at.

    ``per_sample`` is how many of one sample, None for all of them.
    """

    seed: int
    per_sample: int | None

    def positions(self, site: Site, batch: int, available: int, samples: int) -> Positions | None:
        """Flat positions for one batch, None for all; the same for every run with one seed."""
        wanted = None if self.per_sample is None else self.per_sample * (1 if site.windows is not None else samples)
        if wanted is None or wanted >= available:
            return None
        generator = np.random.default_rng([self.seed, batch, zlib.crc32(site.name.encode())])
        return np.sort(generator.choice(available, wanted, replace=False))


def sampling_for(site: Site, samples: int, seed: int) -> Sampling:
    """Sampling that keeps enough rows for the columns of a layer."""
    columns_per_group = site.inputs // site.groups * site.taps
    wanted = max(ROWS, ROWS_PER_COLUMN * columns_per_group)
    return Sampling(seed, math.ceil(wanted / samples))


def batches_of(data: Data, fixed: int | None, largest: int = 32) -> list[Mapping[str, Array]]:
    """Batches for a walk; the remainder that a fixed batch leaves over is dropped."""
    size = fixed or largest
    return [batch for batch in data.batches(size) if fixed is None or len(next(iter(batch.values()))) == fixed]


def gather(
    analysis: Analysis, data: Data, batches: Sequence[Mapping[str, Array]], runtime: RuntimeAdapter, seed: int = 0
) -> Evidence:
    """Run the model once and sum up what its prunable layers read.

    Parameters
    ----------
    analysis : Analysis
    data : Data
        Where ``batches`` come from, for the record.
    batches : sequence of mapping of input name to ndarray
    runtime : RuntimeAdapter
    seed : int
        Of the sampled positions.
    """
    owners = {group.name: _owners(analysis, group) for group in analysis.groups}
    consumed = _consumed(analysis, owners.values())
    sites = [site for site in sites_of(analysis.model, analysis.shadow) if _reads(site, analysis, consumed)]
    walk = Walk(analysis.model, batches, runtime, [site.data.name or "" for site in sites])
    n_samples = sum(len(next(iter(batch.values()))) for batch in batches)
    consumers: dict[str, list[Consumer]] = {group.name: [] for group in analysis.groups}
    ends = _stretches(sites, walk, analysis, n_samples)
    for site in sites:
        walk.advance(ends[site.name])
        found = _observe(site, walk, sampling_for(site, n_samples, seed))
        classes = channel_classes(analysis, site)
        if classes is None:
            continue
        for group in analysis.groups:
            consumers[group.name] += _consumers(site, *found, owners[group.name][classes])
    return Evidence({name: tuple(found) for name, found in consumers.items()}, n_samples, data.source, data.is_synthetic)


def _owners(analysis: Analysis, group: Group) -> Labels:
    """Position in the group of every class, -1 where it belongs to none; what goes with a head belongs to its position."""
    owner = np.full(analysis.n_classes + 1, -1, np.int64)
    owner[group.classes] = np.arange(group.width)
    for heads in analysis.heads:
        rows = np.broadcast_to(owner[heads.heads][:, None], heads.rows.shape)
        owner[heads.rows[rows >= 0]] = rows[rows >= 0]
    return owner


def _consumed(analysis: Analysis, owners: Iterable[Labels]) -> NDArray[np.bool_]:
    removable = np.zeros(analysis.n_classes + 1, bool)
    for owner in owners:
        removable |= owner >= 0
    return removable


def _reads(site: Site, analysis: Analysis, removable: NDArray[np.bool_]) -> bool:
    classes = channel_classes(analysis, site)
    is_small = site.inputs // site.groups * site.taps <= LARGEST_GRAM
    return classes is not None and is_small and not site.is_depthwise and bool(removable[classes].any())


def channel_classes(analysis: Analysis, site: Site) -> Labels | None:
    """Class of every input channel of a layer, None where they are not told apart."""
    classes = analysis.classes_of(site.data)
    if classes is None:
        return None
    axis = site.channel_axis % classes.ndim
    others = tuple(other for other in range(classes.ndim) if other != axis)
    if any(classes.shape[other] > 1 for other in others):
        return None
    return np.broadcast_to(classes.reshape(-1), (site.inputs,))


def _stretches(sites: Sequence[Site], walk: Walk, analysis: Analysis, n_samples: int) -> dict[str, int]:
    """How far to run before each site is looked at: several at once, as long as what they read fits into memory."""
    ends: dict[str, int] = {}
    waiting: list[Site] = []
    held = 0
    for site in sites:
        shape = analysis.shadow.shape(site.data) or ()
        held += 4 * math.prod(shape) * n_samples // max(1, shape[0] if shape else 1)
        if waiting and held > LOOK_AHEAD_BYTES:
            ends |= dict.fromkeys((earlier.name for earlier in waiting), walk.place(waiting[-1].name) or 0)
            waiting, held = [], 0
        waiting.append(site)
    return ends | dict.fromkeys((earlier.name for earlier in waiting), walk.place(waiting[-1].name) or 0) if waiting else ends


def _observe(site: Site, walk: Walk, sampling: Sampling) -> tuple[Moments, Activity]:
    moments, activity = MomentsOf(), _ActivityOf()
    for number in range(walk.n_batches):
        data = walk.value(site.data.name or "", number)
        available = n_positions(site, data)
        moments.add(columns(site, data, sampling.positions(site, number, available, len(data))))
        activity.add(np.moveaxis(data, site.channel_axis, 1) if data.ndim > 2 else data)
    walk.release(site.data.name or "")
    return moments.result(), activity.result()


class _ActivityOf:
    """Accumulates :class:`~shrinkc.api.Activity` from values of shape ``(N, C, ...)``."""

    def __init__(self) -> None:
        self._samples = 0
        self._zeros: FloatArray | None = None
        self._map: FloatArray | None = None

    def add(self, values: Array) -> None:
        self._samples += len(values)
        positions = max(1, math.prod(values.shape[2:]))
        zeros = len(values) - np.count_nonzero(values > 0, axis=(0, *range(2, values.ndim))) / positions
        absolute = np.abs(values).sum(0)
        self._zeros = zeros if self._zeros is None else self._zeros + zeros
        if self._map is not None and self._map.shape != absolute.shape:  # free sizes: positions cannot be compared
            absolute, self._map = _pooled(absolute), _pooled(self._map)
        self._map = absolute if self._map is None else self._map + absolute

    def result(self) -> Activity:
        if self._zeros is None or self._map is None:
            raise ValueError("no values were added")
        return Activity(self._map / self._samples, self._zeros / self._samples)


def _pooled(values: FloatArray) -> FloatArray:
    pooled: FloatArray = values.reshape(len(values), -1).mean(1)
    return pooled


def _consumers(site: Site, moments: Moments, activity: Activity, position: Labels) -> Iterator[Consumer]:
    """The site's groups that read channels of one channel group, each a linear map of its own."""
    of_groups = position.reshape(site.groups, -1)
    matrix = site.matrix()
    for number, positions in enumerate(of_groups):
        if (positions >= 0).any():
            own = slice(number * len(positions), (number + 1) * len(positions))
            yield Consumer(
                name=site.name,
                weight=matrix[number],
                mean=moments.mean[number],
                gram=_stored(moments.gram[number]),
                rows=moments.rows,
                position=np.repeat(positions, site.taps),
                taps=site.taps,
                activity=Activity(activity.mean_abs[own], activity.zero_share[own]),
                windows=site.windows,
                number=number,
            )


def _stored(gram: FloatArray) -> FloatArray:
    return gram.astype(np.float32) if len(gram) > COLUMNS_IN_SINGLE else gram
