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
from shrinkc.factorable import Candidate, is_recurrent
from shrinkc.factored_latency import FactoredTimes

NODE_BYTES, NAMES_PER_NODE = 160, 6
"""Bytes of the file that another node takes, and how often a layer's name appears in it; rather more than it does."""


@dataclass(frozen=True, eq=False)
class _Channels:
    """Classes of what a layer reads and gives; None where they cannot go."""

    inputs: Labels | None
    outputs: Labels | None

    def kept(self, is_kept: BoolArray) -> tuple[int | None, int | None]:
        """How many of either are left; None for all."""
        counts = [None if classes is None else int(is_kept[classes].sum()) for classes in (self.inputs, self.outputs)]
        return counts[0], counts[1]


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
        self._gains: dict[tuple[str, int, int | None, int | None], Cost | None] = {}
        self._channels = {
            name: _Channels(channel_classes(analysis, candidate.site), _output_classes(analysis, candidate))
            for name, candidate in candidates.items()
        }

    def widths(self, name: str, is_kept: BoolArray) -> tuple[int | None, int | None]:
        """Kept input and output channels of a layer, None for all of them."""
        return self._channels[name].kept(is_kept)

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

    def change(self, name: str, rank: int, inputs: int | None, outputs: int | None) -> Cost:
        """Difference that factorising one layer makes, mostly negative; of time too where that is predicted."""
        candidate = self._candidates[name]
        before, after = candidate.dense(inputs, outputs), candidate.work(rank, inputs, outputs)
        elements = after.parameters - before.parameters
        extra = NODE_BYTES + NAMES_PER_NODE * len(name)
        seconds = self._seconds_more(candidate, rank, inputs, outputs)
        return Cost(after.macs - before.macs, elements, elements * _item_bytes(candidate) + extra, seconds)

    def _seconds_more(self, candidate: Candidate, rank: int, inputs: int | None, outputs: int | None) -> float | None:
        if self._times is None:
            return None
        return self._times.factored(candidate, rank, inputs, outputs) - self._times.whole(candidate, inputs, outputs)

    def gain(self, name: str, rank: int, inputs: int | None, outputs: int | None) -> Cost | None:
        """The same difference where a layer is better off factorised: it costs less and, where time is predicted, takes less.

        None where it had better stay whole.
        """
        key = (name, rank, inputs, outputs)
        if key not in self._gains:
            self._gains[key] = self._gain(*key)
        return self._gains[key]

    def _gain(self, name: str, rank: int, inputs: int | None, outputs: int | None) -> Cost | None:
        candidate = self._candidates[name]
        if not candidate.pays(rank, inputs, outputs):
            return None
        change = self.change(name, rank, inputs, outputs)
        is_slower = candidate.form.saves_time and change.latency_s is not None and change.latency_s >= 0
        return None if is_slower else change


def _item_bytes(candidate: Candidate) -> int:
    tensor = shrinkc_ir.constant_tensor(candidate.site.weight)
    return 4 if tensor is None else int(tensor.dtype.itemsize)


def _output_classes(analysis: Analysis, candidate: Candidate) -> Labels | None:
    """Class of every output channel, None where they are not told apart."""
    site = candidate.site
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
