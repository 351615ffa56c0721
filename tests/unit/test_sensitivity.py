from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from models.builder import Net

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.analysis.groups import Analysis, stored_tensors
from shrinkc.api import Sensitivity
from shrinkc.evidence.batching import batches_of
from shrinkc.evidence.data import Data
from shrinkc.evidence.gathering import gather
from shrinkc.evidence.sensitivity import with_sensitivities


def two_branches(faint: float) -> Net:
    """Two hidden layers, each read by a layer of its own; the second one's output counts ``faint`` times as much."""
    net = Net()
    x = net.input("x", ["n", 6])
    parts = []
    for _ in range(2):
        hidden = net.op("Relu", net.op("MatMul", x, net.weight(6, 12)))
        parts.append(net.op("MatMul", hidden, net.weight(12, 4)))
    net.output(net.op("Concat", parts[0], net.op("Mul", parts[1], net.const(np.float32([faint]))), axis=1))
    return net


def sensitivities(analysis: Analysis) -> dict[str, float]:
    data = Data({"x": np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)}, None, "test")
    batches, runtime = batches_of(analysis, data), registry.load("runtimes", "onnxruntime-cpu")()
    evidence = gather(analysis, data, batches, runtime)
    found = with_sensitivities(evidence, analysis, batches, runtime).sensitivity
    return {name: sensitivity.probes[0][1] for name, sensitivity in found.items()}


def test_an_error_that_hardly_reaches_the_outputs_counts_less(analysed: Callable[..., Analysis]) -> None:
    """Oracle: errors are squares, so a branch that counts a tenth as much matters a hundredth as much."""
    alike = sensitivities(analysed(two_branches(1.0)))
    faint = sensitivities(analysed(two_branches(0.1)))
    first, second = alike
    ratio = (faint[second] / faint[first]) / (alike[second] / alike[first])
    assert ratio == pytest.approx(0.01, rel=0.05)
    assert sum(alike.values()) == pytest.approx(1.0, abs=0.35)  # either branch holds about half of the outputs' variance


def test_probing_leaves_the_model_as_it_was(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(two_branches(1.0))
    before = {value.name: shrinkc_ir.stored_array(value).copy() for value in stored_tensors(analysis.model)}
    sensitivities(analysis)
    for value in stored_tensors(analysis.model):
        np.testing.assert_array_equal(shrinkc_ir.stored_array(value), before[value.name])


def test_a_probe_says_how_much_its_own_number_of_removals_shows() -> None:
    """Oracle by hand: a tenth at two removals, all of it at four, the geometric mean between, constant beyond."""
    errors = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 9.0])
    sensitivity = Sensitivity(((2, 0.1),)).with_probe(4, 1.0)
    np.testing.assert_allclose(sensitivity.of(errors), [0, 0.1, 0.2, 4 * 0.1**0.5, 8, 9])
    assert sensitivity.with_probe(2, 0.5).probes == ((2, 0.5), (4, 1.0))


def test_errors_of_the_outputs_never_fall_although_the_ratio_does() -> None:
    shown = Sensitivity(((1, 1.0), (3, 0.01))).of(np.array([0.0, 1.0, 1.1, 1.2, 5.0]))
    assert (np.diff(shown) >= 0).all()
    assert shown[1] == 1.0


def test_groups_are_probed_at_the_number_of_removals_that_is_asked_for(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(two_branches(1.0))
    first, second = (group.name for group in analysis.groups)
    data = Data({"x": np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)}, None, "test")
    batches, runtime = batches_of(analysis, data), registry.load("runtimes", "onnxruntime-cpu")()
    evidence = with_sensitivities(gather(analysis, data, batches, runtime), analysis, batches, runtime)
    again = with_sensitivities(evidence, analysis, batches, runtime, {first: 9})
    assert [count for count, _ in again.sensitivity[first].probes] == [6, 9]
    assert again.sensitivity[second] == evidence.sensitivity[second]
