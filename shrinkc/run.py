"""What the stages of one run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shrinkc.api import RuntimeAdapter
from shrinkc.artifacts import Artifacts
from shrinkc.calibrating import Samples
from shrinkc.evidence.data import Data
from shrinkc.factorising import Factorising
from shrinkc.log import Progress
from shrinkc.memory import Found, Memory, key_of
from shrinkc.opening import Opened
from shrinkc.recipe import Recipe
from shrinkc.timing import Timed


@dataclass(frozen=True)
class Run:
    """What the stages after opening share.

    Attributes
    ----------
    opened : Opened
    recipe : Recipe
    artifacts : Artifacts
    samples : Samples
    runtime : RuntimeAdapter
        Of the evidence, the proof and the measurements.
    progress : Progress
    factorising : Factorising
        Idle where the method is ``channels``.
    threads : int
        Of the latency measurements.
    timed : Timed or None
        What the forecast of latency rests on, where there is one.
    memory : Memory or None
        What earlier runs found out, and later ones may use; without one nothing is held longer than it is needed.
    """

    opened: Opened
    recipe: Recipe
    artifacts: Artifacts
    samples: Samples
    runtime: RuntimeAdapter
    progress: Progress
    factorising: Factorising
    threads: int = 1
    timed: Timed | None = None
    memory: Memory | None = None

    def remembered(self, what: tuple[str, ...], samples: Data | None, make: Callable[[], Found]) -> Found:
        """What an earlier run found out from the same model and samples under a name, else what ``make`` gives."""
        if self.memory is None:
            return make()
        return self.memory.recall((*what, key_of(self.opened, self.recipe, samples)), make)
