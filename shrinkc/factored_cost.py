"""What a graph costs when channels go and layers are factorised: nothing is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.cost import Cost, CostModel
from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.analysis.labels import Labels
from shrinkc.evidence.gathering import channel_classes
from shrinkc.evidence.head_pairs import Side
from shrinkc.evidence.sites import Site
from shrinkc.factorable import Candidate, is_recurrent
from shrinkc.factored_latency import FactoredTimes
from shrinkc.head_folding import PairCandidate

NODE_BYTES, NAMES_PER_NODE = 160, 6
"""Bytes of the file that another node takes, and how often a layer's name appears in it; rather more than it does."""


Kept = tuple[int | None, ...]
"""How many channels are left of what a candidate's work depends on, None for all: of its inputs and outputs, or, of a pair,
of its heads and of what its layers have on their other sides."""


@dataclass(frozen=True, eq=False)
class _Counted:
    """So many things, and the classes that they are made of; None where they cannot go."""

    amount: int
    classes: Labels | None

    def kept(self, is_kept: BoolArray) -> int | None:
        return None if self.classes is None else round(self.amount * float(is_kept[self.classes].mean()))


class FactoredCost:
    """Cost as a function of kept classes and ranks.

    Parameters
    ----------
    analysis : Analysis
    cost : CostModel
    candidates : mapping of layer name to Candidate
    times : FactoredTimes or None
        Of these layers; without them no rank is known to save time, nor any not to.
    """

    def __init__(
        self,
        analysis: Analysis,
        cost: CostModel,
        candidates: Mapping[str, Candidate],
        times: FactoredTimes | None = None,
    ) -> None:
        self._cost, self._candidates, self._times = cost, candidates, times
        self._gains: dict[tuple[str, int, Kept], Cost | None] = {}
        self._channels = {name: _counted(analysis, candidate) for name, candidate in candidates.items()}

    def widths(self, name: str, is_kept: BoolArray) -> Kept:
        """Kept channels of a layer."""
        return tuple(counted.kept(is_kept) for counted in self._channels[name])

    def of(self, is_kept: BoolArray, ranks: Mapping[str, int]) -> Cost:
        """Cost of keeping some classes with some layers factorised."""
        base = self._cost.of(is_kept)
        changes = [self.change(name, rank, *self.widths(name, is_kept)) for name, rank in ranks.items()]
        macs, parameters, size = (
            getattr(base, name) + sum(getattr(change, name) for change in changes)
            for name in ("macs", "parameters", "size_bytes")
        )
        saved = sum(change.latency_s or 0.0 for change in changes)
        return Cost(macs, parameters, size, None if base.latency_s is None else base.latency_s + saved)

    def change(self, name: str, rank: int, *kept: int | None) -> Cost:
        """Difference that factorising one layer makes, mostly negative; of time too where that is predicted."""
        candidate = self._candidates[name]
        before, after = candidate.dense(*kept), candidate.work(rank, *kept)
        elements = after.parameters - before.parameters
        extra = NODE_BYTES + NAMES_PER_NODE * len(name)
        seconds = self._seconds_more(candidate, rank, kept)
        return Cost(after.macs - before.macs, elements, elements * _item_bytes(candidate) + extra, seconds)

    def _seconds_more(self, candidate: Candidate, rank: int, kept: Kept) -> float | None:
        if self._times is None:
            return None
        return self._times.factored(candidate, rank, *kept) - self._times.whole(candidate, *kept)

    def gain(self, name: str, rank: int, *kept: int | None) -> Cost | None:
        """The same difference where a layer is better off factorised: it costs less and, where time is predicted, takes less.

        None where it had better stay whole.
        """
        key = (name, rank, kept)
        if key not in self._gains:
            self._gains[key] = self._gain(*key)
        return self._gains[key]

    def _gain(self, name: str, rank: int, kept: Kept) -> Cost | None:
        candidate = self._candidates[name]
        if not candidate.pays(rank, *kept):
            return None
        change = self.change(name, rank, *kept)
        is_slower = candidate.form.saves_time and change.latency_s is not None and change.latency_s >= 0
        return None if is_slower else change


def _item_bytes(candidate: Candidate) -> int:
    tensor = shrinkc_ir.constant_tensor(candidate.site.weight)
    return 4 if tensor is None else int(tensor.dtype.itemsize)


def _counted(analysis: Analysis, candidate: Candidate) -> tuple[_Counted, ...]:
    site = candidate.site
    if not isinstance(candidate, PairCandidate):
        ends = (channel_classes(analysis, site), _output_classes(analysis, site))
        return tuple(_Counted(*end) for end in zip((site.inputs, site.outputs), ends, strict=True))
    heads = _Counted(candidate.pairs[0].heads, analysis.classes_of(candidate.pairs[0].dims_of))
    return heads, *(_other_side(analysis, side) for side in candidate.sides)


def _other_side(analysis: Analysis, side: Side) -> _Counted:
    """Channels of a layer of a pair that are no dims of heads."""
    if side.reads:
        return _Counted(side.site.outputs, _output_classes(analysis, side.site))
    return _Counted(side.site.inputs, channel_classes(analysis, side.site))


def _output_classes(analysis: Analysis, site: Site) -> Labels | None:
    """Class of every output channel, None where they are not told apart."""
    value: ir.Value = site.output
    classes = analysis.classes_of(value)
    if classes is None:
        return None
    axis = site.channel_axis % classes.ndim
    if is_recurrent(site):  # every unit has a row per gate and direction
        units = np.unique(classes.reshape(-1, classes.shape[axis]), axis=0) if axis == classes.ndim - 1 else classes
        return np.resize(units, site.outputs) if site.outputs % units.size == 0 else None
    if any(size > 1 for other, size in enumerate(classes.shape) if other != axis):
        return None
    return np.broadcast_to(classes.reshape(-1), (site.outputs,))
