"""Noise in measured layers: what contradicts itself is measured again, and what is left of it smoothed."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize

from shrinkc.latency import recording
from shrinkc.latency.layers import Layer, LayerSpec
from shrinkc.latency.monotone import monotone
from shrinkc.latency.table import Rates, Table

SPEC = LayerSpec("Conv", (1, 0, 8, 8), (3, 3), attributes=(("pads", (1, 1, 1, 1)),))
DEPTHWISE = LayerSpec("Conv", (1, 0, 8, 8), (3, 3), 0)
LAYER = Layer(ir.Node("", "Conv", []), SPEC, (64, 64))
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4))
GRIDS = SHAPES.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(0, 10)))


def points_of(grid: np.ndarray) -> dict[tuple[int, ...], float]:
    return {tuple(16 * (i + 1) for i in index): float(grid[index]) for index in np.ndindex(grid.shape)}


def grid_of(points: dict[tuple[int, ...], float], shape: tuple[int, ...]) -> np.ndarray:
    return np.array([points[tuple(16 * (i + 1) for i in index)] for index in np.ndindex(shape)]).reshape(shape)


def table(points: dict[LayerSpec, dict[tuple[int, ...], float]]) -> Table:
    return Table("stand-in", "1", "float32", 1, {}, 16, Rates(1.0, 1.0), points)


@given(GRIDS)
def test_times_fall_along_no_width_and_what_falls_along_none_stays(grid: np.ndarray) -> None:
    found = grid_of(monotone(points_of(grid)), grid.shape)
    assert all((np.diff(found, axis=axis) >= 0).all() for axis in range(2))
    grown = np.maximum.accumulate(np.maximum.accumulate(grid, 0), 1)
    np.testing.assert_allclose(grid_of(monotone(points_of(grown)), grid.shape), grown, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_times_without_a_fall_are_nearer_to_the_measured_ones(seed: int) -> None:
    grid = np.random.default_rng(seed).random((3, 3))
    rises = [np.zeros((0, 9))]
    for index in itertools.product(range(3), repeat=2):
        for axis in range(2):
            wider = (index[0] + (axis == 0), index[1] + (axis == 1))
            if max(wider) < 3:
                row = np.zeros((1, 3, 3))
                row[0][wider], row[0][index] = 1, -1
                rises.append(row.reshape(1, 9))
    limits = {"type": "ineq", "fun": lambda x: np.concatenate(rises) @ x, "jac": lambda _: np.concatenate(rises)}
    best = minimize(lambda x: ((x - grid.ravel()) ** 2).sum(), np.zeros(9), constraints=[limits], options={"ftol": 1e-14})
    found = grid_of(monotone(points_of(grid)), (3, 3))
    np.testing.assert_allclose(found.ravel(), best.x, atol=1e-3)


def test_a_table_tells_no_shorter_time_for_a_wider_layer_and_keeps_what_was_measured() -> None:
    measured = {(16, 16): 1.0, (16, 32): 2.0, (32, 16): 0.0, (32, 32): 4.0}
    made = table({SPEC: dict(measured)})
    assert [made.seconds(SPEC, widths) for widths in measured] == [0.5, 2.0, 0.5, 4.0]
    assert made.layers[SPEC] == measured
    made.layers[SPEC][32, 16] = 3.0
    assert made.seconds(SPEC, (32, 16)) == 3.0, "a new measurement counts"


def test_depthwise_layers_between_blocks_may_be_slower_than_wider_ones_in_whole_blocks() -> None:
    made = table({DEPTHWISE: {(8,): 3.0, (16,): 2.0, (24,): 5.0, (32,): 4.0}})
    assert [made.seconds(DEPTHWISE, (width,)) for width in (8, 16, 24, 32)] == [3.0, 2.0, 5.0, 4.0]


class Disturbed:
    """A clock whose first measurement of one width is wrong; time is the product of widths."""

    def __init__(self, wrong: tuple[int, ...], share: float) -> None:
        self.wrong, self.share, self.asked = wrong, share, 0

    def __call__(self, timer: object, spec: LayerSpec, widths: tuple[int, ...]) -> float:
        self.asked += 1
        true = float(np.prod(widths))
        if widths == self.wrong:
            self.wrong = ()
            return self.share * true
        return true


@pytest.mark.parametrize("share", [0.0, 0.3, 3.0])
def test_a_point_that_contradicts_its_neighbours_is_measured_again(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Disturbed((32, 32), share)
    monkeypatch.setattr(recording, "_seconds", clock)
    made = table({})
    recording.record(made, LAYER, lambda model, feed: 0.0)
    points = made.layers[SPEC]
    assert points == {widths: float(np.prod(widths)) for widths in points}
    assert len(points) < clock.asked < 2 * len(points), "only what is in doubt is measured again"


def test_a_grid_without_contradictions_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Disturbed((), 1.0)
    monkeypatch.setattr(recording, "_seconds", clock)
    made = table({})
    recording.record(made, LAYER, lambda model, feed: 0.0)
    assert clock.asked == len(made.layers[SPEC])
