"""One pass over the data: moments of the inputs of every layer that reads channels which could go.

Memory is bounded: a layer's second moments take no more than those of :data:`~shrinkc.evidence.blocks.LARGEST_GRAM` columns,
see :mod:`shrinkc.evidence.blocks`; rows are looked at a few samples at a time; what waits to be looked at goes to disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkc.analysis.groups import Analysis
from shrinkc.analysis.labels import Labels
from shrinkc.api import Activity, Consumer, Evidence, FloatArray, Group, RuntimeAdapter, Share
from shrinkc.evidence.blocks import blocks_of, columns_of, is_wide, note_on
from shrinkc.evidence.data import Data
from shrinkc.evidence.moments import MomentsOf
from shrinkc.evidence.patches import columns_in_parts, n_positions
from shrinkc.evidence.sampling import Sampling, sampling_to_choose
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.walking import Walk

Array = NDArray[Any]

COLUMNS_IN_SINGLE = 1024
"""Second moments of more columns are kept in float32 once they are summed."""

LOOK_AHEAD_BYTES = 160 << 20
"""Values that may wait to be looked at, so that the graph is run in few stretches."""

IN_BLOCKS = "were looked at in blocks of channels, as if blocks had nothing to do with each other"


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
        classes = channel_classes(analysis, site)
        if classes is None:
            continue
        observed = _observe(site, walk, sampling_to_choose(site, n_samples, seed), np.where(consumed[classes], classes, -1))
        for group in analysis.groups:
            consumers[group.name] += _consumers(site, observed, owners[group.name][classes])
    found = {name: tuple(own) for name, own in consumers.items()}
    return Evidence(
        found,
        n_samples,
        data.source,
        data.is_synthetic,
        notes=note_on(IN_BLOCKS, [site.name for site in sites if is_wide(site.columns)]),
    )


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
    return classes is not None and not site.is_depthwise and bool(removable[classes].any())


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


@dataclass(frozen=True, eq=False)
class _Part:
    """Moments of what one group of a layer reads, or of a block of its channels (None: of all of them)."""

    number: int
    channels: Labels | None
    rows: int
    mean: FloatArray
    gram: FloatArray


@dataclass(frozen=True, eq=False)
class _Observed:
    """Everything one layer reads."""

    parts: Sequence[_Part]
    activity: Activity


def _observe(site: Site, walk: Walk, sampling: Sampling, keys: Labels) -> _Observed:
    """Look at one layer; channels of one key, not negative, are told apart by nobody."""
    moments = _InBlocks(site, keys) if is_wide(site.columns) else _Whole()
    activity = _ActivityOf()
    for number in range(walk.n_batches):
        data = walk.value(site.data.name or "", number)
        available = n_positions(site, data)
        for rows in columns_in_parts(site, data, sampling.positions(site, number, available, len(data))):
            moments.add(rows)
        activity.add(np.moveaxis(data, site.channel_axis, 1) if data.ndim > 2 else data)
    walk.release(site.data.name or "")
    return _Observed(list(moments.parts()), activity.result())


class _Whole:
    """Moments of all columns of every group."""

    def __init__(self) -> None:
        self._moments = MomentsOf()

    def add(self, rows: FloatArray) -> None:
        self._moments.add(rows)

    def parts(self) -> Iterator[_Part]:
        found = self._moments.result()
        gram = _stored(found.gram)
        for number, mean in enumerate(found.mean):
            yield _Part(number, None, found.rows, mean, gram[number])


class _InBlocks:
    """Moments of the columns of every block, by itself."""

    def __init__(self, site: Site, keys: Labels) -> None:
        self._taps = site.taps
        groups = enumerate(keys.reshape(site.groups, -1))
        self._blocks = [(number, channels, MomentsOf()) for number, own in groups for channels in blocks_of(own, site.taps)]

    def add(self, rows: FloatArray) -> None:
        for number, channels, moments in self._blocks:
            moments.add(rows[number : number + 1, :, columns_of(channels, self._taps)])

    def parts(self) -> Iterator[_Part]:
        for number, channels, moments in self._blocks:
            found = moments.result()
            yield _Part(number, channels, found.rows, found.mean[0], _stored(found.gram)[0])


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


def _consumers(site: Site, observed: _Observed, position: Labels) -> Iterator[Consumer]:
    """The parts of a layer that read channels of one channel group, each a linear map of its own."""
    of_groups = position.reshape(site.groups, -1)
    if not (of_groups >= 0).any():
        return
    matrix: FloatArray = site.matrix()
    matrix = matrix.astype(np.float32) if site.is_stored_in_single else matrix
    for part, share in zip(observed.parts, _shares(matrix, observed.parts, site.taps), strict=True):
        own = np.arange(of_groups.shape[1]) if part.channels is None else part.channels
        positions = of_groups[part.number][own]
        if (positions >= 0).any():
            activity, channels = observed.activity, part.number * of_groups.shape[1] + own
            yield Consumer(
                name=site.name,
                weight=_weight_of(matrix, part, site.taps),
                mean=part.mean,
                gram=part.gram,
                rows=part.rows,
                position=np.repeat(positions, site.taps),
                taps=site.taps,
                activity=Activity(activity.mean_abs[channels], activity.zero_share[channels]),
                windows=site.windows,
                number=part.number,
                columns=None if part.channels is None else columns_of(part.channels, site.taps),
                share=share,
            )


def _weight_of(matrix: FloatArray, part: _Part, taps: int) -> FloatArray:
    own: FloatArray = matrix[part.number]
    return own if part.channels is None else own[:, columns_of(part.channels, taps)]


def _shares(matrix: FloatArray, parts: Sequence[_Part], taps: int) -> list[Share]:
    """What every part gives of the output of its group, as if parts had nothing to do with each other."""
    if all(part.channels is None for part in parts):
        return [Share()] * len(parts)
    energy, constant = np.zeros(len(parts)), np.zeros(len(parts))
    for place, part in enumerate(parts):
        weight = _weight_of(matrix, part, taps)
        energy[place] = np.einsum("oc,oc->", weight @ part.gram, weight, dtype=np.float64)
        constant[place] = np.square(weight @ part.mean).sum()
    groups = np.asarray([part.number for part in parts])
    return [Share(*own) for own in zip(_of_total(energy, groups), _of_total(energy - constant, groups), strict=True)]


def _of_total(amounts: FloatArray, groups: Labels) -> list[float]:
    total = np.bincount(groups, amounts)[groups]
    return [float(share) for share in np.divide(amounts, total, out=np.zeros(len(amounts)), where=total > 0)]


def _stored(gram: FloatArray) -> FloatArray:
    return gram.astype(np.float32) if gram.shape[-1] > COLUMNS_IN_SINGLE else gram
