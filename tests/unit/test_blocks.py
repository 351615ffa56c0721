"""Layers too wide for one matrix of second moments: blocks of it are those of the whole, and they are pruned and repaired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cutting import analysed, cut, keep_by, normal_batches, outputs
from models.builder import Net

from shrinkc import registry
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Consumer, Evidence, Repair
from shrinkc.evidence import blocks, elimination, regression
from shrinkc.evidence.blocks import blocks_of, columns_of
from shrinkc.evidence.contributions import centred_gram, uncentred_gram
from shrinkc.evidence.data import Data
from shrinkc.evidence.elimination import greedily
from shrinkc.evidence.gathering import gather
from shrinkc.evidence.sensitivity import with_sensitivities

RUNTIME = registry.load("runtimes", "onnxruntime-cpu")()


def flattened(channels: int = 12, side: int = 4, is_channels_last: bool = False) -> Net:
    """A convolution, a rectifier and a matrix product over all positions: ``channels * side ** 2`` columns."""
    net = Net(seed=2)
    y = net.relu(net.conv(net.input("x", ["batch", 3, side, side]), 3, channels, 3, pads=[1] * 4))
    if is_channels_last:
        y = net.op("Transpose", y, perm=[0, 2, 3, 1])
    y = net.op("Flatten", y)
    net.output(net.op("Gemm", y, net.weight(5, channels * side**2), net.weight(5), transB=1))
    return net


def evidence_of(analysis: Analysis, n: int = 40) -> Evidence:
    batches = normal_batches(analysis, n, 8)
    data = Data({name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}, None, "test")
    return gather(analysis, data, batches, RUNTIME)


def error(repair: Repair) -> float:
    """Squared error of the output, relative to the variance of each of its entries."""
    wanted, got = (outputs(model, repair.batches)[0] for model in (repair.analysis.model, repair.pruned))
    return float(((wanted - got) ** 2).sum() / wanted.var(0).sum() / len(got))


def consumers_of(evidence: Evidence) -> tuple[Consumer, ...]:
    (consumers,) = evidence.consumers.values()
    return consumers


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything above 80 columns is wide."""
    monkeypatch.setattr(blocks, "LARGEST_GRAM", 80)


@pytest.mark.parametrize(("channels", "taps"), [(7000, 1), (1024, 9), (100_000, 1)])
def test_blocks_part_the_channels_keep_together_what_goes_together_and_bound_memory(channels: int, taps: int) -> None:
    keys = np.random.default_rng(0).permutation(np.arange(channels) // 4)
    parts = blocks_of(keys, taps)
    assert sorted(np.concatenate(parts).tolist()) == list(range(channels))
    assert sum(len(np.unique(keys[part])) for part in parts) == len(np.unique(keys))
    numbers = sum((len(part) * taps) ** 2 for part in parts)
    assert numbers <= 1.05 * blocks.LARGEST_GRAM**2
    assert blocks_of(np.full(channels, -1), taps)[0][-1] < channels / 2, "channels of nobody's stand alone"


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_moments_of_blocks_are_the_blocks_of_the_exact_moments(is_channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed(flattened(is_channels_last=is_channels_last))
    (whole,) = consumers_of(evidence_of(analysis))
    monkeypatch.setattr(blocks, "LARGEST_GRAM", 80)
    found = evidence_of(analysis)
    parts = consumers_of(found)
    assert len(parts) > 2
    assert "blocks" in found.notes[0]
    for part in parts:
        assert part.columns is not None
        np.testing.assert_allclose(part.gram, whole.gram[np.ix_(part.columns, part.columns)], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(part.mean, whole.mean[part.columns], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(part.weight, whole.weight[:, part.columns])
        np.testing.assert_array_equal(part.position, whole.position[part.columns])
        np.testing.assert_array_equal(part.activity.mean_abs, whole.activity.mean_abs[part.columns])
    assert sorted(np.concatenate([part.columns for part in parts if part.columns is not None])) == list(range(192))
    positions = [set(part.position.tolist()) for part in parts]
    assert not set.intersection(*positions), "all columns of a position lie in one block"


def test_blocks_count_like_one_layer_whose_blocks_have_nothing_to_do_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((regression, "DAMPING"), (regression, "DAMPING_PER_COLUMN"), (elimination, "ROUNDING")):
        monkeypatch.setattr(module, name, 1e-9)
    analysis = analysed(flattened())
    (whole,) = consumers_of(evidence_of(analysis))
    monkeypatch.setattr(blocks, "LARGEST_GRAM", 80)
    parts = consumers_of(evidence_of(analysis))
    apart = np.zeros_like(whole.gram)
    for part in parts:
        apart[np.ix_(part.columns, part.columns)] = part.gram
    energy = np.einsum("oc,cd,od->", whole.weight, apart, whole.weight)
    np.testing.assert_allclose(sum(part.share.energy for part in parts), 1)
    contributions = (whole.weight.T @ whole.weight * apart).reshape(12, 16, 12, 16).sum((1, 3)) / energy
    np.testing.assert_allclose(uncentred_gram(parts, 12), contributions, rtol=1e-4, atol=1e-7)
    assert centred_gram(parts, 12).sum() == pytest.approx(1)
    outer = np.zeros_like(apart)
    for part in parts:
        outer[np.ix_(part.columns, part.columns)] = np.outer(part.mean, part.mean)
    block_diagonal = replace(whole, gram=apart - outer, mean=np.zeros_like(whole.mean))
    expected, result = greedily([block_diagonal], 12), greedily(parts, 12)
    np.testing.assert_array_equal(result.order, expected.order)
    np.testing.assert_allclose(result.errors, expected.errors, rtol=1e-3, atol=1e-6)


def test_a_probe_finds_that_a_wide_layer_matters_about_as_much_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What blocks have to do with each other is all that the prediction misses, and the probe finds it."""
    analysis, found = analysed(flattened()), []
    for largest in (6144, 80):
        monkeypatch.setattr(blocks, "LARGEST_GRAM", largest)
        evidence = with_sensitivities(evidence_of(analysis), analysis, normal_batches(analysis, 4), RUNTIME)
        found += [ratio for sensitivity in evidence.sensitivity.values() for _, ratio in sensitivity.probes]
    assert 0.5 < found[1] / found[0] < 2


@pytest.mark.parametrize("name", ["rectified", "affine", "scale", "bias", "obs"])
@pytest.mark.usefixtures("narrow")
def test_a_wide_layer_is_repaired_block_by_block(name: str) -> None:
    analysis = analysed(flattened())
    batches = normal_batches(analysis, 40)
    repair = cut(analysis, keep_by(analysis, "obs", batches), batches)
    without = error(repair)
    result = registry.load("compensation", name)().apply(repair)
    layer = result.layers[-1]
    assert error(repair) < 0.9 * without
    assert layer.error_after == pytest.approx(error(repair), rel=0.05)
    assert "one block of channels after the other" in result.notes[0]


def test_rounds_of_blocks_come_near_the_refit_of_the_whole_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed(flattened())
    batches = normal_batches(analysis, 60)
    keep, errors = keep_by(analysis, "obs", batches), []
    for largest in (6144, 80):
        monkeypatch.setattr(blocks, "LARGEST_GRAM", largest)
        repair = cut(analysis, keep, batches)
        without = error(repair)
        registry.load("compensation", "affine")().apply(repair)
        errors.append(error(repair))
    assert errors[1] - errors[0] < 0.1 * (without - errors[0])


def test_columns_of_a_channel_lie_side_by_side() -> None:
    assert columns_of(np.asarray([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]
