"""Differences of outputs, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from shrinkc.comparing import compare, worst


def test_figures_are_those_of_the_formulas() -> None:
    expected = {"y": np.array([[3.0, 4.0]], np.float32)}
    found = {"y": np.array([[3.0, 3.5]], np.float32)}
    (difference,) = compare([expected], [found])
    assert difference.max_abs == 0.5
    assert difference.relative == 0.5 / 4
    assert difference.cosine == pytest.approx((9 + 14) / (5 * np.hypot(3, 3.5)))
    assert difference.sqnr_db == pytest.approx(10 * np.log10(25 / 0.25))
    assert difference.argmax_agreement == 1


def test_equal_outputs_have_no_noise_and_all_classes_agree() -> None:
    outputs = {"y": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)}
    (difference,) = compare([outputs], [outputs])
    assert (difference.max_abs, difference.sqnr_db, difference.argmax_agreement) == (0, None, 1)
    assert difference.cosine == pytest.approx(1)


def test_classes_lie_on_the_last_axis_of_a_sequence_and_the_second_of_a_map() -> None:
    generator = np.random.default_rng(1)
    for shape, axis in (((2, 7, 3), 2), ((2, 3, 4, 4), 1)):
        ref, got = generator.standard_normal((2, *shape)).astype(np.float32)
        (difference,) = compare([{"y": ref}], [{"y": got}])
        assert difference.argmax_agreement == (ref.argmax(axis) == got.argmax(axis)).mean()


@pytest.mark.parametrize(
    ("found", "note"),
    [
        ({}, "missing"),
        ({"y": np.zeros((1, 3), np.float32)}, "shape"),
        ({"y": np.array([[np.nan, 0]], np.float32)}, "NaN"),
    ],
)
def test_what_cannot_be_compared_is_infinitely_far_off(found: dict[str, np.ndarray], note: str) -> None:
    (difference,) = compare([{"y": np.zeros((1, 2), np.float32)}], [found])
    assert difference.relative == float("inf")
    assert note in difference.note


def test_infinities_of_both_count_as_equal_and_runs_are_joined() -> None:
    runs = [{"y": np.array([-np.inf, 1.0], np.float32)}, {"y": np.array([2.0, -np.inf], np.float32)}]
    later = [runs[0], {"y": np.array([2.5, -np.inf], np.float32)}]
    (difference,) = compare(runs, later)
    assert difference.max_abs == 0.5
    assert difference.relative == 0.25


def test_the_worst_output_is_the_one_relatively_furthest_off() -> None:
    expected = {"big": np.array([100.0]), "small": np.array([1.0])}
    found = {"big": np.array([101.0]), "small": np.array([1.5])}
    assert worst(compare([expected], [found])).output == "small"
