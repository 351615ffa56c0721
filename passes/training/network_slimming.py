"""Network slimming's training: the gains of all normalisations are drawn to zero, so that channels can be told apart.

Liu, Li, Shen, Huang, Yan, Zhang. Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017, eq. (1): the
subgradient of ``strength * |gamma|`` is added to the gradient; that of zero is zero.  What is learned goes to ``compress`` with
``--recipe slimming-70``, or any other use of the criteria ``bn-gamma`` and ``bn-gamma-out``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from shrinkc.errors import RecipeError
from shrinkc.training.context import Context
from shrinkc.training.interfaces import Phase, Plugin, Values
from shrinkc.training.phases import Train
from shrinkc.training.ranges import NOT_NEGATIVE, check_ranges
from shrinkc.training.rates import schedule_of
from shrinkc.training.views import normalization_scales


class GainPenalty(Plugin):
    """Adds ``strength * sign(gamma)`` to the gradients of the gains of the given names."""

    def __init__(self, names: Sequence[str], strength: float) -> None:
        self._names, self._strength = names, strength

    @torch.no_grad()
    def on_grad(self, context: Context, gradients: Values) -> None:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        for name in self._names:
            if name in gradients:
                gradients[name].add_(torch.sign(context.tensors[name]), alpha=self._strength)


@dataclass(frozen=True)
class NetworkSlimming:
    """Settings of the method.

    Attributes
    ----------
    strength : float
        Of the penalty; the paper takes 1e-4 for VGG and 1e-5 for ResNet and DenseNet.
    """

    name: ClassVar[str] = "network-slimming"
    keeps_best: ClassVar[bool] = False

    strength: float = 1e-4

    def __post_init__(self) -> None:
        """Check settings.

        Raises
        ------
        RecipeError
            The strength is negative.
        """
        check_ranges(self, strength=NOT_NEGATIVE)

    def phases(self, context: Context) -> Sequence[Phase]:
        """See :class:`shrinkc.training.interfaces.Method`.

        Raises
        ------
        RecipeError
            The model has no BatchNormalization (any more).
        """
        names = normalization_scales(context.model)
        if not names:
            raise RecipeError(
                "the method needs BatchNormalization in the file",
                where=self.name,
                because="there is none, or the exporter folded it into the convolutions",
                hint="--set norms=opened, which opens them again, or export the model in training mode",
            )
        settings = context.settings
        return [Train(settings.length(), schedule_of(settings, context), [GainPenalty(names, self.strength)], keeps_best=False)]
