from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from models.builder import Net
from models.topologies import TOPOLOGIES
from onnx import numpy_helper
from shrinkc.passes.criteria import spline

import shrinkc
from shrinkc import registry
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Evidence
from shrinkc.errors import RecipeError
from shrinkc.planning import plan_for, weights_of
from shrinkc.recipe import resolve

Analyse = Callable[..., Analysis]


def scored(name: str, analysis: Analysis, evidence: Evidence | None = None, number: int = 0) -> np.ndarray:
    criterion = registry.load("criteria", name)()
    result: np.ndarray = criterion.scores(analysis.groups[number], weights_of(analysis), evidence)
    return result


def stored(net: Net) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor).astype(float) for tensor in net.initializers}


def two_producers() -> Net:
    net = Net()
    x = net.input("x", ["n", 3, 6, 6])
    a = net.op("Conv", x, net.weight(5, 3, 3, 3, name="a"), pads=[1, 1, 1, 1])
    b = net.op("Conv", x, net.weight(5, 3, 1, 1, name="b"))
    net.output(net.op("Conv", net.relu(net.op("Add", a, b)), net.weight(2, 5, 1, 1, name="out")))
    return net


def normalised() -> Net:
    net = Net()
    x = net.input("x", ["n", 3, 6, 6])
    y = net.op("Conv", x, net.weight(5, 3, 3, 3, name="w"), net.vector(5, name="b"))
    names = ("gamma", "beta", "mean")
    vectors = [net.vector(5, name=name) for name in names]
    variance = net.const(net.random.uniform(0.4, 1.6, 5).astype(np.float32), "variance")
    y = net.relu(net.op("BatchNormalization", y, *vectors, variance, epsilon=0.25))
    left = net.op("Conv", y, net.weight(2, 5, 1, 1, name="left"))
    right = net.op("Conv", y, net.weight(2, 5, 3, 3, name="right"), pads=[1, 1, 1, 1])
    net.output(net.op("Concat", left, right, axis=1))
    return net


def test_geometric_median_sums_distances_within_each_producer(analysed: Analyse) -> None:
    net = two_producers()
    by_hand = []
    for name in "ab":
        rows = stored(net)[name].reshape(5, -1)
        sums = np.asarray([sum(np.linalg.norm(rows[i] - rows[j]) for j in range(5)) for i in range(5)])
        by_hand.append(sums / sums.mean())
    np.testing.assert_allclose(scored("geometric-median", analysed(net)), np.mean(by_hand, axis=0), rtol=1e-6)


def test_the_filter_in_the_middle_of_its_layer_goes_first_by_geometric_median(analysed: Analyse) -> None:
    net = Net()
    corners = np.asarray([[9, 1], [1, 9], [9, 9], [5, 5], [1, 1]], np.float32)
    x = net.op("MatMul", net.input("x", ["n", 2]), net.const(corners.T))
    net.output(net.op("MatMul", net.relu(x), net.weight(5, 2)))
    assert np.argmin(scored("geometric-median", analysed(net))) == 3


def test_gammas_are_read_where_they_are_and_weighed_with_all_readers(analysed: Analyse) -> None:
    net = normalised()
    arrays = stored(net)
    gamma = np.abs(arrays["gamma"])
    np.testing.assert_allclose(scored("bn-gamma", analysed(net)), gamma, rtol=1e-6)
    outgoing = np.sqrt(sum(np.square(arrays[name]).sum((0, 2, 3)) for name in ("left", "right")))
    np.testing.assert_allclose(scored("bn-gamma-out", analysed(net)), gamma * outgoing, rtol=1e-6)


@pytest.mark.parametrize("name", ["bn-gamma", "bn-gamma-out"])
def test_a_model_without_batch_normalization_is_refused_and_a_group_without_is_neutral(
    name: str, analysed: Analyse, saved: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="BatchNormalization") as caught:
        shrinkc.compress(saved(two_producers()), output=tmp_path / "out.onnx", criterion=name, prune_ratio=0.4)
    assert caught.value.where == f"--criterion {name}"
    assert "obs" in caught.value.hint
    net = Net()
    y = net.relu(net.conv(net.input("x", ["n", 3, 6, 6]), 3, 4))
    net.output(net.head(net.cbr(y, 4, 6), 6))
    analysis = analysed(net)
    registry.load("criteria", name)().check(analysis.groups)
    widths = {group.width: scored(name, analysis, number=number) for number, group in enumerate(analysis.groups)}
    np.testing.assert_array_equal(widths[4], np.ones(4))
    assert np.ptp(widths[6]) > 0.1


def test_scales_of_other_normalisations_are_no_gammas(analysed: Analyse) -> None:
    net = Net()
    y = net.conv(net.input("x", ["n", 3, 6, 6]), 3, 4)
    y = net.op("InstanceNormalization", y, net.vector(4), net.vector(4))
    net.output(net.conv(y, 4, 2))
    with pytest.raises(RecipeError):
        registry.load("criteria", "bn-gamma")().check(analysed(net).groups)


def test_a_gamma_is_found_behind_a_node_that_moves_it(analysed: Analyse) -> None:
    net = normalised()
    node = next(node for node in net.nodes if node.op_type == "BatchNormalization")
    net.nodes.remove(node)
    before = len(net.nodes) - 4
    node.input[1] = net.op("Identity", "gamma")
    net.nodes.insert(before, net.nodes.pop())
    net.nodes.insert(before + 1, node)
    np.testing.assert_allclose(scored("bn-gamma", analysed(net)), np.abs(stored(net)["gamma"]), rtol=1e-6)


def test_boundaries_have_what_follows_the_layer_folded_in(analysed: Analyse) -> None:
    net = normalised()
    arrays = stored(net)
    factor = arrays["gamma"] / np.sqrt(arrays["variance"] + 0.25)
    analysis = analysed(net)
    rows, biases = spline.boundaries(analysis.groups[0], weights_of(analysis))
    np.testing.assert_allclose(rows, arrays["w"].reshape(5, -1) * factor[:, None], rtol=1e-5)
    np.testing.assert_allclose(biases[:, 0], (arrays["b"] - arrays["mean"]) * factor + arrays["beta"], rtol=1e-5)


def test_boundaries_of_a_sum_lie_side_by_side_and_an_added_bias_counts(analysed: Analyse) -> None:
    net = Net()
    x = net.input("x", ["n", 3])
    y = net.op("Add", net.op("MatMul", x, net.weight(3, 4, name="w")), net.vector(4, name="b"))
    other = net.op("Gemm", x, net.weight(4, 3, name="v"), net.vector(4, name="c"), transB=1)
    net.output(net.op("MatMul", net.relu(net.op("Sum", y, other)), net.weight(4, 2)))
    analysis, arrays = analysed(net), stored(net)
    rows, biases = spline.boundaries(analysis.groups[0], weights_of(analysis))
    np.testing.assert_allclose(rows, np.concatenate([arrays["w"].T, arrays["v"]], axis=1), rtol=1e-6)
    np.testing.assert_allclose(biases[:, 0], arrays["b"] + arrays["c"], rtol=1e-6)


def test_distances_of_boundaries_ignore_scale_and_side_and_are_symmetric() -> None:
    random = np.random.default_rng(0)
    rows, biases = random.standard_normal((6, 4)), random.standard_normal((6, 1))
    rows[3], biases[3] = 2.5 * rows[1], 2.5 * biases[1]
    found = spline.distances(rows, biases)
    assert found[1, 3] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found, found.T)
    assert np.isinf(np.diag(found)).all()
    scale = random.uniform(0.1, 10, (6, 1))
    np.testing.assert_allclose(spline.distances(rows * scale, biases * scale), found, atol=1e-12)
    rows[4] = 0
    dead = spline.distances(rows, biases)
    np.testing.assert_array_equal(np.delete(dead[4], 4), 0)
    np.testing.assert_array_equal(np.delete(dead[:, 4], 4), 0)
    opposite = spline.distances(np.stack([rows[0], -rows[0]]), np.zeros((2, 1)))
    assert opposite[0, 1] == pytest.approx(0, abs=1e-12)
    moved = spline.distances(np.ones((2, 4)), np.asarray([[0.0], [1.0]]))
    assert moved[0, 1] == pytest.approx(spline.BIAS / 2)  # the norm of four ones is two


def test_of_the_closest_pair_that_is_left_the_smaller_goes() -> None:
    random = np.random.default_rng(1)
    rows, biases = random.standard_normal((9, 3)), random.standard_normal((9, 1))
    pairs, norms = spline.distances(rows, biases), np.linalg.norm(rows, axis=1)
    left, gone, costs = list(range(9)), [], []
    while len(left) > 1:
        cost, i, j = min((pairs[i, j], i, j) for i in left for j in left if i < j)
        gone.append(i if norms[i] <= norms[j] else j)
        costs.append(cost)
        left.remove(gone[-1])
    found = spline.merged(pairs, norms)
    np.testing.assert_array_equal(found.order, gone + left)
    np.testing.assert_allclose(found.costs[:-1], costs)


def gated(seed: int = 0) -> tuple[Net, dict[str, np.ndarray], np.ndarray]:
    """A two-layer net, gradients by sample of half its squared output, and the derivatives by a gate on each channel."""
    net = Net(seed=seed)
    x = net.input("x", ["n", 3])
    hidden = net.op("MatMul", x, net.weight(3, 6, name="first"))
    net.output(net.op("MatMul", net.relu(hidden), net.weight(6, 2, name="second")))
    arrays = stored(net)
    samples = np.random.default_rng(seed).standard_normal((20, 3))
    before = samples @ arrays["first"]
    after = np.maximum(before, 0)
    back = after @ arrays["second"] @ arrays["second"].T
    gradient = np.einsum("ni,nj->nij", samples, back * (before > 0))
    return net, {"first": gradient, "second": np.zeros((20, 6, 2))}, back * after


def test_fisher_and_taylor_are_squares_of_the_derivative_by_a_gate(analysed: Analyse) -> None:
    net, gradients, by_gate = gated()
    evidence = Evidence(gradients=gradients)
    np.testing.assert_allclose(scored("fisher", analysed(net), evidence), np.square(by_gate).mean(0), rtol=1e-5)
    np.testing.assert_allclose(scored("taylor", analysed(net), evidence), np.square(by_gate.mean(0)), rtol=1e-5)


def test_what_producers_add_is_summed_before_it_is_squared(analysed: Analyse) -> None:
    net = two_producers()
    arrays, random = stored(net), np.random.default_rng(0)
    gradients = {name: random.standard_normal((4, *arrays[name].shape)) for name in "ab"}
    change = sum((arrays[name] * gradients[name]).sum((2, 3, 4)) for name in "ab")
    evidence = Evidence(gradients=gradients)
    np.testing.assert_allclose(scored("fisher", analysed(net), evidence), np.square(change).mean(0), rtol=1e-5)
    np.testing.assert_allclose(scored("taylor", analysed(net), evidence), np.square(change.mean(0)), rtol=1e-5)


@pytest.mark.parametrize("name", ["taylor", "fisher"])
@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ({}, "needs gradients"),
        ({"a": np.zeros((4, 5, 3, 3, 3))}, "missing"),
        ({"a": np.zeros((5, 3, 3, 3)), "b": np.zeros((4, 5, 3, 1, 1))}, r"expected \[samples, 5, 3, 3, 3\]"),
        ({"a": np.zeros((3, 5, 3, 3, 3)), "b": np.zeros((4, 5, 3, 1, 1))}, "different numbers"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(
    name: str, gradients: dict[str, np.ndarray], expected: str, analysed: Analyse
) -> None:
    with pytest.raises(RecipeError, match=expected) as caught:
        scored(name, analysed(two_producers()), Evidence(gradients=gradients))
    assert "--gradients FILE.npz" in str(caught.value)


def test_random_scores_depend_on_the_seed_and_the_group_only(analysed: Analyse) -> None:
    analysis = analysed(TOPOLOGIES["chain"]())
    first, second = (scored("random", analysis, number=number) for number in (0, 1))
    np.testing.assert_array_equal(first, scored("random", analysis))
    assert not np.array_equal(first, second[: len(first)])
    criterion = registry.load("criteria", "random")()
    criterion.seed = 1
    assert not np.array_equal(criterion.scores(analysis.groups[0], weights_of(analysis), None), first)


def test_the_seed_of_a_recipe_reaches_the_random_criterion(analysed: Analyse) -> None:
    analysis = analysed(TOPOLOGIES["chain"]())

    def planned(seed: int) -> dict[str, list[int]]:
        recipe = resolve(criterion="random", prune_ratio=0.5, seed=seed)
        plan = plan_for(analysis, recipe, [], CostModel(analysis), "0" * 64, None)
        return {name: list(kept) for name, kept in plan.keep().items()}

    assert planned(3) == planned(3)
    assert planned(3) != planned(4)
