"""Settings that are found by trying: the boldest first, each for a short while, until one does not spoil the model.

How far a cut model is from its original decides what helps it.  One that lost much needs large steps and statistics that
follow the batch; one that lost little is only spoiled by them.  Of those that do not spoil it the boldest is taken, not the one
that is furthest after so short a while: small steps pay at once, large ones in the end.  A model that is a little behind after
so short a try says nothing against them: what they cost at first is won back in the rest of the budget, many times as long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shrinkc.errors import DivergedError, TrainingError
from shrinkc.training.budget import Budget
from shrinkc.training.context import Context
from shrinkc.training.interfaces import Phase
from shrinkc.training.phases import Remember, Train
from shrinkc.training.rates import schedule_of
from shrinkc.training.schedules import Schedule
from shrinkc.training.settings import Settings

START = "start of the tries"
"""Snapshot that every try begins with."""

PHASE = "try"

SPOILED = 1.25
"""Share of the loss at the start above which a try has spoiled the model.

On the models of benchmarks/recovery.py, by the divergence from the original on test images after three CPU minutes: settings
whose try ended at 1.2 times the loss ended below all smaller steps, those at 1.6 times and more did not.
"""


@dataclass(frozen=True, eq=False)
class Try:
    """Train with some settings for a while, unless an earlier try did well; the best weights of that are left in the model.

    Attributes
    ----------
    settings : Settings
    budget : Budget
    schedule : Schedule
    """

    settings: Settings
    budget: Budget
    schedule: Schedule

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        if _has_succeeded(context):
            return
        if context.pending is None:
            context.put(context.snapshots[START])
        found = self._trained(context)
        context.cycle = 0  # what comes next sees the same batches
        told = {"learning_rate": self.settings.learning_rate, "batch_norm": self.settings.batch_norm}
        context.records.append({"phase": PHASE, **told, **found})

    def _trained(self, context: Context) -> dict[str, Any]:
        """Losses on the held-out samples, of the weights it began and ended with; None where it diverged."""
        own, context.settings = context.settings, replace(self.settings, evaluations=1)
        try:
            Train(self.budget, self.schedule).run(context)
        except DivergedError:
            return {"before": None, "after": None}
        finally:
            context.settings = own
        record = context.records.pop()
        last = record["last"]["loss"]
        return {"before": record["before"]["loss"], "after": last if math.isfinite(last) else None}


@dataclass(frozen=True, eq=False)
class TrainChosen:
    """Train on with the settings that did well; with the last ones that did not diverge if none did, or none were tried.

    Attributes
    ----------
    candidates : sequence of Settings
        In the order in which they were tried.
    schedules : sequence of Schedule
        Of each.
    rests : sequence of Budget
        What is left after so many tries, one and more; the whole of it where there are none.
    """

    candidates: Sequence[Settings]
    schedules: Sequence[Schedule]
    rests: Sequence[Budget]

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`.

        Raises
        ------
        TrainingError
            The loss was not finite with any of them.
        """
        found = _tries(context)
        finite = [number for number, record in enumerate(found) if record["after"] is not None]
        if found and not finite:
            raise TrainingError(
                "the loss is not finite", where=f"{len(found)} learning rates tried", hint="lower rates, or a bound (clip)"
            )
        chosen = finite[-1] if finite else -1
        context.settings = self.candidates[chosen]
        if context.pending is None and found and not _has_succeeded(context):
            context.put(context.snapshots[START])
        Train(self.rests[len(found) - 1], self.schedules[chosen]).run(context)


def phases_of(candidates: Sequence[Settings], share: float, context: Context) -> Sequence[Phase]:
    """Phases that try candidates, boldest first, for a share of the budget each, and train on with the one that did well.

    Where such a share is not even a step there is nothing to try with, and the mildest is taken.
    """
    per_epoch, rest = context.feeder.order(0).steps_per_epoch, context.settings.length()
    steps = rest.steps(per_epoch)
    # Now and not when they begin: some look at the weights, and a run that is taken up again would see others.
    schedules = [schedule_of(candidate, context) for candidate in candidates]
    if steps is not None and share * steps < 1:
        return [TrainChosen(candidates[-1:], schedules[-1:], [rest])]
    tries, rests = [], []
    for number, (candidate, schedule) in enumerate(zip(candidates, schedules, strict=True)):
        part, rest = rest.split(share / (1 - number * share), per_epoch)
        tries.append(Try(candidate, part, schedule))
        rests.append(rest)
    return [Remember(START), *tries, TrainChosen(candidates, schedules, rests)]


def _tries(context: Context) -> list[dict[str, Any]]:
    return [record for record in context.records if record["phase"] == PHASE]


def _has_succeeded(context: Context) -> bool:
    return any(record["after"] is not None and record["after"] <= SPOILED * record["before"] for record in _tries(context))
