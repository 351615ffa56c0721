"""The phases that recipes are made of."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch

from shrinkc.training import state
from shrinkc.training.averaging import EqualAverage, MovingAverage
from shrinkc.training.budget import Budget
from shrinkc.training.context import Context
from shrinkc.training.interfaces import Parametrization, Phase, Plugin, Scorer, Selector
from shrinkc.training.keeping import Keeper
from shrinkc.training.masks import MaskSet
from shrinkc.training.parametrization import Masked
from shrinkc.training.schedules import Schedule
from shrinkc.training.select import select_k
from shrinkc.training.settings import Settings
from shrinkc.training.trainer import Trainer
from shrinkc.training.views import WeightView


@dataclass(frozen=True, eq=False)
class Train:
    """Train for a while.

    Attributes
    ----------
    budget : Budget
    schedule : Schedule
    plugins : sequence of Plugin
    keeps_best : bool
        End with the best weights seen on the held-out samples, not with the last ones.
    parametrization : Parametrization
    first : int
        Step of the schedule to begin with.
    until : int or None
        Length of the schedule in steps, where it is longer than this phase.
    """

    budget: Budget
    schedule: Schedule
    plugins: Sequence[Plugin] = ()
    keeps_best: bool = True
    parametrization: Parametrization = field(default_factory=Masked)
    first: int = 0
    until: int | None = None

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        started, settings = time.perf_counter(), context.settings
        average = MovingAverage(settings.ema) if settings.ema else EqualAverage(settings.swa) if settings.swa else None
        keeper = Keeper(settings.evaluations, settings.patience, average) if self.keeps_best else None
        plugins = [*self.plugins, *(plugin for plugin in (average, keeper) if plugin is not None)]
        done = context.steps_done if context.pending is None else context.steps_done - context.step
        trainer = Trainer(context, self.schedule, self.budget, plugins, self.parametrization, self.first, self.until)
        trainer.run()
        if keeper is None and average is not None:
            context.put(average.values() or {})
        found, last = (context.evaluate(),) * 2 if keeper is None else (keeper.best, keeper.last)
        context.records.append(
            {
                "phase": "train",
                "steps": context.steps_done - done,
                "ended_early": trainer.has_enough,
                "seconds": time.perf_counter() - started,
                "before": None if keeper is None or keeper.start is None else asdict(keeper.start),
                "after": None if found is None else asdict(found),
                "last": None if last is None else asdict(last),
                "density": context.masks.density(),
            }
        )
        if keeper is None and found is not None and math.isfinite(found.loss):
            context.keep_best()  # of a phase that means its last weights


@dataclass(frozen=True, eq=False)
class Prune:
    """Mask away weights.

    Attributes
    ----------
    views : sequence of WeightView
        That may be masked.
    scorer : Scorer
    kept : callable of (alive, total) to int
        How many weights stay, over everything.
    selector : Selector or None
        None for one ranking over everything.
    """

    views: Sequence[WeightView]
    scorer: Scorer
    kept: Callable[[int, int], int]
    selector: Selector | None = None

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        start_masks(context, self.views)
        masks, scores = context.masks, self.scorer.scores(context)
        k = self.kept(masks.alive, masks.total)
        context.masks = (
            select_k(scores, masks, k) if self.selector is None else self.selector.select(scores, masks, k / masks.total)
        )
        context.masks.apply(context.tensors)
        context.records.append({"phase": "prune", "density": context.masks.density(), "masks_sha256": context.masks.hash()})


def start_masks(context: Context, views: Sequence[WeightView]) -> None:
    """Masks that keep everything, where there are none yet."""
    if not context.masks:
        context.masks = MaskSet.dense(context.weights(views))


@dataclass(frozen=True, eq=False)
class Open:
    """Let weights that are masked away take part again, from zero: all of the given views, whatever else stays masked."""

    views: Sequence[WeightView]

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        start_masks(context, self.views)
        context.masks = MaskSet({**context.masks, **MaskSet.dense(context.weights(self.views))})
        context.records.append({"phase": "open", "density": context.masks.density(), "masks_sha256": context.masks.hash()})


@dataclass(frozen=True)
class Evaluate:
    """Look at the held-out samples and write down what is seen, under a name."""

    name: str

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        found = asdict(context.evaluate())
        context.records.append({"phase": "evaluate", "name": self.name, "after": found, "density": context.masks.density()})


@dataclass(frozen=True)
class Remember:
    """Keep a copy of all weights and statistics under a name."""

    name: str

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        context.snapshot(self.name)


@dataclass(frozen=True)
class Rewind:
    """Put the copy of a name back, masked: weights, biases and statistics."""

    name: str

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        context.put(context.snapshots[self.name])
        context.masks.apply(context.tensors)


@dataclass(frozen=True)
class Average:
    """Put the mean of several copies in, masked: weights, biases and statistics, which one may want to measure anew."""

    names: Sequence[str]

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        copies = [context.snapshots[name] for name in self.names]
        context.put({name: torch.stack([copy[name] for copy in copies]).mean(0) for name in copies[0]})
        context.masks.apply(context.tensors)
        context.records.append({"phase": "average", "of": len(copies), "density": context.masks.density()})


@dataclass(frozen=True)
class Reestimate:
    """Measure the statistics of all BatchNormalizations anew; kept only if the model is better for it.

    One cumulative average over the samples; a running one forgets.
    """

    samples: int = 2048

    @torch.no_grad()
    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        if not context.normalizations:
            return
        before, found = state.copied(context.tensors), context.evaluate()
        measure_statistics(context, self.samples)
        after = context.evaluate()
        is_better = after.is_better_than(found, found)
        if not is_better:
            context.put(before)
        context.records.append({"phase": "statistics", "before": asdict(found), "after": asdict(after), "is_kept": is_better})


def phases_with(settings: Settings, own: Sequence[Phase]) -> Sequence[Phase]:
    """A method's phases, and what the settings of every method add at the end."""
    return [*own, Reestimate()] if settings.reestimate else own


@torch.no_grad()
def measure_statistics(context: Context, most: int) -> None:
    """Give every BatchNormalization the mean and variance of what it reads on ``most`` training samples.

    Layers before it normalise by the statistics of the batch meanwhile, as in training; all batches count alike.
    """
    sums: dict[str, list[torch.Tensor]] = {}
    counts: dict[str, int] = {}
    names = tuple(dict.fromkeys(normalization.data for normalization in context.normalizations))
    context.executor.train()
    context.executor.normalizes, context.executor.drops = True, False
    for number, part in enumerate(context.few(most).parts(context.evaluation_batch)):
        inputs = {name: tensor.to(context.settings.device) for name, tensor in part.inputs.items()}
        with context.drawing("statistics", number):
            values = context.executor(inputs, also=names)
        for name in names:
            _add_up(values[name].double(), name, sums, counts)
    context.executor.eval()
    context.executor.drops = True
    for normalization in context.normalizations:
        mean, square = (total / counts[normalization.data] for total in sums[normalization.data])
        context.tensors[normalization.mean].copy_(mean)
        context.tensors[normalization.variance].copy_((square - mean.square()).clamp_min(0))


def _add_up(value: torch.Tensor, name: str, sums: dict[str, list[torch.Tensor]], counts: dict[str, int]) -> None:
    axes = [axis for axis in range(value.ndim) if axis != 1]
    parts = [value.sum(axes), value.square().sum(axes)]
    sums[name] = [old + new for old, new in zip(sums[name], parts, strict=True)] if name in sums else parts
    counts[name] = counts.get(name, 0) + value.numel() // value.shape[1]


def carry_out(phases: Sequence[Phase], context: Context) -> None:
    """Run phases one after the other, from where a checkpoint left off if there is one.

    Raises
    ------
    RecipeError
        The checkpoint is another run's, or not all processes see it.
    TrainingError
        Training cannot go on; the best weights so far are in the model.
    """
    found = context.checkpoints.found()
    if context.world.size > 1:
        context.world.check_same(
            "" if found is None else json.dumps(dict(found.facts), sort_keys=True),
            "the processes do not go on from the same checkpoint",
            "a folder that all of them share, or no checkpoint",
            context.settings.device,
        )
    if found is not None:
        context.restore(found)
    while context.phase < len(phases) and not context.stopped:
        phases[context.phase].run(context)
        context.phase += not context.stopped
        if context.world.is_main and not context.stopped:
            context.checkpoints.write(context.checkpoint({}, {}))
