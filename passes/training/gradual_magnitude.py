"""Gradual magnitude pruning: sparsity grows by a cubic rule while the model trains.

Zhu, Gupta. To prune, or not to prune: exploring the efficacy of pruning for model compression. 2017 (arXiv 1710.01878),
eq. (1).  Differs: exactly as many weights are kept as the rule says, in one ranking over all layers; ``is_regrowing`` chooses
anew among all weights each time, and lets those that are masked away go on learning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from shrinkc.errors import RecipeError
from shrinkc.training.context import Context
from shrinkc.training.interfaces import Phase, Plugin, Signal, Values
from shrinkc.training.masks import MaskSet
from shrinkc.training.parametrization import Masked, Projected
from shrinkc.training.phases import Train, start_masks
from shrinkc.training.ranges import COUNT, INSIDE, SHARE, check_ranges
from shrinkc.training.rates import schedule_of
from shrinkc.training.schedules import Cubic
from shrinkc.training.scoring import Magnitude
from shrinkc.training.select import kept_of, select_k
from shrinkc.training.views import WeightView, prunable


class Gradually(Plugin):
    """Puts the masks on again every so many steps.

    Parameters
    ----------
    views : sequence of WeightView
    sparsity : Schedule
        Over the whole phase.
    every : int
        Steps.
    is_regrowing : bool
        All weights may come back.
    """

    def __init__(self, views: Sequence[WeightView], sparsity: Cubic, every: int, is_regrowing: bool) -> None:
        self._views, self._sparsity, self._every, self._is_regrowing = views, sparsity, every, is_regrowing

    def on_cycle_start(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        start_masks(context, self._views)
        self._select(context, self._sparsity.start)

    def after_step(self, context: Context) -> Signal:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        if context.step % self._every == 0 or context.done >= 1:
            resolution = 1 << 20
            self._select(context, self._sparsity.value(round(context.done * resolution), resolution))
        return Signal.GO_ON

    def _select(self, context: Context, sparsity: float) -> None:
        scores = Magnitude(self._views).scores(context)
        among = MaskSet.dense(context.weights(self._views)) if self._is_regrowing else context.masks
        context.masks = select_k(scores, among, kept_of(among.total, 1 - sparsity))
        if not self._is_regrowing:
            context.masks.apply(context.tensors)

    def restore(self, tensors: Values, facts: Mapping[str, Any]) -> None:
        """Nothing but the masks, which the context holds."""


@dataclass(frozen=True)
class GradualMagnitude:
    """Settings of the method.

    Attributes
    ----------
    sparsity : float
        At the end.
    initial_sparsity : float
    ramp : float
        Share of the budget in which it grows; the rest trains with the masks it ends with.
    every : int
        Steps from one selection to the next.
    is_regrowing : bool
    keep_first, keep_last : bool
    """

    name: ClassVar[str] = "gradual-magnitude"
    leaves_weights_masked: ClassVar[bool] = True

    sparsity: float = 0.8
    initial_sparsity: float = 0.0
    ramp: float = 0.75
    every: int = 100
    is_regrowing: bool = False
    keep_first: bool = False
    keep_last: bool = False

    def __post_init__(self) -> None:
        """Check settings.

        Raises
        ------
        RecipeError
            One is out of its range.
        """
        check_ranges(self, sparsity=SHARE, initial_sparsity=SHARE, ramp=INSIDE, every=COUNT)
        if self.initial_sparsity > self.sparsity:
            raise RecipeError(
                "sparsity cannot shrink", where=f"initial_sparsity = {self.initial_sparsity}, sparsity = {self.sparsity}"
            )

    def phases(self, context: Context) -> Sequence[Phase]:
        """See :class:`shrinkc.training.interfaces.Method`.

        Raises
        ------
        RecipeError
            The budget is one of time, of which nobody knows how many steps it is.
        """
        views = prunable(context.views, keep_first=self.keep_first, keep_last=self.keep_last)
        per_epoch = context.feeder.order(0).steps_per_epoch
        growing, settling = context.settings.length().split(self.ramp, per_epoch)
        first, whole = growing.steps(per_epoch), context.settings.length().steps(per_epoch)
        if first is None or whole is None:
            raise RecipeError(
                "sparsity grows by steps", where=f"budget = {context.settings.budget}", hint="a budget of epochs or steps"
            )
        schedule = schedule_of(context.settings, context)
        plugin = Gradually(views, Cubic(self.initial_sparsity, self.sparsity), self.every, self.is_regrowing)
        how = Projected() if self.is_regrowing else Masked()
        return [
            Train(growing, schedule, [plugin], keeps_best=False, parametrization=how, until=whole),
            Train(settling, schedule, first=first, until=whole),
        ]
