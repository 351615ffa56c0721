"""What the stages of one run share."""

from __future__ import annotations

from dataclasses import dataclass, field

from shrinkc.api import RuntimeAdapter
from shrinkc.artifacts import Artifacts
from shrinkc.calibrating import Samples
from shrinkc.factorising import Factorising
from shrinkc.log import Progress
from shrinkc.memory import Memory
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
    memory : Memory
        What earlier runs found out, and later ones may use.
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
    memory: Memory = field(default_factory=Memory)
