"""Ranks under a budget: against all combinations, and against what the built model costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from models.builder import Net
from models.factorable_nets import recogniser
from shrinkc.passes.allocators.dynamic_programming import DynamicProgramming
from shrinkc.passes.allocators.lagrangian import Lagrangian
from shrinkc.passes.allocators.uniform import Uniform
from shrinkc.passes.lowrank.svd import Svd

import shrinkc
from shrinkc import registry
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Allocator
from shrinkc.budget import Budget
from shrinkc.factorable import Candidate, Scope, candidates_in
from shrinkc.factored_cost import FactoredCost
from shrinkc.rank_allocation import RankAllocating, allocation_errors


def three_layers() -> Net:
    """Layers of different sizes whose weights are more or less of low rank."""
    net = Net()
    net.input("x", ["n", 16])
    x, width = "x", 16
    for outputs, decay in ((24, 0.5), (32, 0.02), (12, 0.2)):
        rank = min(width, outputs)
        left, right = net.random.standard_normal((outputs, rank)), net.random.standard_normal((rank, width))
        weight = net.const((left * np.geomspace(1, decay**2, rank) @ right).astype(np.float32))
        x, width = net.relu(str(net.op("Gemm", x, weight, net.vector(outputs), transB=1))), outputs
    net.output(x)
    return net


def candidates(analysis: Analysis) -> tuple[Candidate, ...]:
    scope = Scope([registry.built("rewrites", "matrix")], Svd(), 2)
    runtime = registry.load("runtimes", "onnxruntime-cpu")()
    return candidates_in(analysis.model, analysis.shadow, scope, [], runtime).candidates


def best_error(analysis: Analysis, found: tuple[Candidate, ...], limit: float) -> float:
    """Least summed error of all combinations of admissible ranks, or whole layers, within a number of MACs."""
    cost = FactoredCost(analysis, CostModel(analysis), {one.name: one for one in found})
    is_kept = analysis.keep_mask({})
    choices = [[None, *range(2, one.largest_rank + 1, 2)] for one in found]
    errors = []
    for ranks in itertools.product(*choices):
        chosen = {one.name: rank for one, rank in zip(found, ranks, strict=True) if rank is not None}
        if cost.of(is_kept, chosen).macs <= limit:
            errors.append(sum(one.errors[chosen[one.name]] for one in found if one.name in chosen))
    return float(min(errors))


def error_of(found: tuple[Candidate, ...], ranks: dict[str, int]) -> float:
    return float(sum(one.errors[ranks[one.name]] for one in found if one.name in ranks))


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
def test_ranks_of_least_error_are_near_the_best_of_all_combinations(analysed: Callable[..., Analysis], share: float) -> None:
    analysis = analysed(three_layers())
    cost, found = CostModel(analysis), candidates(analysis)
    budget = Budget("macs", share, is_relative=True)

    def reached(allocator: Allocator) -> float:
        allocation = RankAllocating(analysis, cost, allocator, found).within([budget])
        assert allocation.cost.macs <= share * cost.dense().macs
        ranks = {step.layer: step.rank for step in allocation.ranks}
        assert all(ranks[one.name] <= one.largest_rank for one in found if one.name in ranks)
        assert all(rank % 2 == 0 for rank in ranks.values())
        return error_of(found, ranks)

    best = best_error(analysis, found, share * cost.dense().macs)
    by_walking, by_tables, equal = reached(Lagrangian()), reached(DynamicProgramming()), reached(Uniform())
    assert best - 1e-12 <= by_walking <= equal
    assert by_walking <= 2.5 * best + 0.02
    assert by_tables <= 2.5 * best + 0.02


def test_above_break_even_a_layer_counts_as_whole(analysed: Callable[..., Analysis]) -> None:
    for one in candidates(analysed(three_layers())):
        errors = allocation_errors(one)
        assert (errors[one.largest_rank + 1 :] == 0).all()
        assert (np.diff(errors) <= 0).all()
        assert errors[one.largest_rank] == pytest.approx(one.errors[one.largest_rank])


@pytest.mark.parametrize("method", ["lowrank", "auto"])
def test_the_cost_of_a_plan_is_that_of_the_model_built_from_it(tmp_path, method: str) -> None:  # type: ignore[no-untyped-def]
    path = recogniser(channels=8, hidden=24, classes=200, height=8, length=16).save(tmp_path / "m.onnx")
    data = tmp_path / "d.npz"
    np.savez(data, image=np.random.default_rng(0).standard_normal((70, 1, 8, 16)).astype(np.float32))
    options = {"method": method, "macs": "45%", "data": data, "round_to": 1, "compensation": "none", "measure_latency": False}
    planned = shrinkc.compress(path, output=tmp_path / "p.onnx", dry_run=True, **options)
    built = shrinkc.compress(path, output=tmp_path / "b.onnx", verify=False, **options)
    assert built.after.macs == planned.after.macs
    assert built.after.parameters == pytest.approx(planned.after.parameters, abs=64)  # biases that were not there before
