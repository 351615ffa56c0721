from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from models.builder import Net

from shrinkc.analysis.groups import Analysis
from shrinkc.evidence.endings import Ending, ending_of
from shrinkc.evidence.sites import sites_of


def first_ending(analysis: Analysis) -> Ending:
    return ending_of(sites_of(analysis.model, analysis.shadow)[0], analysis.shadow)


def test_scales_and_shifts_up_to_the_rectifier_are_followed(analysed: Callable[..., Analysis]) -> None:
    """Oracle: what the ending says of an output equals what the nodes do to it."""
    net = Net()
    x = net.input("x", ["n", 3, 5, 5])
    scale, shift, mean, variance = (np.float32(values) for values in ([2, -1], [0.5, 3], [1, 2], [4, 0.25]))
    y = net.op("Conv", x, net.weight(2, 3, 1, 1))
    y = net.op("BatchNormalization", y, *(net.const(array) for array in (scale, shift, mean, variance)), epsilon=1e-3)
    y = net.op("Mul", y, net.const(np.float32([3]).reshape(1, 1, 1, 1)))
    net.output(net.op("Conv", net.op("Relu", y), net.weight(2, 2, 1, 1)))
    ending = first_ending(analysed(net))
    z = np.asarray([0.7, -1.3])
    by_hand = 3 * (scale * (z - mean) / np.sqrt(variance + 1e-3) + shift)
    np.testing.assert_allclose(ending.gain * z + ending.shift, by_hand, rtol=1e-6)
    assert (ending.low, ending.high, ending.other) == (0.0, None, None)


def test_a_shortcut_before_the_rectifier_is_named(analysed: Callable[..., Analysis]) -> None:
    net = Net()
    x = net.input("x", ["n", 3, 5, 5])
    side = net.op("Conv", x, net.weight(3, 3, 1, 1))
    y = net.op("Add", net.op("Conv", x, net.weight(3, 3, 1, 1)), side)
    net.output(net.op("Clip", y, net.const(np.float32(0)), net.const(np.float32(6))))
    analysis = analysed(net)
    last = ending_of(sites_of(analysis.model, analysis.shadow)[-1], analysis.shadow)
    assert last.other == side
    assert (last.low, last.high) == (0.0, 6.0)


def test_an_output_with_two_readers_ends_there(analysed: Callable[..., Analysis]) -> None:
    net = Net()
    x = net.input("x", ["n", 3, 5, 5])
    y = net.op("Conv", x, net.weight(3, 3, 1, 1))
    net.output(net.op("Add", net.op("Relu", y), net.op("Sigmoid", y)))
    assert not first_ending(analysed(net)).is_rectified


@pytest.mark.parametrize("gain", [2.0, -2.0])
def test_cuts_are_the_outputs_at_which_the_rectifier_begins(gain: float) -> None:
    """Oracle: just inside the cuts an output matters, beyond them it does not."""
    ending = Ending(np.asarray([gain]), np.asarray([0.5]), low=0.0, high=6.0)
    other = np.full((1, 1, 1), 0.25)
    below, above = ending.cuts(other, 1, 3)

    def through(z: float) -> float:
        return float(np.clip(gain * z + 0.5 + 0.25, 0, 6))

    low, high = below.item(), above.item()
    assert low < high
    assert through(low - 1) == pytest.approx(through(low - 9))
    assert through(high + 1) == pytest.approx(through(high + 9))
    assert through(low + 0.1) != pytest.approx(through(low + 0.2))


def test_a_channel_without_gain_neither_makes_up_for_anything_nor_is_cut_off() -> None:
    ending = Ending(np.asarray([1.0, 0.0]), np.zeros(2), low=0.0)
    np.testing.assert_array_equal(ending.inverse_gain, [1, 0])
    below, above = ending.cuts(0.0, 1, 2)
    assert below[0, 1] == -np.inf
    assert above[0, 1] == np.inf
