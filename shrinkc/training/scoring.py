"""Scores of single weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shrinkc.training import streams
from shrinkc.training.context import Context
from shrinkc.training.select import lamp
from shrinkc.training.views import WeightView


@dataclass(frozen=True)
class Magnitude:
    """Absolute value."""

    views: Sequence[WeightView]

    def scores(self, context: Context) -> dict[str, torch.Tensor]:
        """See :class:`shrinkc.training.interfaces.Scorer`."""
        return {name: weight.abs() for name, weight in context.weights(self.views).items()}


@dataclass(frozen=True)
class Lamp:
    """Squares over the sum of the layer's squares not below them, see :func:`shrinkc.training.select.lamp`."""

    views: Sequence[WeightView]

    def scores(self, context: Context) -> dict[str, torch.Tensor]:
        """See :class:`shrinkc.training.interfaces.Scorer`."""
        masks = context.masks
        return {name: lamp(weight * masks[name]) for name, weight in context.weights(self.views).items()}


@dataclass(frozen=True)
class RandomScore:
    """Drawn from the seed: the control of every experiment."""

    views: Sequence[WeightView]

    def scores(self, context: Context) -> dict[str, torch.Tensor]:
        """See :class:`shrinkc.training.interfaces.Scorer`."""
        draw = streams.generator(context.settings.seed, "scores", context.cycle)
        return {name: torch.rand(weight.shape, generator=draw) for name, weight in context.weights(self.views).items()}
