from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from models.readings import drawn, evidence_of, group_of, reading
from scipy.signal import correlate2d
from shrinkc.passes.criteria.ispasp import chosen, pulls
from shrinkc.passes.criteria.nnrelief import coverage, strengths

from shrinkc import registry
from shrinkc.api import Activity, Consumer, Windows


def scores(name: str, width: int, *consumers: Consumer) -> np.ndarray:
    result: np.ndarray = registry.load("criteria", name)().scores(group_of(width), None, evidence_of(*consumers))
    return result


def with_maps(consumer: Consumer, maps: np.ndarray) -> Consumer:
    return dataclasses.replace(consumer, activity=Activity(maps, np.zeros(len(maps))))


def test_mean_activation_is_the_mean_of_maps_relative_to_what_each_layer_reads() -> None:
    weight, data = drawn(4)
    maps = np.arange(8.0).reshape(4, 2, 1)
    first = with_maps(reading(weight, data), maps)
    means = np.asarray([0.5, 2.5, 4.5, 6.5])
    np.testing.assert_allclose(scores("mean-activation", 4, first), means / means.mean())
    # A layer that reads ten times as loud, of two positions only, one of them through two channels.
    second = with_maps(reading(weight, data, [2, 3, 3, -1]), 10 * maps)
    other = np.asarray([5.0, 35.0])
    expected = means / means.mean() + np.asarray([0, 0, *(other / other.mean())])
    np.testing.assert_allclose(scores("mean-activation", 4, first, second), expected / [1, 1, 2, 2])


def test_louder_layers_keep_the_same_channels_by_mean_activation() -> None:
    weight, data = drawn(6)
    np.testing.assert_allclose(
        scores("mean-activation", 6, reading(weight, data)), scores("mean-activation", 6, reading(weight, data * 10))
    )


def test_apoz_is_the_share_of_values_above_zero() -> None:
    weight, data = drawn(4)
    data[:, 1] = -1
    data[:50, 2], data[50:, 2] = 3, 0
    found = scores("apoz", 4, reading(weight, data))
    np.testing.assert_allclose(found, (data > 0).mean((0, 2)))
    assert found[1] == 0
    assert found[2] == 50 / len(data)
    both = scores("apoz", 4, reading(weight, data), reading(weight, data[::2]))
    np.testing.assert_allclose(both, (found + (data[::2] > 0).mean((0, 2))) / 2)


def test_a_position_that_no_layer_reads_is_neutral() -> None:
    weight, data = drawn(3)
    for name in ("mean-activation", "apoz"):
        assert scores(name, 5, reading(weight, data, [0, 2, 4]))[1] == 1


def test_strengths_are_norms_of_absolute_kernels_over_mean_maps() -> None:
    random = np.random.default_rng(0)
    weight, maps = random.standard_normal((3, 2, 6)), np.abs(random.standard_normal((2, 7, 8)))
    windows = Windows((2, 3), (2, 1), (1, 2), ((1, 0), (0, 2)))
    consumer = with_maps(reading(weight, np.zeros((1, 2, 6)), windows=windows), maps)
    padded = np.pad(maps, ((0, 0), (1, 0), (0, 2)))
    for k in range(3):
        for c in range(2):
            kernel = np.zeros((2, 5))
            kernel[:, ::2] = np.abs(weight[k, c]).reshape(2, 3)
            expected = np.linalg.norm(correlate2d(padded[c], kernel, "valid")[::2])
            assert strengths(consumer)[k, c] == pytest.approx(expected)


def test_a_pointwise_kernel_is_a_matrix_product_at_every_position() -> None:
    random = np.random.default_rng(0)
    weight, maps = random.standard_normal((3, 4, 1)), random.uniform(size=(4, 5, 6))
    product = with_maps(reading(weight, np.zeros((1, 4, 1))), maps)
    convolution = dataclasses.replace(product, windows=Windows((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))))
    expected = np.abs(weight[:, :, 0]) * np.linalg.norm(maps.reshape(4, -1), axis=1)
    np.testing.assert_allclose(strengths(product), expected)
    np.testing.assert_allclose(strengths(convolution), expected)


@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.9, 0.99])
def test_channels_needed_at_a_coverage_are_those_of_the_smallest_covering_sets(alpha: float) -> None:
    random = np.random.default_rng(1)
    layers = [reading(np.exp(2 * random.standard_normal((3, 9, 1))), drawn(9)[1]) for _ in range(2)]
    needed: set[int] = set()
    for layer in layers:
        for row in strengths(layer):
            order = np.argsort(-row)
            size = int(np.argmax(np.cumsum(row[order]) >= alpha * row.sum())) + 1
            needed |= set(order[:size].tolist())
    need, _ = coverage(layers, 9)
    assert set(np.flatnonzero(need < alpha).tolist()) == needed
    keeps = np.argsort(-scores("nnrelief", 9, *layers))[: len(needed)]
    assert set(keeps.tolist()) == needed


def test_full_coverage_drops_what_carries_nothing_and_only_that() -> None:
    weight, data = drawn(6)
    data[:, 1] = 0
    weight[:, 4] = 0
    weight[:, 5] *= 1e-20
    need, _ = coverage([reading(weight, data)], 6)
    assert set(np.flatnonzero(need >= 1).tolist()) == {1, 4}
    found = scores("nnrelief", 6, reading(weight, data))
    assert set(np.argsort(found)[:2].tolist()) == {1, 4}


def test_one_dominant_input_is_all_that_is_needed_below_its_share() -> None:
    weight = np.asarray([[8.0, 1.0, 1.0]])[:, :, None]
    need, share = coverage([reading(weight, np.ones((4, 3, 1)))], 3)
    np.testing.assert_allclose(need, [0, 0.8, 0.9])
    np.testing.assert_allclose(share, [0.8, 0.1, 0.1])


def test_of_the_strongest_inputs_of_some_output_the_one_with_less_of_all_goes_first() -> None:
    weight = np.asarray([[8.0, 1.0, 1.0], [1.0, 1.0, 3.0]])[:, :, None]
    np.testing.assert_array_equal(np.argsort(scores("nnrelief", 3, reading(weight, np.ones((4, 3, 1))))), [1, 2, 0])


def test_ispasp_pulls_are_gradients_of_the_residual() -> None:
    weight, data = drawn(5, taps=1)
    consumer = reading(weight, data)
    matrix, rows = weight[:, :, 0], data[:, :, 0]
    energy = np.square(rows @ matrix.T).sum() / len(rows)
    for missing in ([2], [0, 3, 4]):
        mask = np.isin(np.arange(5), missing).astype(float)
        step = 1e-5

        def loss(shift: np.ndarray, mask: np.ndarray = mask) -> float:
            residual = (rows + shift) @ matrix.T - (rows * (1 - mask)) @ matrix.T
            return float(0.5 * np.square(residual).sum() / len(rows) / energy)

        numeric = [(loss(step * row) - loss(-step * row)) / (2 * step) for row in np.eye(5)]
        np.testing.assert_allclose(pulls([consumer], 5) @ mask, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("seed", range(4))
def test_ispasp_sets_are_those_of_the_algorithm_on_explicit_data(width: int, seed: int) -> None:
    weight, data = drawn(16, taps=3, seed=seed)
    outputs = np.einsum("oct,nct->no", weight, data)
    active: set[int] = set()
    for _ in range(20):
        kept = np.isin(np.arange(16), list(active))
        residual = outputs - np.einsum("oct,nct->no", weight[:, kept], data[:, kept])
        gradient = np.einsum("oct,no->c", weight, residual)
        candidates = set(np.argsort(-gradient)[: 2 * width].tolist()) | active
        active = set(sorted(candidates, key=lambda c: -data[:, c].mean())[:width])
    consumer = reading(weight, data)
    found = chosen(pulls([consumer], 16), data.mean((0, 2)), width)
    assert set(np.flatnonzero(found).tolist()) == active


def test_a_channel_and_its_readers_may_change_sign_together_for_ispasp() -> None:
    weight, data = drawn(8)
    before = scores("ispasp", 8, reading(weight, data))
    weight[:, ::2] *= -1
    data[:, ::2] *= -1
    np.testing.assert_allclose(scores("ispasp", 8, reading(weight, data)), before)


def test_a_loud_channel_that_pulls_at_nothing_is_left_out_of_small_sets_by_ispasp() -> None:
    weight, data = drawn(8)
    weight, data[:, 0] = np.abs(weight), 100 + data[:, 0]
    weight[:, 0] = 0
    order = np.argsort(-scores("ispasp", 8, reading(weight, data)))
    assert 0 in order[:4]
    for width in (1, 2, 3):
        found = chosen(pulls([reading(weight, data)], 8), data.mean((0, 2)), width)
        assert not found[0]
        assert set(order[:width].tolist()) == set(np.flatnonzero(found).tolist())


def test_ispasp_finds_the_few_channels_that_are_active_where_weights_are_incoherent() -> None:
    weight, data = drawn(12, outputs=60)
    planted = [1, 4, 9]
    data[:, [c for c in range(12) if c not in planted]] = 0
    found = chosen(pulls([reading(weight, data)], 12), data.mean((0, 2)), 3)
    assert set(np.flatnonzero(found).tolist()) == set(planted)
    order = np.argsort(-scores("ispasp", 12, reading(weight, data)))
    assert set(order[:3].tolist()) == set(planted)
    assert chosen(pulls([reading(weight, data)], 12), data.mean((0, 2)), 12).all()
