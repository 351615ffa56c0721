"""CPU time of two versions of one layer, in alternating blocks: seconds would be too long, as there are dozens of layers."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

import numpy as np

from shrinkc.api import Session
from shrinkc.latency.probe import Arrays

ROUNDS = 7
BLOCK_S = 0.02
LEAST_GAIN = 0.02
"""Share of the time that has to be saved before a layer counts as faster; less is noise."""


@dataclass(frozen=True)
class LayerTimes:
    """CPU seconds of the process per run, before and after: medians over rounds.

    ``ratio`` is the median over rounds of after / before, which other work on the machine disturbs less.
    """

    before_s: float
    after_s: float
    ratio: float

    @property
    def is_faster(self) -> bool:
        """Whether time was saved, beyond noise."""
        return self.ratio <= 1 - LEAST_GAIN


def time_layers(before: Session, after: Session, feed: Arrays) -> LayerTimes:
    """Measure two loaded models of one layer on the same inputs."""
    counts = [_runs_per_block(session, feed) for session in (before, after)]
    rounds = []
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            rounds.append([_cpu_s(session, feed, count) for session, count in zip((before, after), counts, strict=True)])
    finally:
        if was_enabled:
            gc.enable()
    times = np.asarray(rounds)
    first, second = np.median(times, axis=0).tolist()
    return LayerTimes(first, second, float(np.median(times[:, 1] / np.maximum(times[:, 0], 1e-9))))


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
