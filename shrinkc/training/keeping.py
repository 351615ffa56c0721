"""Keeps the best weights so far, by held-out samples, and stops when nothing better comes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from shrinkc.training.averaging import Average
from shrinkc.training.context import BEST, Context
from shrinkc.training.evaluation import Metrics
from shrinkc.training.interfaces import Plugin, Signal, Values

TRAINING_PASSES = 3
"""What a sample costs in a training step, in passes through the model: one forward, about two backward."""

LARGEST_SHARE = 0.1
"""Of the work that may go into looking at held-out samples."""

METRICS = ("start", "best", "last")


class Keeper(Plugin):
    """Looks at the held-out samples now and then: how the model was at the start, at its best, and when last looked at.

    Parameters
    ----------
    evaluations : int
        How often, evenly over a phase; less often where that would cost more than :data:`LARGEST_SHARE` of the training.
    patience : int
        Evaluations without a better one before it wants to stop, 0 for never.
    average : Average or None
        What is looked at, in place of the weights themselves.
    """

    def __init__(self, evaluations: int, patience: int, average: Average | None = None) -> None:
        self._evaluations, self._patience, self._average = evaluations, patience, average
        self.start: Metrics | None = None
        self.best: Metrics | None = None
        self.last: Metrics | None = None
        self._waited = 0
        self._looked, self._looked_at = 0.0, 0

    def on_cycle_start(self, context: Context) -> None:
        """See :class:`Plugin`."""
        self.start = self.best = context.evaluate()
        context.keep_best()

    def look(self, context: Context, share: float) -> Signal:
        """Evaluate if it is time: so many times a phase, evenly, of which ``share`` is done."""
        if math.floor(share * self._evaluations) <= math.floor(self._looked * self._evaluations):
            return Signal.GO_ON
        if share < 1 and self._is_too_soon(context):
            return Signal.GO_ON
        self._looked, self._looked_at = share, context.step
        self._judge(context)
        return Signal.STOP if self._patience and self._waited >= self._patience else Signal.GO_ON

    def _is_too_soon(self, context: Context) -> bool:
        """Whether a look would cost more than its share; one that costs no more than two steps never does."""
        a_step = TRAINING_PASSES * context.settings.batch
        steps = context.step - self._looked_at
        return len(context.judged) > a_step * max(2, LARGEST_SHARE * steps)

    def after_step(self, context: Context) -> Signal:
        """See :class:`Plugin`."""
        return self.look(context, context.done)

    def on_cycle_end(self, context: Context) -> None:
        """Judge what came out, and leave the best there is in the model."""
        if self._looked < 1:
            self._judge(context)
        context.put(context.snapshots[BEST])

    def _judge(self, context: Context) -> None:
        candidate = None if self._average is None else self._average.values()
        with context.with_weights(candidate):
            found = self.last = context.evaluate()
            self._waited += 1
            if self.best is not None and self.start is not None and found.is_better_than(self.best, self.start):
                self.best, self._waited = found, 0
                context.keep_best()

    def facts(self) -> dict[str, object]:
        """See :class:`Plugin`."""
        held = {name: None if (value := getattr(self, name)) is None else asdict(value) for name in METRICS}
        return {**held, "waited": self._waited, "looked": self._looked, "looked_at": self._looked_at, "said": self._said()}

    def _said(self) -> str:
        if self.best is None:
            return ""
        shares = {"accuracy": self.best.accuracy, "agreement": self.best.agreement}
        told = [f"{name} {share:.2%}" for name, share in shares.items() if share is not None]
        return ", ".join([f"held-out loss {self.best.loss:.4g}", *told])

    def restore(self, tensors: Values, facts: Mapping[str, Any]) -> None:
        """See :class:`Plugin`."""
        self.start, self.best, self.last = (None if facts[name] is None else Metrics(**facts[name]) for name in METRICS)
        self._waited, self._looked = int(facts["waited"]), float(facts["looked"])
        self._looked_at = int(facts["looked_at"])
