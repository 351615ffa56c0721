"""CPU time of two versions of one layer, in alternating blocks: seconds would be too long, as there are dozens of layers."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, replace

import numpy as np

from shrinkc.api import FloatArray, Session
from shrinkc.latency.probe import Arrays

ROUNDS, MOST_ROUNDS = 8, 32
"""How many at a time, and at most."""

BLOCK_S = 0.02
LEAST_GAIN = 0.02
"""Share of the time that has to be saved before a layer counts as faster; less is noise."""


@dataclass(frozen=True)
class LayerTimes:
    """CPU seconds of the process per run, before and after: of the blocks that were disturbed least.

    Attributes
    ----------
    before_s, after_s : float
    is_settled : bool
        Whether both halves of the rounds, each by itself, say the same about which is faster.
    """

    before_s: float
    after_s: float
    is_settled: bool = True

    @property
    def ratio(self) -> float:
        """After over before."""
        return self.after_s / max(self.before_s, 1e-9)

    @property
    def is_faster(self) -> bool:
        """Whether time was saved, beyond noise."""
        return self.is_settled and self.ratio <= 1 - LEAST_GAIN


def time_layers(before: Session, after: Session, feed: Arrays) -> LayerTimes:
    """Measure two loaded models of one layer on the same inputs, longer where it is not settled which one is faster."""
    sessions = before, after
    counts = [_runs_per_block(session, feed) for session in sessions]
    rounds: list[list[float]] = []
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        while len(rounds) < MOST_ROUNDS:
            for _ in range(ROUNDS):
                rounds.append([_cpu_s(session, feed, count) for session, count in zip(sessions, counts, strict=True)])
            if (found := settled(np.asarray(rounds))).is_settled:
                return found
    finally:
        if was_enabled:
            gc.enable()
    return found


def settled(rounds: FloatArray) -> LayerTimes:
    """What rounds say together, and whether even and odd ones agree.

    The least of several blocks is the one that nobody disturbed; a median of a busy machine is the machine's.

    Parameters
    ----------
    rounds : ndarray of shape (rounds, 2), float64
        Seconds before and after.
    """
    halves = [_least(half).is_faster for half in (rounds[::2], rounds[1::2])]
    return replace(_least(rounds), is_settled=halves[0] == halves[1])


def _least(rounds: FloatArray) -> LayerTimes:
    before, after = rounds.min(axis=0).tolist()
    return LayerTimes(before, after)


def _runs_per_block(session: Session, feed: Arrays) -> int:
    """Warm up; how many runs fill a block."""
    session.run(feed)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < BLOCK_S:
        session.run(feed)
        count += 1
    return max(1, count)


def _cpu_s(session: Session, feed: Arrays, count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        session.run(feed)
    return (time.process_time() - started) / count
