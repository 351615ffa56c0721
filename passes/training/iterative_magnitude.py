"""Iterative magnitude pruning: train, mask away the smallest of all weights, go back or go on, and again.

Frankle, Carbin. The Lottery Ticket Hypothesis. ICLR 2019, section 2 (weights go back to where they were at step k); Renda,
Frankle, Carbin. Comparing Rewinding and Fine-tuning in Neural Network Pruning. ICLR 2020, section 3 (only the learning rate
does, or neither); Zimmer, Spiegel, Pokutta. How I Learned to Stop Worrying and Love Retraining. ICLR 2023 (the schedules).
Differs: exactly ``floor(p * alive)`` weights go in every level, ties by position; the optimizer starts anew in every level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from shrinkc.errors import RecipeError
from shrinkc.training.budget import Budget
from shrinkc.training.context import Context
from shrinkc.training.interfaces import Phase, Plugin, Scorer, Selector, Signal
from shrinkc.training.phases import Prune, Remember, Rewind, Train
from shrinkc.training.ranges import NOT_NEGATIVE, SHARE, check_ranges
from shrinkc.training.rates import original_steps, schedule_of
from shrinkc.training.refitting import RefitLSQ
from shrinkc.training.schedules import pruning_distance, retraining, trace_of
from shrinkc.training.scoring import Lamp, Magnitude
from shrinkc.training.select import PerLayer, erk, kept_after, uniform
from shrinkc.training.settings import RETRAINING, Settings
from shrinkc.training.state import copied
from shrinkc.training.views import WeightView, prunable

TICKET = "ticket"
"""Snapshot that weights are rewound to."""

BEFORE = "before the mask"
"""Snapshot whose layers' outputs are fitted."""

SCOPES = ("global", "uniform", "erk", "lamp")
REWINDING = "weights"


class RememberAt(Plugin):
    """Keeps a copy of everything as it is after so many steps."""

    def __init__(self, step: int, name: str) -> None:
        self._step, self._name = step, name

    def on_cycle_start(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        if self._step == 0:
            context.snapshot(self._name)

    def after_step(self, context: Context) -> Signal:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        if context.step == self._step:
            context.snapshot(self._name)
        return Signal.GO_ON


@dataclass(frozen=True)
class IterativeMagnitude:
    """Settings of the method.

    Attributes
    ----------
    levels : int
        How often weights go.
    fraction : float
        Of the surviving weights, in every level.
    retraining : str
        ``weights`` rewinds weights and schedule to ``rewind_step``; ``lrw`` the schedule only; ``ft``, ``slr``, ``clr``,
        ``llr`` and ``allr`` are other schedules.  The shared setting ``original`` says how long the training was that the
        model came from: the shared ``schedule`` is of that length, of which ``lrw`` repeats the end, ``slr`` follows the
        whole, and ``allr``, which cannot do without, compares the lengths.  By default it is as long as one retraining.
    rewind_step : int
    refit : bool
        Before every retraining, fit what the mask left of each layer to what the layer computed before.
    scope : str
        ``global``: one ranking over everything; ``lamp``: of layer-adaptive scores; ``uniform``, ``erk``: within every layer.
    keep_first, keep_last : bool
        Leave the first or last layer alone.
    """

    name: ClassVar[str] = "iterative-magnitude"
    leaves_weights_masked: ClassVar[bool] = True

    levels: int = 3
    fraction: float = 0.2
    retraining: str = "lrw"
    rewind_step: int = 0
    refit: bool = False
    scope: str = "global"
    keep_first: bool = False
    keep_last: bool = False

    def __post_init__(self) -> None:
        """Check settings.

        Raises
        ------
        RecipeError
            One is out of its range.
        """
        if self.retraining not in (REWINDING, *RETRAINING):
            raise RecipeError("no such retraining", where=self.retraining, hint=f"known: {REWINDING}, {', '.join(RETRAINING)}")
        if self.scope not in SCOPES:
            raise RecipeError("no such scope", where=self.scope, hint=f"known: {', '.join(SCOPES)}")
        check_ranges(self, levels=NOT_NEGATIVE, fraction=SHARE, rewind_step=NOT_NEGATIVE)
        if self.refit and self.retraining == REWINDING:
            raise RecipeError("would have no effect", where="refit", because="the weights are rewound")
        if self.rewind_step and self.retraining != REWINDING:
            raise RecipeError("would have no effect", where="rewind_step", hint='retraining = "weights"')

    @property
    def keeps_best(self) -> bool:
        """See :class:`shrinkc.training.interfaces.Method`."""
        return self.retraining != REWINDING

    def phases(self, context: Context) -> Sequence[Phase]:
        """See :class:`shrinkc.training.interfaces.Method`."""
        self._check(context.settings)
        views = prunable(context.views, keep_first=self.keep_first, keep_last=self.keep_last)
        if self.retraining == REWINDING:
            return self._rewinding(context, views)
        steps = context.settings.length().steps(context.feeder.order(0).steps_per_epoch)
        if steps is None:
            raise RecipeError("the schedule counts steps", where=f"budget = {context.settings.budget}", hint="epochs or steps")
        before = original_steps(context.settings, context) or steps
        trace = trace_of(schedule_of(context.settings, context), before)
        retrain = Retrain(self.retraining, trace, Budget(steps, "steps"), min(1.0, steps / before))
        prune: list[Phase] = [self._prune(context, views)]
        if self.refit:
            prune = [Remember(BEFORE), *prune, RefitLSQ(BEFORE)]
        return [*prune, retrain] * self.levels

    def _check(self, settings: Settings) -> None:
        """Refuse shared settings that do not go with the retraining.

        Raises
        ------
        RecipeError
        """
        if settings.schedule in RETRAINING:
            raise RecipeError("the method retrains by itself", where=f"schedule = {settings.schedule}", hint="retraining")
        if settings.original and self.retraining in (REWINDING, "ft"):
            raise RecipeError("would have no effect", where="original", because=f"{self.retraining} has no use for it")
        if self.retraining == "allr" and not settings.original:
            raise RecipeError(
                "the schedule compares lengths of training",
                where='retraining = "allr"',
                hint="say how long the model was trained: --set original=100epochs",
            )

    def _rewinding(self, context: Context, views: list[WeightView]) -> list[Phase]:
        settings = context.settings
        steps = settings.length().steps(context.feeder.order(0).steps_per_epoch)
        if steps is None or self.rewind_step >= steps:
            raise RecipeError(
                "weights are rewound to a step of the training",
                where=f"rewind_step = {self.rewind_step}, budget = {settings.budget}",
                hint="a budget of more steps or epochs",
            )
        schedule = schedule_of(settings, context)
        phases: list[Phase] = [
            Train(Budget(steps, "steps"), schedule, [RememberAt(self.rewind_step, TICKET)], keeps_best=False)
        ]
        rest = Budget(steps - self.rewind_step, "steps")
        for _ in range(self.levels):
            again = Train(rest, schedule, keeps_best=False, first=self.rewind_step, until=steps)
            phases += [self._prune(context, views), Rewind(TICKET), again]
        return phases

    def _prune(self, context: Context, views: list[WeightView]) -> Phase:
        scorer: Scorer = Lamp(views) if self.scope == "lamp" else Magnitude(views)
        return PruneByFraction(views, scorer, self.fraction, self.scope)


@dataclass(frozen=True, eq=False)
class PruneByFraction:
    """Mask away a fraction of the survivors, and note how far that moves the weights."""

    views: Sequence[WeightView]
    scorer: Scorer
    fraction: float
    scope: str

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        before = copied({name: context.tensors[name] for name in context.executor.trainable()})
        Prune(self.views, self.scorer, self._kept, self._selector(context)).run(context)
        after = {name: context.tensors[name] for name in before}
        context.records[-1]["distance"] = pruning_distance(before, after, self.fraction)

    def _kept(self, alive: int, total: int) -> int:
        return kept_after(alive, self.fraction)

    def _selector(self, context: Context) -> Selector | None:
        if self.scope in ("global", "lamp"):
            return None
        shapes = {view.name: view.shape for view in self.views}
        alive = context.masks.alive if context.masks else sum(context.tensors[name].numel() for name in shapes)
        total = sum(context.tensors[name].numel() for name in shapes)
        density = kept_after(alive, self.fraction) / total
        return PerLayer(uniform(shapes, density) if self.scope == "uniform" else erk(shapes, density))


@dataclass(frozen=True)
class Retrain:
    """Training with a retraining schedule, which may look at how much the pruning before it took."""

    name: str
    trace: tuple[float, ...]
    budget: Budget
    length: float = 1.0

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        distance = next((float(record["distance"]) for record in reversed(context.records) if "distance" in record), 1.0)
        schedule = retraining(self.name, self.trace, distance=distance, length=self.length)
        Train(self.budget, schedule).run(context)
