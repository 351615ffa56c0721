from __future__ import annotations

import math
import time

import pytest
import torch

from shrinkc.errors import RecipeError
from shrinkc.training import budget
from shrinkc.training.schedules import Cosine, Cubic, Linear, Steps, WarmUp, pruning_distance, retraining, trace_of

TRACE = trace_of(Steps(0.1), 160)


def test_budgets_are_read_and_nonsense_is_refused() -> None:
    assert budget.parse("5epochs").steps(7) == 35
    assert budget.parse("2000steps").steps(7) == 2000
    assert budget.parse("3min").seconds == 180
    assert budget.parse("1.5h").steps(7) is None
    assert budget.parse("3cpumin").seconds == 180
    for text in ("0steps", "3", "fast", "-2epochs", "2.5steps"):
        with pytest.raises(RecipeError):
            budget.parse(text)


def test_a_budget_of_cpu_time_does_not_run_while_the_process_waits() -> None:
    on_the_wall, of_the_cpu = budget.parse("1min"), budget.parse("1cpumin")
    started = on_the_wall.clock(), of_the_cpu.clock()
    time.sleep(0.1)
    assert on_the_wall.clock() - started[0] >= 0.1
    assert of_the_cpu.clock() - started[1] < 0.05


def test_parts_of_a_budget_make_up_the_whole() -> None:
    first, rest = budget.parse("100steps").split(0.75, 10)
    assert (first.steps(10), rest.steps(10)) == (75, 25)
    first, rest = budget.parse("4min").split(0.25, 10)
    assert (first.seconds, rest.seconds) == (60, 180)


def test_linear_retraining_starts_at_the_highest_rate_and_sums_to_half_of_it() -> None:
    schedule = retraining("llr", TRACE)
    values = trace_of(schedule, 100)
    assert max(values) == values[10] == pytest.approx(0.1)
    assert values[0] == 0
    assert values[-1] == pytest.approx(0.1 / 90)
    assert sum(values[10:]) == pytest.approx(0.1 * 91 / 2)


def test_rewinding_the_rate_replays_the_last_steps_of_the_trace() -> None:
    assert trace_of(retraining("lrw", TRACE), 50) == TRACE[-50:]
    assert set(trace_of(retraining("ft", TRACE), 9)) == {min(TRACE)}


def test_the_compressed_schedule_of_full_length_is_the_trace_itself() -> None:
    assert trace_of(retraining("slr", TRACE, warm_up=0), len(TRACE)) == TRACE
    short = trace_of(retraining("slr", TRACE, warm_up=0), 16)
    assert short == tuple(TRACE[place * 10] for place in range(16))


def test_the_adaptive_schedule_follows_how_much_went() -> None:
    weights = torch.tensor([3.0, 2.0, 1.0, 0.5])
    distance = pruning_distance({"w": weights}, {"w": weights * (weights > 1)}, 0.5)
    assert distance == pytest.approx(0.41885, abs=1e-5)
    assert max(trace_of(retraining("allr", TRACE, distance=distance, length=0.1), 100)) == pytest.approx(0.1 * distance)
    assert max(trace_of(retraining("allr", TRACE, distance=0.01, length=0.25), 100)) == pytest.approx(0.025)


def test_the_cubic_rule_starts_and_ends_where_it_should_and_rises() -> None:
    values = trace_of(Cubic(0.2, 0.9), 101)
    assert values[0] == pytest.approx(0.2)
    assert Cubic(0.2, 0.9).value(100, 100) == pytest.approx(0.9)
    assert Cubic(0.0, 0.8).value(50, 100) == pytest.approx(0.8 * (1 - 1 / 8))
    assert list(values) == sorted(values)


def test_cosine_and_warm_up() -> None:
    assert Cosine(1.0).value(5, 10) == pytest.approx(0.5)
    ramp = trace_of(WarmUp(Linear(1.0), 0.5, is_linear=True), 10)
    assert ramp[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert ramp[5] == 1
    assert math.isclose(ramp[-1], 0.2)
