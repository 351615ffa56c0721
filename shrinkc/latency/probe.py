"""Latency of two models side by side: interleaved, warmed up, wall and CPU time, and honest about disturbance."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from shrinkc.api import EngineSession, Session

WARMUP_S = 0.3
BLOCK_S = 0.25
ROUNDS = 5
MAX_RUNS = 500

CONTENDED_RATIO = 1.25
"""Wall over CPU time per thread above which something else had the processor."""

COARSE_CLOCK_S = 1e-9

Arrays = Mapping[str, np.ndarray]

Timed = TypeVar("Timed", bound=Session)


@dataclass(frozen=True)
class Timing:
    """One model on one runtime.

    Attributes
    ----------
    wall_median_s, wall_p90_s : float
        Seconds per run.
    cpu_median_s : float
        CPU seconds of the process per run, all threads together (median over blocks).
    cpu_least_s : float
        CPU seconds of the run that was disturbed least.
    runs : int
    is_contended : bool
        Wall and CPU time disagree: other work disturbed the measurement.
    """

    wall_median_s: float
    wall_p90_s: float
    cpu_median_s: float
    cpu_least_s: float
    runs: int
    is_contended: bool


@dataclass(frozen=True)
class Comparison:
    """Two models measured in alternating blocks (A B A B … A).

    Attributes
    ----------
    before, after : Timing
    speedup : float
        Median over rounds of wall time per run before / after.
    speedup_low, speedup_high : float
        Smallest and largest round.
    cpu_speedup : float
        The same of CPU time, which other programs on the machine disturb less.
    drift : float
        Last block of A over the first, minus one.
    threads, batch : int
    load_average : float
        Of the machine, over the last minute, when the measurement ended.
    """

    before: Timing
    after: Timing
    speedup: float
    speedup_low: float
    speedup_high: float
    cpu_speedup: float
    drift: float
    threads: int
    batch: int
    load_average: float

    @property
    def is_contended(self) -> bool:
        """Whether either model was disturbed."""
        return self.before.is_contended or self.after.is_contended

    @property
    def fair_speedup(self) -> float:
        """Speed-up by wall time or, where others disturbed that, by the CPU time of the least disturbed runs."""
        return self.before.cpu_least_s / self.after.cpu_least_s if self._is_by_cpu else self.speedup

    @property
    def fair_seconds(self) -> float:
        """Time of the second model by the same clock."""
        return self.after.cpu_least_s if self._is_by_cpu else self.after.wall_median_s

    @property
    def _is_by_cpu(self) -> bool:
        return self.threads == 1 and self.is_contended and self.after.cpu_least_s > 0


@dataclass
class _Blocks:
    """Samples of one model."""

    wall_s: list[np.ndarray]
    cpu_s: list[float]
    least_cpu_s: float = float("inf")

    def timing(self, threads: int) -> Timing:
        wall = np.concatenate(self.wall_s)
        cpu = float(np.median(self.cpu_s))
        mean_wall = float(np.median([block.mean() for block in self.wall_s]))
        # With several threads idle waiting lowers CPU time too, so only the single-threaded case can be told apart.
        is_contended = threads == 1 and mean_wall > CONTENDED_RATIO * cpu
        return Timing(float(np.median(wall)), float(np.percentile(wall, 90)), cpu, self.least_cpu_s, len(wall), is_contended)


def compare(before: Session, after: Session, feed: Arrays, threads: int) -> Comparison:
    """Measure two loaded models.

    Parameters
    ----------
    before, after : Session
    feed : mapping of input name to ndarray
        One batch; both models get the same.
    threads : int
        That the sessions were loaded with.
    """
    runs = {id(session): _warm_up(session, feed) for session in (before, after)}
    gc.collect()
    gc.disable()
    try:
        blocks = _in_turns(lambda session, block: _measure(session, feed, runs[id(session)], block), before, after)
    finally:
        gc.enable()
    return _compared(blocks, feed, threads)


def compare_engines(before: EngineSession, after: EngineSession, feed: Arrays, threads: int) -> Comparison:
    """The same of two models that engines have loaded in processes of their own, which take the times themselves.

    ``threads`` is 0 for an engine whose CPU time says nothing of how busy it is.

    Raises
    ------
    RuntimeUnavailable
        A time taken where they run would mean nothing.
    BuildError
        An engine fails, crashes or hangs.
    """
    for session in (before, after):
        session.bench(feed, seconds=WARMUP_S)
    return _compared(_in_turns(lambda session, block: _bench(session, feed, block), before, after), feed, threads)


def _in_turns(measure: Callable[[Timed, _Blocks], None], before: Timed, after: Timed) -> tuple[_Blocks, _Blocks]:
    """Blocks of two models that take turns, the first one's once more at the end."""
    blocks = _Blocks([], []), _Blocks([], [])
    for _ in range(ROUNDS):
        measure(before, blocks[0])
        measure(after, blocks[1])
    measure(before, blocks[0])
    return blocks


def _compared(blocks: tuple[_Blocks, _Blocks], feed: Arrays, threads: int) -> Comparison:
    wall = [float(np.median(a) / np.median(b)) for a, b in zip(blocks[0].wall_s[:ROUNDS], blocks[1].wall_s, strict=True)]
    cpu = [a / b for a, b in zip(blocks[0].cpu_s[:ROUNDS], blocks[1].cpu_s, strict=True)]
    batch = len(next(iter(feed.values()))) if feed else 1
    return Comparison(
        blocks[0].timing(threads),
        blocks[1].timing(threads),
        float(np.median(wall)),
        min(wall),
        max(wall),
        float(np.median(cpu)),
        float(blocks[0].cpu_s[-1] / blocks[0].cpu_s[0] - 1),
        threads,
        batch,
        os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan"),
    )


def _bench(session: EngineSession, feed: Arrays, block: _Blocks) -> None:
    found = session.bench(feed, seconds=BLOCK_S)
    block.wall_s.append(np.asarray(found.wall_s))
    # Clocks of some systems are too coarse for a single run; a ratio of zeros would say nothing.
    block.cpu_s.append(max(float(np.mean(found.cpu_s)), COARSE_CLOCK_S))
    block.least_cpu_s = min(block.least_cpu_s, min(found.cpu_s))


def _warm_up(session: Session, feed: Arrays) -> int:
    """Run for a while; returns how many runs fill a block."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < WARMUP_S or count < 2:
        session.run(feed)
        count += 1
    per_run = (time.perf_counter() - started) / count
    return int(min(MAX_RUNS, max(1, BLOCK_S / per_run)))


def _measure(session: Session, feed: Arrays, count: int, block: _Blocks) -> None:
    wall, cpu = np.empty(count), np.empty(count)
    for index in range(count):
        cpu_started, started = time.process_time(), time.perf_counter()
        session.run(feed)
        wall[index], cpu[index] = time.perf_counter() - started, time.process_time() - cpu_started
    block.cpu_s.append(float(cpu.mean()))
    block.least_cpu_s = min(block.least_cpu_s, float(cpu.min()))
    block.wall_s.append(wall)
