from __future__ import annotations

import numpy as np
import pytest
from models.readings import contributions, drawn, evidence_of, group_of, reading

from shrinkc import registry
from shrinkc.evidence import contributions as core
from shrinkc.evidence.elimination import greedily
from shrinkc.evidence.ordering import Removals


def test_the_gram_is_that_of_explicit_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "BLOCK", 4)  # several blocks that cut through channels
    weight, data = drawn(5, taps=3)
    z, rows = contributions(weight, data), len(data)
    y = z.sum(1)
    gram = core.uncentred_gram([reading(weight, data)], 5)
    np.testing.assert_allclose(gram, z.T @ z / (y @ y), rtol=1e-10)
    np.testing.assert_allclose(gram.sum(1), z.T @ y / (y @ y), rtol=1e-10)
    by_output = z.reshape(rows, -1, 5)
    centred = (by_output - by_output.mean(0)).reshape(-1, 5)
    energy = np.square(centred.sum(1)).sum()
    np.testing.assert_allclose(core.centred_gram([reading(weight, data)], 5), centred.T @ centred / energy, atol=1e-12)


def test_columns_of_one_position_are_summed_and_those_of_others_only_count_as_energy() -> None:
    weight, data = drawn(5, taps=2)
    z = contributions(weight, data)
    own = np.stack([z[:, 0] + z[:, 3], z[:, 1], np.zeros(len(z))], axis=1)
    energy = np.square(z.sum(1)).sum()
    gram = core.uncentred_gram([reading(weight, data, [0, 1, -1, 0, -1])], 3)
    np.testing.assert_allclose(gram, own.T @ own / energy, rtol=1e-10)


def test_consumers_count_relative_to_their_energy_and_silent_ones_not_at_all() -> None:
    first, second = drawn(4, seed=1), drawn(4, taps=2, seed=2)
    both = core.uncentred_gram([reading(*first), reading(*second)], 4)
    louder = core.uncentred_gram([reading(first[0] * 7, first[1]), reading(*second), reading(first[0] * 0, first[1])], 4)
    np.testing.assert_allclose(both, louder, rtol=1e-10)
    alone = [core.uncentred_gram([reading(*each)], 4) for each in (first, second)]
    np.testing.assert_allclose(both, alone[0] + alone[1], rtol=1e-10)


def test_scores_rise_strictly_along_the_order_whatever_it_costs() -> None:
    order = np.asarray([2, 0, 3, 1])
    for costs in ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 5.0], [3.0, -1.0, 2.0, 4.0], [-2.0, -3.0, 1.0, 1.0]):
        scores = Removals(order, np.asarray(costs)).scores()
        np.testing.assert_array_equal(np.argsort(scores, kind="stable"), order)
        assert scores.min() >= 0
        np.testing.assert_allclose(scores[order], np.maximum.accumulate(np.maximum(costs, 0)), atol=1e-8)


@pytest.mark.parametrize("taps", [1, 2])
def test_the_first_removal_of_structured_obs_is_the_best_of_all_by_brute_force(taps: int) -> None:
    weight, data = drawn(7, taps=taps, outputs=3)
    # So many rows that the ridge is next to nothing.
    elimination = greedily([reading(weight, data, rows=10**9)], 7)
    errors = [_refit_error(weight, data, [c for c in range(7) if c != gone]) for gone in range(7)]
    assert elimination.order[0] == np.argmin(errors)
    assert elimination.errors[1] == pytest.approx(min(errors), rel=1e-3)
    assert elimination.errors[3] == pytest.approx(_refit_error(weight, data, sorted(elimination.order[3:])), rel=1e-3)
    scores = registry.load("criteria", "obs")().scores(group_of(7), None, evidence_of(reading(weight, data, rows=10**9)))
    np.testing.assert_array_equal(np.argsort(scores), elimination.order)


def _refit_error(weight: np.ndarray, data: np.ndarray, kept: list[int]) -> float:
    outputs = np.einsum("oct,nct->no", weight, data)
    seen = np.column_stack([data[:, kept].reshape(len(data), -1), np.ones(len(data))])
    residual = outputs - seen @ np.linalg.lstsq(seen, outputs, rcond=None)[0]
    return float(np.square(residual).sum() / np.square(outputs - outputs.mean(0)).sum())
