from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkc.api import Activity, Consumer, Evidence
from shrinkc.evidence import elimination, regression
from shrinkc.evidence.elimination import Elimination, greedily, in_order


def consumer(data: np.ndarray, weight: np.ndarray, position: np.ndarray, taps: int) -> Consumer:
    rows = len(data)
    channels = len(position) // taps
    activity = Activity(np.ones(channels), np.zeros(channels))
    return Consumer("y", weight, data.mean(0), data.T @ data / rows, rows, position, taps, activity)


def random_consumer(seed: int, channels: int, taps: int, outputs: int) -> tuple[np.ndarray, Consumer]:
    generator = np.random.default_rng(seed)
    columns = channels * taps
    mixing = generator.normal(size=(columns, columns))
    data = generator.normal(size=(60 * columns, columns)) @ mixing + generator.normal(size=columns)
    return data, consumer(data, generator.normal(size=(outputs, columns)), np.repeat(np.arange(channels), taps), taps)


def best_error(data: np.ndarray, layer: Consumer, removed: set[int]) -> float:
    """Share of the outputs' energy that the best linear map with an intercept of the columns left cannot give."""
    outputs = data @ layer.weight.T
    left = data[:, ~np.isin(layer.position, list(removed))]
    design = np.column_stack([left, np.ones(len(data))])
    rest = outputs - design @ np.linalg.lstsq(design, outputs, rcond=None)[0]
    return float(np.square(rest).sum() / np.square(outputs - outputs.mean(0)).sum())


@pytest.fixture(autouse=True)
def _hardly_damped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "DAMPING", 1e-9)
    monkeypatch.setattr(elimination, "ROUNDING", 1e-12)
    monkeypatch.setattr(regression, "DAMPING_PER_COLUMN", 0.0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), channels=st.integers(2, 7), taps=st.sampled_from([1, 4]))
def test_recorded_errors_are_those_of_the_best_refit(seed: int, channels: int, taps: int) -> None:
    data, layer = random_consumer(seed, channels, taps, 3)
    result = greedily([layer], channels)
    for count in range(channels + 1):
        assert result.errors[count] == pytest.approx(best_error(data, layer, set(result.order[:count].tolist())), abs=1e-5)
    assert (np.diff(result.errors) >= -1e-9).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_first_removal_is_the_cheapest_of_all(seed: int) -> None:
    data, layer = random_consumer(seed, 6, 2, 4)
    costs = [best_error(data, layer, {channel}) for channel in range(6)]
    result = greedily([layer], 6)
    assert result.order[0] == int(np.argmin(costs))
    assert result.errors[1] == pytest.approx(min(costs), rel=1e-3)


def test_costs_of_several_consumers_add_up_relative_to_their_energy() -> None:
    first, small = random_consumer(1, 5, 1, 3)
    second, large = random_consumer(2, 5, 4, 6)
    scaled = consumer(second, 100 * large.weight, large.position, large.taps)
    result = greedily([small, scaled], 5)
    for count in range(1, 5):
        removed = set(result.order[:count].tolist())
        expected = best_error(first, small, removed) + best_error(second, large, removed)
        assert result.errors[count] == pytest.approx(expected, abs=1e-4)


def test_a_given_order_is_followed_and_costs_no_less_than_the_best_set_of_its_size() -> None:
    data, layer = random_consumer(3, 5, 2, 3)
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 17):
        result = in_order([layer], order)
        assert result.order.tolist() == list(order)
        for count in range(1, 5):
            expected = best_error(data, layer, set(order[:count]))
            assert result.errors[count] == pytest.approx(expected, abs=1e-5)
            assert expected >= min(best_error(data, layer, set(s)) for s in itertools.combinations(range(5), count)) - 1e-9


def test_duplicates_constants_and_channels_without_readers_go_first_and_cost_nothing() -> None:
    generator = np.random.default_rng(0)
    data = generator.normal(size=(500, 8)) + 2
    data[:, 3] = data[:, 5]  # a duplicate
    data[:, 6] = 4.0  # a constant: the intercept takes it up
    weight = generator.normal(size=(4, 8))
    weight[:, 1] = 0  # read by nobody
    result = greedily([consumer(data, weight, np.arange(8), 1)], 8)
    first = set(result.order[:3].tolist())
    assert {1, 6} < first
    assert first & {3, 5}
    np.testing.assert_allclose(result.errors[:4], 0, atol=1e-6)
    assert result.errors[4] > 1e-3


def test_columns_of_other_groups_help_and_are_never_removed() -> None:
    data, layer = random_consumer(4, 6, 1, 3)
    position = layer.position.copy()
    position[4:] = -1
    other = consumer(data, layer.weight, position, 1)
    result = greedily([other], 4)
    assert sorted(result.order.tolist()) == [0, 1, 2, 3]
    assert result.errors[-1] == pytest.approx(best_error(data, other, {0, 1, 2, 3}), abs=1e-5)


def test_positions_may_own_different_numbers_of_columns() -> None:
    data, layer = random_consumer(5, 7, 1, 3)
    position = np.array([0, 0, 0, 1, 2, 2, 1])
    uneven = consumer(data, layer.weight, position, 1)
    result = greedily([uneven], 3)
    for count in (1, 2, 3):
        removed = set(result.order[:count].tolist())
        assert result.errors[count] == pytest.approx(best_error(data, uneven, removed), abs=1e-5)


def test_the_greedy_result_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from shrinkc.evidence import curves

    calls: list[int] = []

    def counted(consumers: object, width: int) -> Elimination:
        calls.append(width)
        return Elimination(np.arange(width), np.linspace(0, 1, width + 1))

    monkeypatch.setattr(curves, "greedily", counted)
    _, layer = random_consumer(6, 4, 1, 2)
    evidence = Evidence({"g": (layer,)})
    group = SimpleNamespace(name="g", width=4)
    assert curves.greedy_elimination(evidence, group) is curves.greedy_elimination(evidence, group)  # type: ignore[arg-type]
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(curves.errors_by_width(evidence, group, scores), [1, 0.75, 0.5, 0.25, 0])  # type: ignore[arg-type]
    assert calls == [4]
