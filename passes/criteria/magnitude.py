"""Magnitude of weights, aggregated over everything a channel touches.

Li, Kadav, Durdanovic, Samet, Graf. Pruning Filters for Efficient ConvNets. ICLR 2017 (L1).  Differs: the paper sums the
producing filter only; here every weight of the group counts (filters that produce the channel, slices that read it,
normalisation scales), each divided by its mean over the group, as a coupled group has no single producer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from shrinkc.api import UNTOUCHED, Evidence, FloatArray, Group, Member, Role, Weights


@dataclass
class Magnitude:
    """Mean over the members of a group of the p-norm of each channel's weights, relative to the member's mean."""

    name: str
    power: int
    needs_evidence: bool = False
    is_comparable: bool = True
    _sums: dict[tuple[ir.Value, int], FloatArray] = field(default_factory=dict, repr=False)

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        parts = [self._relative(member, group.width, weights) for member in group.members if _counts(member, weights)]
        return np.mean(parts, axis=0) if parts else np.ones(group.width)

    def _relative(self, member: Member, width: int, weights: Weights) -> FloatArray:
        sums = self._sum_along(member, weights)
        covered = member.index != UNTOUCHED
        per_channel = np.bincount(member.index[covered], sums[covered], minlength=width) ** (1 / self.power)
        mean = per_channel.mean()
        return per_channel / mean if mean > 0 else np.ones(width)

    def _sum_along(self, member: Member, weights: Weights) -> FloatArray:
        """Sum of ``|w|**p`` for every index of the member's axis."""
        key = (member.use.tensor, member.axis)
        if key not in self._sums:
            array = np.moveaxis(weights(member.use.tensor), member.axis, 0)
            flat = np.abs(array.reshape(len(array), -1)).astype(np.float32, copy=False)
            largest = float(flat.max(initial=0)) or 1.0  # powers of numbers up to one cannot overflow
            self._sums[key] = ((flat / largest) ** self.power).sum(axis=1, dtype=np.float64) * largest**self.power
        return self._sums[key]


def _counts(member: Member, weights: Weights) -> bool:
    return member.role in (Role.PRODUCES, Role.CONSUMES, Role.SCALES) or weights(member.use.tensor).ndim > 1


def l1() -> Magnitude:
    """L1 norm."""
    return Magnitude("l1", 1)


def l2() -> Magnitude:
    """L2 norm."""
    return Magnitude("l2", 2)
