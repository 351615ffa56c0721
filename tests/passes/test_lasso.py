from __future__ import annotations

import numpy as np
import pytest
from models.readings import contributions, drawn, evidence_of, group_of, reading
from shrinkc.passes.criteria.lasso import let_go

from shrinkc import registry
from shrinkc.evidence.contributions import centred_gram
from shrinkc.evidence.lasso import START, TOLERANCE, Solution, solve, to_width


def gram_of(channels: int, seed: int = 0) -> np.ndarray:
    return centred_gram([reading(*drawn(channels, seed=seed))], channels)


def is_optimal(gram: np.ndarray, solution: Solution) -> bool:
    """KKT: the gradient is the penalty with the coefficient's sign where there is one, and no larger elsewhere."""
    gradient = gram @ (1 - solution.beta)
    live = solution.beta != 0
    at_the_edge = np.allclose(gradient[live], solution.alpha * np.sign(solution.beta[live]), rtol=0, atol=1e-8)
    return bool(at_the_edge and (np.abs(gradient[~live]) <= solution.alpha + 1e-8).all())


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.02, 0.1, 0.4])
@pytest.mark.parametrize("start", [np.zeros(20), np.ones(20), np.linspace(-3, 3, 20)])
def test_solutions_are_optimal_wherever_they_start(alpha: float, start: np.ndarray) -> None:
    gram = gram_of(20)
    assert is_optimal(gram, solve(gram, alpha, start))


def test_solutions_are_those_of_plain_coordinate_descent_on_explicit_contributions() -> None:
    weight, data = drawn(6, taps=2)
    by_output = contributions(weight, data).reshape(len(data), -1, 6)
    z = (by_output - by_output.mean(0)).reshape(-1, 6)
    z /= np.linalg.norm(z.sum(1))
    y, alpha, beta = z.sum(1), 0.1, np.zeros(6)
    for _ in range(2000):
        for c in range(6):
            pull = z[:, c] @ (y - z @ beta + z[:, c] * beta[c])
            beta[c] = np.sign(pull) * max(abs(pull) - alpha, 0) / (z[:, c] @ z[:, c])
    found = solve(centred_gram([reading(weight, data)], 6), alpha, np.zeros(6))
    np.testing.assert_allclose(found.beta, beta, atol=1e-8)
    assert 0 < found.width < 6


def test_a_large_penalty_leaves_nothing_and_none_leaves_all_as_they_are() -> None:
    gram = gram_of(10)
    largest = np.abs(gram.sum(1)).max()
    assert solve(gram, largest * 1.001, np.ones(10)).width == 0
    assert solve(gram, largest * 0.999, np.ones(10)).width == 1
    np.testing.assert_allclose(solve(gram, 1e-12, np.zeros(10)).beta, 1, atol=1e-6)


def test_without_correlation_every_coefficient_is_a_soft_threshold() -> None:
    norms = np.asarray([0.1, 0.4, 0.2, 0.3])
    np.testing.assert_allclose(solve(np.diag(norms), 0.15, np.zeros(4)).beta, np.maximum(1 - 0.15 / norms, 0))
    np.testing.assert_array_equal(let_go(np.diag(norms)).order, np.argsort(norms))


def test_of_those_that_become_zero_together_the_smaller_goes_first() -> None:
    norms = 1 + 1e-4 * np.random.default_rng(0).permutation(60)
    path = let_go(np.diag(norms))
    assert len(np.unique(path.costs)) < 50
    np.testing.assert_array_equal(path.order[6:], np.argsort(norms)[6:])  # of the first ones nothing tells the smaller


@pytest.mark.parametrize("width", [1, 3, 10, 29, 39])
@pytest.mark.parametrize("first", [1e-6, START, 0.3])
def test_the_schedule_finds_an_optimal_solution_within_a_tenth_of_the_width(width: int, first: float) -> None:
    gram = gram_of(40, seed=2)
    found = to_width(gram, width, Solution(first, np.zeros(40)))
    assert width <= found.width <= width * (1 + TOLERANCE)
    assert is_optimal(gram, found)


def test_what_the_order_keeps_is_the_support_of_the_lasso_at_every_width_it_passes() -> None:
    gram = gram_of(24, seed=4)
    path = let_go(gram)
    assert sorted(path.order) == list(range(24))
    alphas = path.costs
    assert (np.diff(alphas) >= 0).all()
    widths = [24 - step for step in range(1, 24) if alphas[step] > alphas[step - 1]]
    nested = set(range(24))
    for width in widths:
        support = set(np.flatnonzero(solve(gram, alphas[24 - width - 1], np.zeros(24)).beta).tolist())
        nested &= support
        assert set(path.order[24 - width :].tolist()) == nested
    assert len(widths) > 10
    scores = registry.load("criteria", "lasso")().scores(group_of(24), None, evidence_of(reading(*drawn(24, seed=4))))
    np.testing.assert_array_equal(np.argsort(scores), path.order)


def test_of_copies_one_stays_to_the_end_and_the_others_go_first() -> None:
    weight, data = drawn(8)
    for copy in (5, 7):
        data[:, copy], weight[:, copy] = data[:, 2], weight[:, 2]
    data[:, 0] = 0
    path = let_go(centred_gram([reading(weight, data)], 8))
    assert path.order[0] == 0
    assert len({2, 5, 7} & set(path.order[1:3].tolist())) == 2
    assert path.costs[:3].max() < 1e-8


def test_a_group_that_does_nothing_still_gets_an_order() -> None:
    weight, data = drawn(4)
    scores = registry.load("criteria", "lasso")().scores(group_of(4), None, evidence_of(reading(weight * 0, data)))
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
