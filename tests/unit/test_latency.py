from __future__ import annotations

import time

import numpy as np
import pytest

from shrinkc.latency import probe

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
