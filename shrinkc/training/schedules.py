"""Schedules: a number for every step, as pure functions of the step and of how many there are.

The retraining schedules are those of Zimmer, Spiegel, Pokutta. How I Learned to Stop Worrying and Love Retraining. ICLR 2023:
fine-tuning, learning-rate rewinding, SLR, CLR, LLR and ALLR.  Differs: the optimizer starts anew in every cycle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from shrinkc.errors import RecipeError

WARM_UP = 0.1
"""Share of the steps that SLR, CLR, LLR and ALLR warm up in."""

SMALLEST_SHARE = 1e-3
"""Lowest rate of a trace that nobody knows, as a share of the highest."""


class Schedule(Protocol):
    """A number for every step."""

    def value(self, step: int, steps: int) -> float:
        """Value for ``step`` of ``steps``, counted from zero."""


@dataclass(frozen=True)
class Constant:
    """The same value throughout."""

    peak: float

    def value(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        return self.peak


@dataclass(frozen=True)
class Linear:
    """From ``peak`` down to ``floor``."""

    peak: float
    floor: float = 0.0

    def value(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        return self.floor + (self.peak - self.floor) * (1 - step / max(1, steps))


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``peak`` down to ``floor``."""

    peak: float
    floor: float = 0.0

    def value(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        return self.floor + (self.peak - self.floor) * (1 + math.cos(math.pi * step / max(1, steps))) / 2


@dataclass(frozen=True)
class Steps:
    """A tenth of it (``factor``) after every milestone; milestones are shares of the steps."""

    peak: float
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def value(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        return self.peak * self.factor ** sum(step >= milestone * steps for milestone in self.milestones)


@dataclass(frozen=True)
class WarmUp:
    """Half a cosine (or a straight line) from zero to where ``then`` starts, in a share of the steps; then that one.

    Attributes
    ----------
    then : Schedule
    share : float in [0, 1)
    is_linear : bool
    """

    then: Schedule
    share: float = WARM_UP
    is_linear: bool = False

    def value(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        warm = math.floor(self.share * steps)
        if step >= warm:
            return self.then.value(step - warm, steps - warm)
        peak = self.then.value(0, steps - warm)
        if self.is_linear:
            return peak * (step + 1) / (warm + 1)
        return peak * (1 - math.cos(math.pi * step / warm)) / 2


@dataclass(frozen=True)
class LastSteps:
    """Learning-rate rewinding: the last ``steps`` rates of a trace; the whole of it, from its start, if it is shorter."""

    rates: tuple[float, ...]

    def value(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        return self.rates[min(max(0, len(self.rates) - steps) + step, len(self.rates) - 1)]


@dataclass(frozen=True)
class Compressed:
    """A whole trace in however many steps there are."""

    rates: tuple[float, ...]

    def value(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        return self.rates[min(math.floor(step * len(self.rates) / max(1, steps)), len(self.rates) - 1)]


@dataclass(frozen=True)
class Cubic:
    """Sparsity that rises from ``start`` to ``end`` as one minus a cube, between the shares ``begin`` and ``finish``.

    Zhu, Gupta. To prune, or not to prune. 2017 (arXiv 1710.01878), eq. (1).
    """

    start: float
    end: float
    begin: float = 0.0
    finish: float = 1.0

    def value(self, step: int, steps: int) -> float:
        """See :class:`Schedule`."""
        first, last = self.begin * steps, self.finish * steps
        done = min(1.0, max(0.0, (step - first) / max(1e-12, last - first)))
        return self.end + (self.start - self.end) * (1 - done) ** 3


def trace_of(schedule: Schedule, steps: int) -> tuple[float, ...]:
    """The values of a schedule, one a step."""
    return tuple(schedule.value(step, steps) for step in range(steps))


def retraining(
    name: str, trace: Sequence[float], *, distance: float = 1.0, length: float = 1.0, warm_up: float = WARM_UP
) -> Schedule:
    """A retraining schedule by its published name.

    Parameters
    ----------
    name : str
        ``ft``, ``lrw``, ``slr``, ``clr``, ``llr`` or ``allr``.
    trace : sequence of float
        Learning rates of the original training, one a step.
    distance : float
        For ALLR: relative change of the weights, see :func:`pruning_distance`.
    length : float
        For ALLR: length of the retraining as a share of that of the original training.
    warm_up : float
        Share of the steps.

    Raises
    ------
    RecipeError
        There is no schedule of that name.
    """
    highest, past = max(trace), _after_warm_up(trace)
    lowest = min(past) or highest * SMALLEST_SHARE
    if name == "ft":
        return Constant(lowest)
    if name == "lrw":
        return LastSteps(tuple(trace))
    peak = min(highest, max(highest * distance, highest * min(length, 1.0)))
    flat = (highest,) * (len(trace) - len(past)) + tuple(past)
    found: Mapping[str, Schedule] = {
        "slr": Compressed(flat),
        "clr": Cosine(highest, lowest),
        "llr": Linear(highest),
        "allr": Linear(peak),
    }
    if name not in found:
        raise RecipeError("no retraining schedule of that name", where=name, hint="known: ft, lrw, slr, clr, llr, allr")
    return WarmUp(found[name], warm_up) if warm_up else found[name]


def _after_warm_up(trace: Sequence[float]) -> Sequence[float]:
    return trace[list(trace).index(max(trace)) :]


def pruning_distance(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], removed: float) -> float:
    """Relative change of the weights by pruning, over the square root of the share of survivors that went.

    Norms are over all weights and biases given; 0 where nothing went.  At most 1 for magnitude pruning over everything.
    """
    if removed <= 0:
        return 0.0
    dense, pruned = (sum(float(tensor.double().square().sum()) for tensor in tensors.values()) for tensors in (before, after))
    return math.sqrt(abs(dense - pruned) / dense / removed) if dense > 0 else 0.0
