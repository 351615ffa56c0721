from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from models.builder import Net

from shrinkc import registry
from shrinkc.analysis.groups import Analysis
from shrinkc.planning import weights_of


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_is_the_mean_relative_norm_of_everything_a_channel_touches(
    criterion: str, power: int, analysed: Callable[..., Analysis]
) -> None:
    net = Net()
    x = net.input("x", ["n", 3, 6, 6])
    first, scale = net.weight(4, 3, 3, 3, name="first"), net.vector(4, name="scale")
    others = [net.vector(4), net.vector(4), net.positive(4)]
    y = net.op("BatchNormalization", net.op("Conv", x, first, net.vector(4)), scale, *others)
    second = net.weight(5, 4, 1, 1, name="second")
    net.output(net.op("Conv", y, second))
    analysis = analysed(net)
    arrays = {t.name: np.frombuffer(t.raw_data, np.float32).reshape(t.dims).astype(float) for t in net.initializers}
    by_hand = []
    for rows in (arrays["first"].reshape(4, -1), arrays["scale"].reshape(4, 1), arrays["second"][:, :, 0, 0].T):
        norms = (np.abs(rows) ** power).sum(1) ** (1 / power)
        by_hand.append(norms / norms.mean())
    scores = registry.load("criteria", criterion)().scores(analysis.groups[0], weights_of(analysis), None)
    np.testing.assert_allclose(scores, np.mean(by_hand, axis=0), rtol=1e-5)
    assert scores.mean() == pytest.approx(1)


def test_a_dead_channel_scores_zero_and_goes_first(analysed: Callable[..., Analysis]) -> None:
    net = Net()
    x = net.input("x", ["n", 3, 6, 6])
    weight = np.ones((4, 3, 3, 3), np.float32)
    weight[2] = 0
    reader = np.ones((2, 4, 1, 1), np.float32)
    reader[:, 2] = 0
    net.output(net.op("Conv", net.op("Conv", x, net.const(weight)), net.const(reader)))
    analysis = analysed(net)
    scores = registry.load("criteria", "l2")().scores(analysis.groups[0], weights_of(analysis), None)
    assert scores[2] == 0
    np.testing.assert_allclose(np.delete(scores, 2), 4 / 3)
