"""Compensations that need no data: biases that take up means, and merging of parallel units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cutting import again, analysed, cut, error, normal_batches, outputs
from models.builder import Net
from scipy import integrate, stats
from shrinkc.passes.compensation.bias import BiasCorrection
from shrinkc.passes.compensation.bias_data_free import DataFreeBias
from shrinkc.passes.compensation.merge import Merge

from shrinkc.api import Repair
from shrinkc.evidence.normal_means import rectified_mean

WIDTH, KEPT = 6, [0, 3, 4]


@pytest.mark.parametrize(("mean", "spread"), [(0.3, 1.2), (-2.0, 0.5), (4.0, 0.1)])
def test_the_mean_of_a_rectified_normal_variable(mean: float, spread: float) -> None:
    low, high = max(0.0, mean - 9 * spread), max(0.0, mean + 9 * spread)
    expected, _ = integrate.quad(lambda z: z * stats.norm.pdf(z, mean, spread), low, high)
    assert rectified_mean(np.asarray([mean]), np.asarray([spread]))[0] == pytest.approx(expected, abs=1e-6)


def test_a_constant_is_rectified_as_it_is() -> None:
    np.testing.assert_array_equal(rectified_mean(np.asarray([2.0, -2.0, 0.0]), np.zeros(3)), [2, 0, 0])


def normal_layer(net: Net, x: str, inputs: int, width: int = WIDTH) -> str:
    """A 1x1 convolution of standard normal values and a BatchNormalization with the true statistics of what it gives."""
    weight = net.random.standard_normal((width, inputs, 1, 1)).astype(np.float32)
    y = net.op("Conv", x, net.const(weight))
    statistics = [net.const(np.zeros(width, np.float32)), net.const((weight**2).sum((1, 2, 3)))]
    return str(net.op("BatchNormalization", y, net.vector(width), net.vector(width), *statistics))


def slopes(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def constant(net: Net, value: float) -> str:
    return net.const(np.float32(value))


def spelt_out_gelu(net: Net, y: str) -> str:
    inner = net.op("Add", net.op("Erf", net.op("Div", y, constant(net, 2**0.5))), constant(net, 1))
    return str(net.op("Mul", net.op("Mul", y, inner), constant(net, 0.5)))


BETWEEN: dict[str, Callable[[Net, str], str]] = {
    "nothing": lambda net, y: y,
    "relu": lambda net, y: net.relu(y),
    "relu6": lambda net, y: net.op("Clip", y, constant(net, 0), constant(net, 6)),
    "hard swish": lambda net, y: net.op("HardSwish", y),
    "silu": lambda net, y: net.op("Mul", y, net.op("Sigmoid", y)),
    "gelu spelt out": spelt_out_gelu,
    "factors per channel": lambda net, y: net.op("Mul", net.relu(y), net.const(slopes(1, 2, 3, 4, 5, 6))),
    "relu and average": lambda net, y: net.op("AveragePool", net.relu(y), kernel_shape=[2, 2], strides=[2, 2]),
}


def check_like_measured(net: Net, kept: list[int], tolerance: float = 0.03) -> None:
    """The bias is that which measuring gives, up to noise."""
    analysis = analysed(net)
    repair = cut(analysis, {analysis.groups[0].name: kept}, normal_batches(analysis, n=4, size=128))
    measured = again(repair)
    result = DataFreeBias().apply(repair)
    assert len(result.tensors) == 1
    assert result.tensors[0] in BiasCorrection().apply(measured).tensors
    free, expected, before = (outputs(r.pruned, r.batches[:1])[0] for r in (repair, measured, again(repair)))
    assert np.abs(expected - before).max() > 0.3
    assert np.abs(free - expected).max() < tolerance * max(1.0, np.abs(expected - before).max())


@pytest.mark.parametrize("between", BETWEEN)
def test_means_told_from_batch_normalization_are_those_measured(between: str) -> None:
    net = Net(seed=1)
    y = BETWEEN[between](net, normal_layer(net, net.input("x", ["batch", 3, 8, 8]), 3))
    net.output(net.conv(y, WIDTH, 4, 1))
    check_like_measured(net, KEPT)


@pytest.mark.parametrize("kind", ["pooled", "flattened"])
def test_means_reach_a_linear_layer_behind_averages_and_flattening(kind: str) -> None:
    net = Net(seed=2)
    y = net.relu(normal_layer(net, net.input("x", ["batch", 3, 4, 4]), 3))
    y = net.op("Flatten", net.op("GlobalAveragePool", y) if kind == "pooled" else y)
    net.output(net.op("Gemm", y, net.weight(4, WIDTH * (1 if kind == "pooled" else 16)), net.vector(4), transB=1))
    check_like_measured(net, KEPT, tolerance=0.1)


def test_means_of_joined_branches_are_told_one_by_one() -> None:
    net = Net(seed=3)
    x = net.input("x", ["batch", 3, 8, 8])
    joined = net.op("Concat", net.relu(normal_layer(net, x, 3)), net.op("MaxPool", x, kernel_shape=[1, 1]), axis=1)
    net.output(net.conv(joined, WIDTH + 3, 4, 1))
    check_like_measured(net, KEPT)


@pytest.mark.parametrize("kind", ["folded", "max pool", "shortcut"])
def test_where_nothing_tells_a_layer_is_left_alone_and_named(kind: str) -> None:
    net = Net()
    x = net.input("x", ["batch", 3, 6, 6])
    if kind == "folded":
        y = net.relu(net.conv(x, 3, WIDTH))
    elif kind == "max pool":
        y = net.op("MaxPool", net.relu(normal_layer(net, x, 3)), kernel_shape=[2, 2])
    else:
        y = net.relu(net.op("Add", normal_layer(net, x, 3), normal_layer(net, x, 3)))
    last = net.conv(y, WIDTH, 4, 1)
    net.output(last)
    analysis = analysed(net)
    result = DataFreeBias().apply(cut(analysis, {analysis.groups[0].name: KEPT}, []))
    assert not result.tensors
    assert last in result.notes[-1]


def with_parallel_units(net: Net, factor: float, groups: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of six units, of which the last is ``factor`` times the second."""
    weight = net.random.standard_normal((WIDTH, 4 // groups, 3, 3)).astype(np.float32)
    bias = net.random.standard_normal(WIDTH).astype(np.float32)
    weight[5], bias[5] = factor * weight[1], factor * bias[1]
    return weight, bias


ACTIVATIONS: dict[str, Callable[[Net, str], str]] = {
    "relu": lambda net, y: net.relu(y),
    "leaky and pools": lambda net, y: net.op(
        "MaxPool", net.op("AveragePool", net.op("LeakyRelu", y), kernel_shape=[2, 2]), kernel_shape=[2, 2]
    ),
    "equal slopes": lambda net, y: net.op("PRelu", y, net.const(slopes(0.1, 0.3, 0.2, 0.4, 0.5, 0.3))),
    "other slopes": lambda net, y: net.op("PRelu", y, net.const(slopes(0.1, 0.3, 0.2, 0.4, 0.5, 0.6))),
    "sigmoid": lambda net, y: net.op("Sigmoid", y),
    "shift behind": lambda net, y: net.op("Add", net.relu(y), net.const(slopes(1, 2, 3, 4, 5, 6))),
}


def repaired_by_merging(net: Net, keep: list[int]) -> tuple[Repair, tuple[str, ...]]:
    analysis = analysed(net)
    repair = cut(analysis, {analysis.groups[0].name: keep})
    assert error(repair) > 1e-3
    return repair, Merge().apply(repair).tensors


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("end", ["convolution", "linear"])
def test_a_parallel_unit_that_stays_takes_over_exactly(activation: str, end: str) -> None:
    net = Net(seed=5)
    y = net.op("Conv", net.input("x", ["batch", 4, 6, 6]), *map(net.const, with_parallel_units(net, 1.7)), pads=[1] * 4)
    y = ACTIVATIONS[activation](net, y)
    if end == "convolution":
        net.output(net.conv(y, WIDTH, 3))
    else:
        y, positions = net.op("Flatten", y), 16 if "pools" in activation else 36
        net.output(net.op("MatMul", y, net.weight(WIDTH * positions, 3)))
    repair, changed = repaired_by_merging(net, [0, 1, 2, 3, 4])
    if activation in ("other slopes", "sigmoid", "shift behind"):
        assert not changed
    else:
        assert changed
        assert error(repair) < 1e-9


@pytest.mark.parametrize(("factor", "is_merged"), [(1.0, True), (0.2, True), (-1.0, False), (0.0, False)])
def test_only_positive_multiples_count(factor: float, is_merged: bool) -> None:
    net = Net(seed=6)
    y = net.op("Conv", net.input("x", ["batch", 4, 6, 6]), *map(net.const, with_parallel_units(net, factor)), pads=[1] * 4)
    net.output(net.conv(net.relu(y), WIDTH, 3))
    analysis = analysed(net)
    repair = cut(analysis, {analysis.groups[0].name: [0, 1, 2, 3, 4]})
    assert bool(Merge().apply(repair).tensors) == is_merged
    assert error(repair) < 1e-9 or factor < 0


def test_batch_normalization_counts_as_part_of_a_unit() -> None:
    net = Net(seed=7)
    weight, _ = with_parallel_units(net, 1.0)
    scale, shift, mean, variance = (net.random.uniform(0.5, 1.5, WIDTH).astype(np.float32) for _ in range(4))
    gain = scale / np.sqrt(variance + 1e-5)
    scale[5] = 3 * gain[1] * np.sqrt(variance[5] + 1e-5)  # three times the unit, with statistics of its own
    shift[5] = 3 * (shift[1] - mean[1] * gain[1]) + mean[5] * 3 * gain[1]
    y = net.op("Conv", net.input("x", ["batch", 4, 6, 6]), net.const(weight))
    y = net.relu(net.op("BatchNormalization", y, *map(net.const, (scale, shift, mean, variance))))
    net.output(net.conv(y, WIDTH, 3))
    repair, changed = repaired_by_merging(net, [0, 1, 2, 3, 4])
    assert changed
    assert error(repair) < 1e-9


def test_units_that_read_other_inputs_are_not_compared() -> None:
    net = Net(seed=8)
    x = net.input("x", ["batch", 4, 6, 6])
    y = net.relu(net.op("Conv", x, *map(net.const, with_parallel_units(net, 1.0, groups=2)), group=2))
    net.output(net.conv(y, WIDTH, 3))
    assert not repaired_by_merging(net, [0, 1, 3, 4])[1]


def test_the_bias_of_a_linear_layer_behind_a_product_counts() -> None:
    net = Net(seed=9)
    weight, bias = (
        net.random.standard_normal((5, WIDTH)).astype(np.float32),
        net.random.standard_normal(WIDTH).astype(np.float32),
    )
    weight[:, 5] = 2 * weight[:, 1]
    for last, is_merged in ((2 * bias[1], True), (-4 * bias[1] - 9, False)):
        bias[5] = last
        own = Net(seed=9)
        y = own.op("Add", own.op("MatMul", own.input("x", ["batch", 5]), own.const(weight)), own.const(bias.copy()))
        own.output(own.op("MatMul", own.relu(y), own.weight(WIDTH, 3)))
        repair, changed = repaired_by_merging(own, [0, 1, 2, 3, 4])
        assert bool(changed) == is_merged
        assert (error(repair) < 1e-9) == is_merged
