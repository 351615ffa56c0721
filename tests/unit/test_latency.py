from __future__ import annotations

import time

import numpy as np
import pytest

from shrinkc.api import Measurement
from shrinkc.latency import probe, stopwatch

FEED = {"x": np.zeros((2, 1))}


class Clock:
    """A fake clock that sessions move."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0


class Busy:
    """A session that takes a known wall and CPU time."""

    def __init__(self, clock: Clock, wall: float, cpu: float, log: list[str], name: str) -> None:
        self.clock, self.wall, self.cpu, self.log, self.name = clock, wall, cpu, log, name

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.clock.wall += self.wall
        self.clock.cpu += self.cpu
        self.log.append(self.name)
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: fake.wall)
    monkeypatch.setattr(time, "process_time", lambda: fake.cpu)
    return fake


def measured(
    clock: Clock, before: tuple[float, float], after: tuple[float, float], threads: int = 1
) -> tuple[probe.Comparison, list[str]]:
    log: list[str] = []
    a, b = Busy(clock, *before, log, "A"), Busy(clock, *after, log, "B")
    return probe.compare(a, b, FEED, threads), log  # type: ignore[arg-type]


def test_times_and_ratios_are_those_of_the_clock(clock: Clock) -> None:
    result, _ = measured(clock, (0.02, 0.02), (0.005, 0.01))
    assert result.before.wall_median_s == pytest.approx(0.02)
    assert result.after.wall_p90_s == pytest.approx(0.005)
    assert result.speedup == pytest.approx(4)
    assert result.cpu_speedup == pytest.approx(2)
    assert result.drift == pytest.approx(0, abs=1e-9)
    assert result.batch == 2


def test_blocks_alternate_and_end_where_they_began(clock: Clock) -> None:
    _, log = measured(clock, (0.1, 0.1), (0.1, 0.1))
    turns = [name for index, name in enumerate(log) if index == 0 or log[index - 1] != name]
    assert turns == ["A", "B"] * (probe.ROUNDS + 1) + ["A"], "warm-up of both, then A B A B … A"


def test_wall_time_beyond_cpu_time_is_marked_contended(clock: Clock) -> None:
    result, _ = measured(clock, (0.02, 0.01), (0.01, 0.01))
    assert result.before.is_contended
    assert not result.after.is_contended


def test_a_slow_model_is_not_run_hundreds_of_times(clock: Clock) -> None:
    _, log = measured(clock, (5.0, 5.0), (5.0, 5.0))
    assert len(log) <= 2 * 2 + 2 * probe.ROUNDS + 1


class Recorded:
    """An engine's session that plays back what it measured, block by block."""

    def __init__(self, blocks: list[tuple[float, float]], log: list[str], name: str) -> None:
        self.blocks, self.log, self.name = iter(blocks), log, name

    def bench(self, inputs: dict[str, np.ndarray], *, seconds: float) -> Measurement:
        self.log.append(self.name)
        wall, cpu = next(self.blocks)
        return Measurement((wall, 2 * wall), (cpu, 2 * cpu), 1, 0.0, 0, False)


def played(threads: int, cpu_share: float) -> tuple[probe.Comparison, list[str]]:
    """A takes 4 ms, then 8 ms; B always half of it."""
    log: list[str] = []
    walls = [1.0, *[4e-3] * 3, *[8e-3] * 3]
    a, b = (
        Recorded([(wall * factor, wall * factor * cpu_share) for wall in walls], log, name)
        for name, factor in (("A", 1.0), ("B", 0.5))
    )
    return probe.compare_engines(a, b, FEED, threads), log  # type: ignore[arg-type]


def test_engines_take_turns_and_a_machine_that_slows_down_changes_no_ratio() -> None:
    found, log = played(threads=1, cpu_share=1.0)
    assert log == ["A", "B", *["A", "B"] * probe.ROUNDS, "A"]
    assert (found.speedup, found.cpu_speedup, found.fair_speedup) == pytest.approx((2, 2, 2))
    assert found.drift == pytest.approx(1)
    assert found.before.cpu_least_s == pytest.approx(4e-3)
    assert not found.is_contended


def test_waiting_for_an_accelerator_is_no_contention() -> None:
    assert played(threads=1, cpu_share=0.3)[0].is_contended
    found = played(threads=0, cpu_share=0.0)[0]
    assert not found.is_contended
    assert found.fair_speedup == pytest.approx(2)


class Uneven:
    """A stopwatch on a processor that is now fast, now slow, in turns of a few blocks; models are their own seconds."""

    def __init__(self) -> None:
        self.blocks = 0

    def seconds(self, session: float, feed: object, blocks: int) -> float:
        self.blocks += 1
        return session * (1.3 if self.blocks % 11 > 6 else 1.0)


def test_a_share_is_that_of_pairs_and_a_processor_that_changes_its_speed_does_not_matter() -> None:
    watch = Uneven()
    assert stopwatch.share(watch, 4e-4, 1e-4, FEED) == pytest.approx(0.25)  # type: ignore[arg-type, type-var]
    assert watch.blocks == 2 * stopwatch.PAIRS


def test_slow_models_are_paired_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Uneven()
    now = iter(np.arange(0, 1000, 10.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    assert stopwatch.share(watch, 2.0, 1.0, FEED) == pytest.approx(0.5)  # type: ignore[arg-type, type-var]
    assert watch.blocks == 2 * stopwatch.LEAST_PAIRS
