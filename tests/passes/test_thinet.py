from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from models.readings import contributions, drawn, evidence_of, group_of, reading
from shrinkc.passes.criteria.thinet_a import backwards
from shrinkc.passes.criteria.thinet_b import pursue

from shrinkc import registry
from shrinkc.evidence.contributions import uncentred_gram


@pytest.mark.parametrize("taps", [1, 4])
def test_variant_a_removes_what_step_by_step_leaves_the_smallest_sum(taps: int) -> None:
    weight, data = drawn(8, taps=taps)
    z = contributions(weight, data)
    removed: list[int] = []
    norms = []
    while len(removed) < 8:
        sizes = {c: np.square(z[:, [*removed, c]].sum(1)).sum() for c in range(8) if c not in removed}
        removed.append(min(sizes, key=sizes.__getitem__))
        norms.append(sizes[removed[-1]])
    found = backwards(uncentred_gram([reading(weight, data)], 8))
    np.testing.assert_array_equal(found.order, removed)
    np.testing.assert_allclose(np.cumsum(found.costs), norms / np.square(z.sum(1)).sum(), rtol=1e-9)
    scores = registry.load("criteria", "thinet-a")().scores(group_of(8), None, evidence_of(reading(weight, data)))
    np.testing.assert_array_equal(np.argsort(scores), removed)


@pytest.mark.parametrize("taps", [1, 4])
def test_variant_b_selects_what_step_by_step_fits_the_residual_best(taps: int) -> None:
    weight, data = drawn(8, taps=taps)
    z = contributions(weight, data)
    y = residual = z.sum(1)
    taken: list[int] = []
    gains = []
    while len(taken) < 8:
        sizes = {}
        for c in (c for c in range(8) if c not in taken):
            sizes[c] = np.square(residual - z[:, c] * (z[:, c] @ residual) / (z[:, c] @ z[:, c])).sum()
        taken.append(min(sizes, key=sizes.__getitem__))
        after = y - z[:, taken] @ np.linalg.lstsq(z[:, taken], y, rcond=None)[0]
        gains.append((residual @ residual - after @ after) / (y @ y))
        residual = after
    found = pursue(uncentred_gram([reading(weight, data)], 8))
    np.testing.assert_array_equal(found.order, taken[::-1])
    np.testing.assert_allclose(found.costs, gains[::-1], atol=1e-9)
    scores = registry.load("criteria", "thinet-b")().scores(group_of(8), None, evidence_of(reading(weight, data)))
    np.testing.assert_array_equal(np.argsort(-scores), taken)


def test_pursuit_is_never_better_than_the_best_set_and_explains_everything_with_all() -> None:
    weight, data = drawn(6, seed=3)
    z = contributions(weight, data)
    y = z.sum(1)
    found = pursue(uncentred_gram([reading(weight, data)], 6))
    for size in range(1, 6):
        best = min(_error(z[:, list(kept)], y) for kept in combinations(range(6), size))
        own = found.costs[:-size].sum()
        assert own == pytest.approx(_error(z[:, found.order[-size:]], y), abs=1e-9)
        assert own >= best - 1e-12
    assert found.costs.sum() == pytest.approx(1)


def _error(z: np.ndarray, y: np.ndarray) -> float:
    return float(np.square(y - z @ np.linalg.lstsq(z, y, rcond=None)[0]).sum() / (y @ y))


def test_pursuit_needs_no_multiple_of_a_channel_it_has() -> None:
    weight, data = drawn(6)
    data[:, 4] = 2 * data[:, 1]
    weight[:, 4] = -0.25 * weight[:, 1]
    found = pursue(uncentred_gram([reading(weight, data)], 6))
    assert found.order[0] in (1, 4)
    assert found.costs[0] == 0
    assert found.costs[1:].sum() == pytest.approx(1)


def test_a_pair_that_cancels_is_free_for_variant_a() -> None:
    weight, data = drawn(5)
    data[:, 3], weight[:, 3] = data[:, 2], -weight[:, 2]
    weight[:, 2:4] *= 1e-2
    found = backwards(uncentred_gram([reading(weight, data)], 5))
    assert set(found.order[:2].tolist()) == {2, 3}
    assert found.costs[0] > 0
    assert found.costs[:2].sum() == pytest.approx(0, abs=1e-12)
