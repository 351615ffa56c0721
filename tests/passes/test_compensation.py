"""Compensations that fit layers: the order of their errors, their closed forms, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cutting import again, analysed, cut, error, keep_by, normal_batches, outputs, random_keep, randomly_cut
from hypothesis import given, settings
from hypothesis import strategies as st
from models.builder import Net
from models.topologies import TOPOLOGIES
from shrinkc.passes.compensation.bias import BiasCorrection

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.analysis.groups import stored_tensors
from shrinkc.api import Compensation, Consumer, Fit, Layer
from shrinkc.evidence import elimination, fitting, regression
from shrinkc.evidence.elimination import weight_after
from shrinkc.evidence.fitting import fit_layers, fit_layers_apart
from shrinkc.evidence.moments import CrossMomentsOf
from shrinkc.evidence.regression import affine_refit, refit, relative_error, scale

NAMES = [
    "chain", "identity_shortcut", "projection_shortcut", "concat", "split_and_merge", "depthwise_separable", "grouped",
    "grouped_shuffle", "flatten_to_linear", "inverted_residual_with_gate", "multi_branch", "derived_weights", "layer_norm",
]  # fmt: skip
COMPENSATIONS = sorted(registry.names("compensation"))
FITTING = ["affine", "bias", "obs", "refit", "scale"]


def compensation(name: str) -> Compensation:
    made: Compensation = registry.load("compensation", name)()
    return made


@pytest.fixture
def no_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ridges make fits generalise, at the price of the error on the very samples; the order holds for tiny ones."""
    monkeypatch.setattr(regression, "DAMPING", 1e-9)
    monkeypatch.setattr(regression, "DAMPING_PER_COLUMN", 0.0)
    monkeypatch.setattr(regression, "ROUNDING", 0.0)


def same(layer: Layer) -> Fit:
    return Fit(layer.weight, layer.bias)


FITS: dict[str, Callable[[Layer], Fit]] = {
    "none": same, "bias": BiasCorrection().fit, "scale": scale, "refit": refit, "affine": affine_refit,
}  # fmt: skip
ORDER = [("none", "bias"), ("bias", "affine"), ("none", "scale"), ("scale", "refit"), ("refit", "affine")]


def check_order(layer: Layer) -> Fit:
    fits = {name: fit(layer) for name, fit in FITS.items()}
    errors = {name: relative_error(layer, fit.weight, fit.bias) for name, fit in fits.items()}
    for worse, better in ORDER:
        assert errors[better] <= errors[worse] + 1e-5 * (1 + errors["none"]), (layer.name, worse, better, errors)
    return fits["affine"]


@pytest.mark.usefixtures("no_ridge")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept_by", ["l2", "obs", "chance"])
def test_the_more_a_compensation_may_change_the_smaller_the_error(name: str, kept_by: str) -> None:
    analysis = analysed(TOPOLOGIES[name]())
    batches = normal_batches(analysis)
    keep = random_keep(analysis, 0.5, seed=7) if kept_by == "chance" else keep_by(analysis, kept_by, batches)
    repair = cut(analysis, keep, batches)
    assert fit_layers(repair, check_order).layers
    assert fit_layers_apart(again(repair), check_order).layers


def random_rows(generator: np.random.Generator, groups: int, targets: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    x = generator.normal(0.7, 1, (groups, 60, columns)) @ generator.standard_normal((groups, columns, columns))
    return x, x[:, :, :1] ** 2 + generator.normal(1, 2, (groups, 60, targets))


def random_layer(generator: np.random.Generator, x: np.ndarray, y: np.ndarray, taps: int) -> Layer:
    weight = generator.standard_normal((len(x), y.shape[2], x.shape[2]))
    moments = CrossMomentsOf()
    moments.add(x, y + np.einsum("goc,grc->gro", weight, x))
    return Layer("y", weight, generator.standard_normal((len(x), y.shape[2])), moments.result(), taps, True)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_order_holds_for_any_layer(seed: int, groups: int, targets: int, channels: int, taps: int) -> None:
    generator = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regression, "DAMPING", 1e-9)
        patch.setattr(regression, "DAMPING_PER_COLUMN", 0.0)
        check_order(random_layer(generator, *random_rows(generator, groups, targets, channels * taps), taps))


@pytest.mark.usefixtures("no_ridge")
def test_fits_are_those_of_least_squares_over_the_rows() -> None:
    generator = np.random.default_rng(0)
    x, noise = random_rows(generator, 2, 3, 6)
    layer = random_layer(generator, x, noise, taps=2)
    y = noise + np.einsum("goc,grc->gro", layer.weight, x)
    plain, free, scaled = refit(layer), affine_refit(layer), scale(layer)
    for group in range(2):
        rest = y[group] - layer.bias[group]
        np.testing.assert_allclose(plain.weight[group], np.linalg.lstsq(x[group], rest, rcond=None)[0].T, atol=1e-4)
        ones = np.concatenate([x[group], np.ones((60, 1))], 1)
        both = np.linalg.lstsq(ones, y[group], rcond=None)[0].T
        np.testing.assert_allclose(free.weight[group], both[:, :-1], atol=1e-4)
        np.testing.assert_allclose(free.bias[group], both[:, -1], atol=1e-4)
        given = np.stack([x[group][:, c : c + 2] @ layer.weight[group][:, c : c + 2].T for c in (0, 2, 4)], -1)
        factors = np.linalg.lstsq(given.reshape(-1, 3), rest.reshape(-1), rcond=None)[0]
        np.testing.assert_allclose(scaled.weight[group], layer.weight[group] * np.repeat(factors, 2), atol=1e-4)
        error_by_hand = ((y[group] - x[group] @ free.weight[group].T - free.bias[group]) ** 2).sum()
        assert error_by_hand <= ((rest - given @ factors) ** 2).sum()
    everything = sum(((y[g] - x[g] @ plain.weight[g].T - layer.bias[g]) ** 2).sum() for g in range(2))
    variance = ((y - y.mean(1, keepdims=True)) ** 2).sum()
    assert relative_error(layer, plain.weight, plain.bias) == pytest.approx(everything / variance)


def test_scales_bring_a_duplicate_back() -> None:
    """Of two equal channels one went: the other counts twice."""
    x = np.random.default_rng(0).normal(1, 1, (1, 50, 2))
    weight = np.asarray([[[1.0, 2.0], [0.5, -1.0]]])
    moments = CrossMomentsOf()
    moments.add(x, np.einsum("goc,grc->gro", weight * [2, 1], x))
    fit = scale(Layer("y", weight, np.zeros((1, 2)), moments.result(), 1, False))
    np.testing.assert_allclose(fit.weight, weight * [2, 1], rtol=1e-5)


@pytest.mark.parametrize("name", list(FITS))
def test_dead_channels_keep_their_weights_and_do_no_harm(name: str) -> None:
    generator = np.random.default_rng(1)
    x, noise = random_rows(generator, 1, 2, 6)
    x[:, :, 2:4] = 0
    layer = random_layer(generator, x, noise, taps=2)
    fit = FITS[name](layer)
    assert np.isfinite(fit.weight).all()
    np.testing.assert_allclose(fit.weight[:, :, 2:4], layer.weight[:, :, 2:4], rtol=1e-9)
    silent = random_layer(generator, 0 * x, noise, taps=2)
    np.testing.assert_allclose(FITS[name](silent).weight, silent.weight, rtol=1e-9)


def test_inputs_that_never_vary_are_no_reason_to_change_weights() -> None:
    """Their covariance is rounding, and may be negative."""
    generator = np.random.default_rng(4)
    x = np.repeat(generator.normal(30, 5, (1, 1, 6)), 4000, axis=1).astype(np.float32)
    layer = random_layer(generator, x, generator.standard_normal((1, 4000, 2)).astype(np.float32), taps=1)
    fit = affine_refit(layer)
    np.testing.assert_allclose(fit.weight, layer.weight, atol=1e-3)
    np.testing.assert_allclose(fit.weight[0] @ x[0, 0] + fit.bias[0], layer.moments.mean[0], atol=1e-3)
    gram = layer.moments.inputs.gram[0]
    consumer = Consumer("y", layer.weight[0], x[0, 0], gram, 4000, np.arange(6), 1, None)  # type: ignore[arg-type]
    assert np.isfinite(weight_after(consumer, [2, 0])).all()
    for name in FITS:
        assert np.isfinite(FITS[name](layer).weight).all()


@pytest.mark.parametrize("name", ["bias", "affine"])
def test_a_layer_without_a_place_for_a_bias_keeps_it(name: str) -> None:
    generator = np.random.default_rng(2)
    layer = replace(random_layer(generator, *random_rows(generator, 1, 2, 4), taps=1), can_shift=False)
    fit, expected = FITS[name](layer), refit(layer) if name == "affine" else same(layer)
    np.testing.assert_array_equal(fit.weight, expected.weight)
    np.testing.assert_array_equal(fit.bias, layer.bias)


def test_the_refit_of_what_the_original_gave_is_where_elimination_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    x, ridge, removed, kept = random_rows(generator, 1, 1, 8)[0], 0.3, [3, 0], np.asarray([2, 3, 4, 5])
    weight, bias = generator.standard_normal((1, 3, 8)), generator.standard_normal((1, 3))
    monkeypatch.setattr(regression, "ridge_of", lambda matrix, rows: ridge)
    monkeypatch.setattr(regression, "ROUNDING", 0.0)
    monkeypatch.setattr(elimination, "ROUNDING", 0.0)
    monkeypatch.setattr(elimination, "ridge_of", lambda matrix, rows: ridge)
    moments = CrossMomentsOf()
    moments.add(x[:, :, kept], np.einsum("goc,grc->gro", weight, x) + bias[:, None])
    fit = affine_refit(Layer("y", weight[:, :, kept], bias, moments.result(), 2, True))
    gram = x[0].T @ x[0] / x.shape[1]
    activity = None
    consumer = Consumer("y", weight[0], x[0].mean(0), gram, 60, np.repeat(np.arange(4), 2), 2, activity)  # type: ignore[arg-type]
    eliminated = weight_after(consumer, removed)
    np.testing.assert_allclose(fit.weight[0], eliminated[:, kept], rtol=1e-8)
    assert not np.delete(eliminated, kept, 1).any()
    covariance = gram - np.outer(x[0].mean(0), x[0].mean(0))
    lost = np.delete(np.arange(8), kept)
    share = covariance[np.ix_(lost, kept)] @ np.linalg.inv(covariance[np.ix_(kept, kept)] + ridge * np.eye(4))
    np.testing.assert_allclose(fit.weight[0], weight[0][:, kept] + weight[0][:, lost] @ share, rtol=1e-8)


@pytest.mark.parametrize("name", COMPENSATIONS)
@pytest.mark.parametrize("topology", ["projection_shortcut", "grouped_shuffle", "inverted_residual_with_gate", "shared_weight"])
def test_only_named_tensors_change_and_no_shape_does(name: str, topology: str) -> None:
    repair = randomly_cut(TOPOLOGIES[topology](), seed=5)
    before = {value.name: (value.shape, shrinkc_ir.stored_array(value).copy()) for value in stored_tensors(repair.pruned)}
    result = compensation(name).apply(repair)
    after = {value.name: (value.shape, shrinkc_ir.stored_array(value)) for value in stored_tensors(repair.pruned)}
    assert after.keys() == before.keys()
    for tensor, (shape, array) in after.items():
        assert shape == before[tensor][0]
        assert array.dtype == before[tensor][1].dtype
        assert np.isfinite(array).all()
        assert tensor in result.tensors or np.array_equal(array, before[tensor][1])
    assert "tied" not in result.tensors, "both layers that read it would change"
    assert np.isfinite(error(repair))


@pytest.mark.parametrize("name", FITTING)
def test_the_last_layers_error_is_that_of_the_model(name: str) -> None:
    """What the walk held ready for later layers is what the repaired network gives."""
    repair = randomly_cut(TOPOLOGIES["projection_shortcut"](), seed=2)
    without = error(repair)
    layer = compensation(name).apply(repair).layers[-1]
    wanted, got = (outputs(model, repair.batches)[0] for model in (repair.analysis.model, repair.pruned))
    assert error(repair) < without
    if name != "obs":  # it looks at every layer as if those before were whole
        assert layer.error_after == pytest.approx(float(((wanted - got) ** 2).sum() / wanted.var(0).sum() / len(got)), rel=1e-2)


@pytest.mark.parametrize("name", FITTING)
def test_a_network_that_lost_nothing_is_left_alone(name: str) -> None:
    analysis = analysed(TOPOLOGIES["projection_shortcut"]())
    assert not compensation(name).apply(cut(analysis, {})).tensors


def residual_net() -> Net:
    """A block whose shortcut cannot be repaired: the weight of the layer that makes it has another reader."""
    net = Net(seed=3)
    before = net.relu(net.conv(net.input("x", ["batch", 3, 6, 6]), 3, 8, 1))
    shared = net.weight(4, 8, 1, 1)
    stream = net.op("Conv", before, shared)
    net.output(net.op("Add", net.bn(net.conv(before, 8, 4, 1), 4), stream))
    net.output(net.op("Conv", net.op("Exp", before), shared))
    return net


def test_the_last_layer_of_a_branch_makes_up_for_the_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    repair = randomly_cut(residual_net(), seed=1)
    plain = again(repair)
    compensation("affine").apply(repair)
    monkeypatch.setattr(fitting._InTheCutNetwork, "_shortcut", lambda *arguments: None)
    compensation("affine").apply(plain)
    assert error(repair) < 0.5 * error(plain)
