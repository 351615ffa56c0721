"""Moments streamed over batches are those of all rows at once, and sampled rows are the same every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from models.topologies import TOPOLOGIES

from shrinkc.evidence import sampling
from shrinkc.evidence.moments import CrossMomentsOf
from shrinkc.evidence.sampling import Sampling, sampling_to_choose, sampling_to_fit, sampling_to_hold
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.spread import mean_and_variance
from shrinkc.shapes import Shadow, input_shapes

RANDOM = np.random.default_rng(0)


def test_streamed_moments_are_the_direct_ones() -> None:
    x = RANDOM.normal(2, 1, (2, 300, 5)).astype(np.float32)
    y = RANDOM.normal(-1, 3, (2, 300, 4)).astype(np.float32)
    streamed = CrossMomentsOf()
    for part in (slice(0, 7), slice(7, 150), slice(150, 300)):
        streamed.add(x[:, part], y[:, part])
    result = streamed.result()
    assert result.inputs.rows == 300
    np.testing.assert_allclose(result.inputs.mean, x.mean(1), rtol=1e-5)
    np.testing.assert_allclose(result.inputs.gram, np.einsum("gri,grj->gij", x, x, dtype=np.float64) / 300, rtol=1e-5)
    np.testing.assert_allclose(result.inputs.covariance(), [np.cov(g.T, bias=True) for g in x], atol=1e-4)
    np.testing.assert_allclose(result.mean, y.mean(1), rtol=1e-5)
    np.testing.assert_allclose(result.square, (y.astype(np.float64) ** 2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(result.cross, np.einsum("gro,gri->goi", y, x, dtype=np.float64) / 300, rtol=1e-4, atol=1e-4)


def test_covariances_hold_where_means_are_large() -> None:
    x = RANDOM.normal(0, 1, (1, 4000, 3)) + np.asarray([1000, -500, 0])
    streamed = CrossMomentsOf()
    for part in np.split(x.astype(np.float32), 4, axis=1):
        streamed.add(part, part + np.float32(100))
    result, expected = streamed.result(), np.cov(x[0].T, bias=True)
    np.testing.assert_allclose(result.inputs.covariance()[0], expected, atol=2e-4)
    cross = result.cross - result.mean[:, :, None] * result.inputs.mean[:, None, :]
    np.testing.assert_allclose(cross[0], expected, atol=2e-4)


def test_moments_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        CrossMomentsOf().result()


def test_mean_and_variance_hold_far_from_zero_and_over_uneven_batches() -> None:
    values = RANDOM.normal(1e4, 1, (50, 3, 4, 4)).astype(np.float32)
    mean, variance = mean_and_variance((values[part] for part in (slice(0, 1), slice(1, 30), slice(30, 50))), 1)
    np.testing.assert_allclose(mean, values.mean((0, 2, 3), dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(variance, values.astype(np.float64).var((0, 2, 3)), rtol=1e-6)


def site_of_chain():  # type: ignore[no-untyped-def]
    model = ir.from_proto(TOPOLOGIES["chain"]().model())
    return sites_of(model, Shadow.of(model, input_shapes(model)))[1]


def test_sampled_positions_depend_on_seed_batch_and_layer_only() -> None:
    site, sampling = site_of_chain(), Sampling(3, 20)
    first, again = (sampling.positions(site, 1, 144, 8) for _ in range(2))
    assert first is not None
    assert again is not None
    assert first.tolist() == again.tolist() == sorted(set(first.tolist()))
    assert len(first) == 20
    others = [sampling.positions(site, 2, 144, 8), Sampling(4, 20).positions(site, 1, 144, 8)]
    assert all(other is not None and other.tolist() != first.tolist() for other in others)


def test_all_positions_are_taken_where_they_are_few() -> None:
    site = site_of_chain()
    assert Sampling(0, 200).positions(site, 0, 144, 8) is None
    assert Sampling(0, None).positions(site, 0, 144, 8) is None


@pytest.mark.parametrize("chosen_by", [sampling_to_choose, sampling_to_fit, sampling_to_hold])
def test_there_are_enough_rows_for_the_columns(chosen_by: Callable[[Site, int, int], Sampling]) -> None:
    wanted = chosen_by(site_of_chain(), 1000, 0).per_sample
    assert wanted is not None
    assert wanted * 1000 >= 32 * 72


def test_rows_that_are_held_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of_chain()
    monkeypatch.setattr(sampling, "ROWS_BYTES", 2000 * 4 * (site.inputs * site.taps + sampling.ROW_EXTRAS * site.outputs))
    assert sampling_to_hold(site, 100, 0).per_sample == 20
    assert sampling_to_fit(site, 100, 0).per_sample == 82
