"""Distillation from the original model, or plain training where there are labels and no teacher.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015 (arXiv 1503.02531).  Differs: see
:mod:`shrinkc.training.distill`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from shrinkc.errors import RecipeError
from shrinkc.training.context import Context
from shrinkc.training.field_types import of_right_types
from shrinkc.training.interfaces import Phase
from shrinkc.training.phases import Train
from shrinkc.training.rates import schedule_of
from shrinkc.training.settings import Settings, check
from shrinkc.training.tries import phases_of

TRIED = ("learning_rate", "batch_norm")
"""Settings that tries may differ in."""


@dataclass(frozen=True)
class Distillation:
    """One training phase that keeps the best weights.

    Attributes
    ----------
    tried : sequence of mappings of setting to value
        Each is tried for a short while and the best trains on; empty trains as the settings say.
    share : float
        Of the budget that goes into each try.
    """

    name: ClassVar[str] = "distillation"

    tried: tuple[Mapping[str, Any], ...] = ()
    share: float = 0.06

    def __post_init__(self) -> None:
        unknown = sorted({key for given in self.tried for key in given} - set(TRIED))
        if unknown:
            raise RecipeError("cannot be tried", where=f"tried: {', '.join(unknown)}", hint=f"known: {', '.join(TRIED)}")
        if self.tried and not 0 < self.share * len(self.tried) <= 0.5:
            raise RecipeError("tries may take half of the budget at most", where=f"share = {self.share}")
        for given in self.tried:
            check(Settings(**of_right_types(given, Settings, "tried")))

    def phases(self, context: Context) -> Sequence[Phase]:
        """See :class:`shrinkc.training.interfaces.Method`."""
        settings = context.settings
        candidates = [check(replace(settings, **given)) for given in self.tried]
        return phases_of(candidates, self.share, context) if candidates else [self._training(context)]

    def _training(self, context: Context) -> Phase:
        return Train(context.settings.length(), schedule_of(context.settings, context))
