"""Allocators that minimise the total error: against all width combinations, and against the uniform share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shrinkc.passes.allocators.dynamic_programming import DynamicProgramming, knapsack
from shrinkc.passes.allocators.lagrangian import Lagrangian, lower_hull, width_grid

from shrinkc.analysis.forming import Group
from shrinkc.api import Allocator, Problem

WIDTHS = (7, 5, 6)
PRICES = (1, 4, 2)


def group(name: str, width: int) -> Group:
    return Group(name, np.arange(width), (), np.zeros(width, np.int64), 1, True)


def made(seed: int, widths: Sequence[int] = WIDTHS, *, convex: bool, chained: bool, step: int = 1) -> Problem:
    random = np.random.default_rng(seed)
    groups = [group(f"g{number}", width) for number, width in enumerate(widths)]
    errors = {}
    for one in groups:
        drops = random.exponential(size=one.width) * random.uniform(0.2, 2)
        errors[one.name] = np.append(np.cumsum(np.sort(drops) if convex else drops)[::-1], 0.0)
    return Problem(
        groups, {}, True, lambda one: errors[one.name], chain_price(widths) if chained else sum_price(widths), lambda _: step
    )


def sum_price(full: Sequence[int]) -> object:
    total = sum(price * width for price, width in zip(PRICES, full, strict=True))
    return lambda widths: sum(PRICES[int(name[1:])] * width for name, width in widths.items()) / total


def chain_price(full: Sequence[int]) -> object:
    """A chain of layers, each of which costs its inputs times its outputs; three inputs and four outputs stay."""

    def cost(widths: Sequence[float]) -> float:
        line = [3, *widths, 4]
        return sum(price * a * b for price, a, b in zip((3, 2, 1, 5), line, line[1:], strict=False))

    return lambda widths: cost([widths[f"g{number}"] for number in range(len(full))]) / cost(full)


def total(problem: Problem, widths: Mapping[str, float]) -> float:
    """Total error, straight between whole widths."""
    return sum(float(np.interp(widths[one.name], np.arange(one.width + 1), problem.errors(one))) for one in problem.groups)


def best_error(problem: Problem, price: float) -> float:
    """Least error of all combinations of whole widths within a price."""
    names = [one.name for one in problem.groups]
    every = (dict(zip(names, c, strict=True)) for c in itertools.product(*(range(1, one.width + 1) for one in problem.groups)))
    return min(total(problem, widths) for widths in every if problem.price(widths) <= price + 1e-12)


def pressure_for(problem: Problem, price: float) -> float:
    full, least = ({one.name: width for one in problem.groups for width in [one.width if k else 1]} for k in (1, 0))
    return (problem.price(full) - price) / (problem.price(full) - problem.price(least))


@pytest.mark.parametrize("seed", range(6))
def test_dynamic_programming_finds_the_best_of_all_combinations_of_separable_prices(seed: int) -> None:
    problem, allocator = made(seed, convex=False, chained=False), DynamicProgramming()
    whole = sum(price * width for price, width in zip(PRICES, WIDTHS, strict=True))
    for paid in range(8, whole, 4):
        widths = allocator.widths(problem, pressure_for(problem, (paid + 0.5) / whole))
        assert problem.price(widths) <= (paid + 0.5) / whole
        assert total(problem, widths) == pytest.approx(best_error(problem, paid / whole))


@pytest.mark.parametrize("seed", range(4))
def test_the_lagrangian_is_optimal_for_every_price_its_walk_reaches(seed: int) -> None:
    problem = made(seed, convex=False, chained=False)
    walk = Lagrangian().walk(problem)
    for price in walk.prices.tolist():
        widths = walk.at(price)
        assert problem.price(widths) == pytest.approx(price)
        assert total(problem, widths) == pytest.approx(best_error(problem, price))


@pytest.mark.parametrize(("allocator", "mean_excess"), [(Lagrangian(), 0.04), (DynamicProgramming(), 0.01)])
def test_products_of_widths_cost_a_few_percent_of_error_on_average(allocator: Allocator, mean_excess: float) -> None:
    excesses = []
    for seed in range(8):
        problem = made(seed, convex=False, chained=True)
        for pressure in (0.2, 0.4, 0.6, 0.8):
            wanted = allocator.widths(problem, pressure)
            widths = {name: max(1, int(width + 1e-9)) for name, width in wanted.items()}
            excesses.append(total(problem, widths) / best_error(problem, problem.price(widths)) - 1)
    assert min(excesses) >= -1e-9
    assert np.mean(excesses) <= mean_excess


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), pressure=st.floats(0.02, 0.98), chained=st.booleans())
def test_uniform_widths_of_the_same_price_never_err_less(seed: int, pressure: float, chained: bool) -> None:
    problem = made(seed, (40, 30, 36), convex=True, chained=chained)
    uniform = {one.name: 1 + (1 - pressure) * (one.width - 1) for one in problem.groups}
    share = pressure_for(problem, problem.price(uniform))
    widths = Lagrangian().widths(problem, share)
    assert total(problem, widths) <= total(problem, uniform) * (1.01 if chained else 1 + 1e-9)
    solved = DynamicProgramming().widths(problem, share)
    whole = {name: float(int(width)) for name, width in uniform.items()}
    assert total(problem, solved) <= total(problem, whole) * 1.01


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), step=st.integers(1, 4), chained=st.booleans())
def test_the_price_stays_below_a_limit_that_falls_with_the_pressure(seed: int, step: int, chained: bool) -> None:
    problem = made(seed, (20, 9, 16), convex=False, chained=chained, step=step)
    walking, solving = Lagrangian(), DynamicProgramming()
    walk = walking.walk(problem)
    before = walking.widths(problem, 0.0)
    assert before == {one.name: one.width for one in problem.groups}
    for pressure in np.linspace(0, 1, 7)[1:].tolist():
        widths = walking.widths(problem, pressure)
        assert all(widths[name] <= before[name] for name in widths), "no width grows"
        assert problem.price(widths) <= walk.target(pressure) + (1e-9 if not chained else 1e-6)
        solved = solving.widths(problem, pressure)
        assert problem.price(solved) <= walk.target(pressure) + 1e-9
        assert all(solved[one.name] % step == 0 or solved[one.name] == one.width for one in problem.groups)
        before = widths
    assert before == {one.name: min(step, one.width) for one in problem.groups}


def test_a_walk_is_worked_out_once_for_a_problem() -> None:
    asked = []
    plain = made(0, convex=True, chained=True)
    problem = Problem(plain.groups, {}, True, plain.errors, lambda widths: asked.append(1) or plain.price(widths), plain.step)  # type: ignore[func-returns-value]
    allocator = Lagrangian()
    allocator.widths(problem, 0.3)
    count = len(asked)
    allocator.widths(problem, 0.7)
    assert len(asked) == count


def test_hulls_leave_out_what_lies_above_them() -> None:
    errors = np.array([9.0, 4, 3.9, 1, 0.5, 0])
    assert lower_hull(np.arange(1, 6), errors).tolist() == [5, 3, 1]


def test_grids_hold_multiples_of_the_step_the_least_and_the_whole() -> None:
    assert width_grid(group("g", 20), 8, 64).tolist() == [8, 16, 20]
    thin = width_grid(group("g", 1000), 8, 10)
    assert thin[0] == 8
    assert thin[-1] == 1000
    assert len(thin) <= 11
    assert all(width % 8 == 0 for width in thin[:-1])
    assert width_grid(group("g", 1), 8, 10).tolist() == [1]


def test_a_knapsack_without_budget_takes_what_is_free() -> None:
    errors, prices = [np.array([2.0, 1.0]), np.array([3.0, 0.0])], [np.array([0.0, 1.0]), np.array([0.0, 1.0])]
    assert knapsack(errors, prices, 0.0).tolist() == [0, 0]
    assert knapsack(errors, prices, 1.0).tolist() == [0, 1]
    assert knapsack(errors, prices, 2.0).tolist() == [1, 1]
