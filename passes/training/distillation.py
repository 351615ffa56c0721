"""Distillation from the original model, or plain training where there are labels and no teacher.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015 (arXiv 1503.02531).  Differs: see
:mod:`shrinkc.training.distill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from shrinkc.training.context import Context
from shrinkc.training.interfaces import Phase
from shrinkc.training.phases import Reestimate, Train, schedule_of


@dataclass(frozen=True)
class Distillation:
    """One training phase that keeps the best weights."""

    name: ClassVar[str] = "distillation"

    def phases(self, context: Context) -> Sequence[Phase]:
        """See :class:`shrinkc.training.interfaces.Method`."""
        settings = context.settings
        training = Train(settings.length(), schedule_of(settings))
        return [training, Reestimate()] if settings.reestimate else [training]
