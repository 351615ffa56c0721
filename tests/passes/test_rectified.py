from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from shrinkc.passes.compensation.rectified import rectified_refit

from shrinkc.api import Layer
from shrinkc.evidence.moments import CrossMomentsOf
from shrinkc.evidence.regression import affine_refit
from shrinkc.evidence.rows import Rows


def layer_and_rows(seed: int, *, low: float | None = 0.0, high: float | None = None) -> tuple[Layer, Rows]:
    """A layer that lost inputs its targets depend on."""
    generator = np.random.default_rng(seed)
    every = generator.normal(size=(1, 800, 9))
    targets = every @ generator.normal(size=(1, 9, 4)) - 1.0
    kept = every[:, :, :5]
    moments = CrossMomentsOf()
    moments.add(kept, targets)
    layer = Layer("y", generator.normal(size=(1, 4, 5)), np.zeros((1, 4)), moments.result(), 1, True)
    edges = [None if edge is None else np.full_like(targets, edge) for edge in (low, high)]
    return layer, Rows(kept, targets, *edges)


def rectified_error(rows: Rows, weight: np.ndarray, bias: np.ndarray) -> float:
    low = -np.inf if rows.cut_below is None else rows.cut_below
    high = np.inf if rows.cut_above is None else rows.cut_above
    outputs = rows.inputs @ weight.transpose(0, 2, 1) + bias[:, None]
    return float(np.square(np.clip(rows.targets, low, high) - np.clip(outputs, low, high)).mean())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), high=st.sampled_from([None, 0.5, 3.0]))
def test_what_the_rectifier_lets_through_is_nearer_than_after_the_affine_refit(seed: int, high: float | None) -> None:
    layer, rows = layer_and_rows(seed, high=high)
    linear, bent = affine_refit(layer), rectified_refit(layer, rows)
    assert rectified_error(rows, bent.weight, bent.bias) < rectified_error(rows, linear.weight, linear.bias)


def test_without_a_rectifier_it_is_the_affine_refit() -> None:
    layer, rows = layer_and_rows(0, low=None)
    linear, bent = affine_refit(layer), rectified_refit(layer, rows)
    np.testing.assert_array_equal(bent.weight, linear.weight)
    np.testing.assert_array_equal(bent.bias, linear.bias)


def test_a_rectifier_that_cuts_nothing_off_changes_nothing() -> None:
    layer, rows = layer_and_rows(1, low=-1e6)
    linear, bent = affine_refit(layer), rectified_refit(layer, rows)
    np.testing.assert_allclose(bent.weight, linear.weight, atol=1e-8)
    np.testing.assert_allclose(bent.bias, linear.bias, atol=1e-8)
