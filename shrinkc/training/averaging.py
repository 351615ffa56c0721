"""Averages of the weights over the steps: a moving one and an equal one.

Izmailov, Podoprikhin, Garipov, Vetrov, Wilson. Averaging Weights Leads to Wider Optima and Better Generalization. UAI 2018, for
the equal mean (differs: of every step's weights in the last share of a phase, not of the ends of cycles); the moving one warms
up as tau_t = min(tau, (1 + t) / (10 + t)).  Both are linear in the weights, so masks commute with them as long as they do not
change; after a change they are put on the average too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from shrinkc.training import state
from shrinkc.training.context import Context
from shrinkc.training.interfaces import Plugin, Signal, Values


class Average(Protocol):
    """Weights in place of those of the last step."""

    def values(self) -> dict[str, torch.Tensor] | None:
        """None while there are none yet."""


def _precisely(context: Context) -> dict[str, torch.Tensor]:
    """A copy of everything; of half precision in float32, in which small differences still count."""
    copied = state.copied(context.tensors)
    return {name: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value for name, value in copied.items()}


class MovingAverage(Plugin):
    """Exponential moving average.

    Parameters
    ----------
    decay : float
        Its highest, tau.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._mean: dict[str, torch.Tensor] = {}
        self._count = 0

    def on_cycle_start(self, context: Context) -> None:
        """See :class:`Plugin`."""
        self._mean, self._count = _precisely(context), 0

    @torch.no_grad()
    def after_step(self, context: Context) -> Signal:
        """See :class:`Plugin`."""
        decay = min(self._decay, (1 + self._count) / (10 + self._count))
        self._count += 1
        for name, value in self._mean.items():
            value.lerp_(context.tensors[name].to(value.dtype), 1 - decay)
        context.masks.apply(self._mean)
        return Signal.GO_ON

    def values(self) -> dict[str, torch.Tensor]:
        """See :class:`Average`."""
        return self._mean

    def state(self) -> dict[str, torch.Tensor]:
        """See :class:`Plugin`."""
        return self._mean

    def facts(self) -> dict[str, object]:
        """See :class:`Plugin`."""
        return {"count": self._count}

    def restore(self, tensors: Values, facts: Mapping[str, Any]) -> None:
        """See :class:`Plugin`."""
        self._mean, self._count = dict(tensors), int(facts["count"])


class EqualAverage(Plugin):
    """Mean of the weights of the last steps.

    Parameters
    ----------
    share : float
        Of the phase, at its end.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._mean: dict[str, torch.Tensor] = {}
        self._count = 0

    @torch.no_grad()
    def after_step(self, context: Context) -> Signal:
        """See :class:`Plugin`."""
        if context.done < 1 - self._share:
            return Signal.GO_ON
        if not self._mean:
            self._mean = _precisely(context)
        self._count += 1
        for name, value in self._mean.items():
            value.lerp_(context.tensors[name].to(value.dtype), 1 / self._count)
        context.masks.apply(self._mean)
        return Signal.GO_ON

    def values(self) -> dict[str, torch.Tensor] | None:
        """See :class:`Average`."""
        return self._mean or None

    def state(self) -> dict[str, torch.Tensor]:
        """See :class:`Plugin`."""
        return self._mean

    def facts(self) -> dict[str, object]:
        """See :class:`Plugin`."""
        return {"count": self._count}

    def restore(self, tensors: Values, facts: Mapping[str, Any]) -> None:
        """See :class:`Plugin`."""
        self._mean, self._count = dict(tensors), int(facts["count"])
