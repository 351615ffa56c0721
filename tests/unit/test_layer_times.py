"""Whether factors take less time than a layer whole: verdicts that noise does not turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shrinkc.latency import layer_times
from shrinkc.latency.layer_times import LayerTimes, settled, time_layers
from shrinkc.latency.measured_pairs import MeasuredPairs


def rounds(ratio: float, seed: int, count: int = 16) -> np.ndarray:
    """Blocks of two versions on a machine that others disturb two thirds of the time, by up to three times."""
    random = np.random.default_rng(seed)
    disturbed = np.where(random.random((count, 2)) < 2 / 3, 1 + 2 * random.random((count, 2)), 1.0)
    return np.asarray([1e-3, ratio * 1e-3]) * disturbed * (1 + 0.002 * random.standard_normal((count, 2)))


@pytest.mark.parametrize("ratio", [0.7, 0.93, 1.03, 1.5])
def test_disturbed_blocks_do_not_turn_a_verdict(ratio: float) -> None:
    verdicts = [found for seed in range(200) if (found := settled(rounds(ratio, seed))).is_settled]
    assert len(verdicts) > 150
    assert all(found.is_faster == (ratio < 1) for found in verdicts)


def test_halves_that_disagree_settle_nothing_and_what_is_not_settled_is_not_faster() -> None:
    found = settled(np.asarray([[1.0, 0.9], [1.0, 1.1]] * 4))
    assert not found.is_settled
    assert found.ratio == pytest.approx(0.9)
    assert not found.is_faster
    assert not LayerTimes(1.0, 0.99).is_faster  # less than what counts as a gain


class Session:
    """Takes the CPU times that it is told, block by block."""

    def __init__(self, clock: list[float], seconds: list[float]) -> None:
        self.clock, self.seconds, self.count = clock, seconds, 0

    def run(self, feed: object) -> None:
        self.clock[0] += self.seconds[min(self.count, len(self.seconds) - 1)]
        self.count += 1


@pytest.mark.parametrize(("after", "expected"), [([0.03], 8), ([0.03] * 2 + [0.03, 0.05] * 40, 32)])
def test_a_layer_is_timed_longer_while_nothing_is_settled(
    monkeypatch: pytest.MonkeyPatch, after: list[float], expected: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr(layer_times.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(layer_times.time, "perf_counter", lambda: clock[0])
    sessions = Session(clock, [0.04]), Session(clock, after)
    found = time_layers(*sessions, {})  # type: ignore[arg-type]
    assert sessions[1].count == 2 + expected  # two to warm up
    assert found.is_settled == found.is_faster == (expected == 8)


def test_what_was_measured_is_kept_and_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "factors.json"
    MeasuredPairs(path).add("a", LayerTimes(2.0, 1.0, False))
    assert MeasuredPairs(path).of("a") == LayerTimes(2.0, 1.0, False)
    assert MeasuredPairs(path).of("b") is None
    path.write_text('{"schema": "shrinkc.measured-layers/1", "layers": {"a": {"seconds": 1}}}')
    assert MeasuredPairs(path).of("a") is None
