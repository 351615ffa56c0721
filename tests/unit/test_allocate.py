from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.attention_topologies import ATTENTION
from models.builder import Net
from models.topologies import TOPOLOGIES

from shrinkc import registry
from shrinkc.allocate import Allocating, Limits, admissible, least_pressure
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import Analysis
from shrinkc.analysis.kinds import Kind
from shrinkc.budget import parse
from shrinkc.errors import BudgetError
from shrinkc.planning import weights_of


def problem(analysis: Analysis, allocator: str = "uniform", limits: Limits | None = None, criterion: str = "l2") -> Allocating:
    score = registry.load("criteria", criterion)()
    read = weights_of(analysis)
    scores = {group.name: score.scores(group, read, None) for group in analysis.groups}
    chosen = registry.load("allocators", allocator)()
    return Allocating(analysis, CostModel(analysis), chosen, scores, limits or Limits())


@given(
    wanted=st.floats(0, 100), size=st.integers(1, 100), step=st.integers(1, 8), round_to=st.sampled_from([1, 2, 4, 8, 16, 32]),
    least=st.integers(1, 20),
)  # fmt: skip
def test_admissible_widths_are_possible_and_near(wanted: float, size: int, step: int, round_to: int, least: int) -> None:
    limits = Limits(round_to, least)
    count = admissible(wanted, size, step, limits)
    assert 1 <= count <= size
    assert count * step >= min(least, size * step)
    if count not in (size, -(-least // step)) and size * step >= 2 * round_to and round_to % step == 0:
        assert count * step % round_to == 0
    if least == 1 and count != size and size * step >= 2 * round_to and wanted >= round_to:
        assert abs(count - wanted) <= round_to / 2 + 1


@pytest.mark.parametrize("allocator", ["uniform", "global", "lagrangian", "dynamic-programming"])
@pytest.mark.parametrize("name", ["projection_shortcut", "grouped", "shuffle_units", "cascaded_concat"])
def test_more_pressure_never_costs_more(name: str, allocator: str, analysed: Callable[..., Analysis]) -> None:
    allocating = problem(analysed(TOPOLOGIES[name]()), allocator)
    macs = [allocating.at(pressure).cost.macs for pressure in np.linspace(0, 1, 9)]
    assert macs == sorted(macs, reverse=True)
    assert macs[0] > macs[-1]


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_every_value_and_every_group_of_a_convolution_keeps_its_share(name: str, analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES[name]())
    for pressure in (0.3, 0.7, 1.0):
        is_kept = analysis.keep_mask(problem(analysis).at(pressure).keep)
        for labels in analysis.flow.labels.values():
            assert is_kept[analysis.classes[labels]].any(), "no value may lose all its channels"
        for rows in analysis.balances:
            assert len(set(is_kept[rows].sum(axis=1).tolist())) == 1, "groups of a grouped convolution stay equal"


def test_a_normalised_group_keeps_two_channels(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["layer_norm"]())
    keep = problem(analysis).at(1.0).keep
    widths = {group.is_exact: len(keep[group.name]) for group in analysis.groups}
    assert widths == {False: 2, True: 1}


@pytest.mark.parametrize("quantity", ["macs", "parameters", "size_bytes"])
@pytest.mark.parametrize("allocator", ["uniform", "global", "lagrangian", "dynamic-programming"])
def test_budgets_are_met_and_not_by_half(quantity: str, allocator: str, analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["projection_shortcut"]())
    cost = CostModel(analysis)
    budget = parse(quantity, "50%")
    allocation = problem(analysis, allocator).within([budget])
    reached = getattr(allocation.cost, quantity) / getattr(cost.dense(), quantity)
    assert 0.4 < reached <= 0.5


@pytest.mark.parametrize(
    ("name", "allocator"), [("projection_shortcut", "lagrangian"), ("chain", "lagrangian"), ("chain", "dynamic-programming")]
)
def test_no_step_that_saves_error_is_left_that_fits_a_budget(
    name: str, allocator: str, analysed: Callable[..., Analysis]
) -> None:
    """Where widths change by fours the least pressure alone overshoots budgets."""
    analysis = analysed(TOPOLOGIES[name]())
    allocating, dense = problem(analysis, allocator, Limits(4)), CostModel(analysis).dense()
    n_added = 0
    for percent in range(40, 90, 5):
        budget = parse("macs", f"{percent}%")
        least = least_pressure(allocating.at, [budget], dense)
        if least is None:
            continue
        found = allocating.within([budget])
        assert budget.is_met(found.cost, dense)
        widths, before = ({group: len(kept) for group, kept in one.keep.items()} for one in (found, least))
        assert all(widths[group] >= before[group] for group in before)
        n_added += widths != before
        for group in analysis.groups:
            errors, width = allocating.problem.errors(group), widths[group.name]
            wider = min(group.width, width + allocating.problem.step(group))
            if errors[wider] < errors[width]:
                trial = allocating.keep_for({**widths, group.name: wider})
                assert not budget.is_met(CostModel(analysis).of(analysis.keep_mask(trial)), dense)
    assert n_added


def test_several_budgets_hold_together(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["projection_shortcut"]())
    dense = CostModel(analysis).dense()
    budgets = [parse("macs", "60%"), parse("parameters", "30%")]
    cost = problem(analysis).within(budgets).cost
    assert all(budget.is_met(cost, dense) for budget in budgets)


def test_an_infeasible_budget_names_the_best_reachable_value_and_what_binds(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["chain"]())
    with pytest.raises(BudgetError) as caught:
        problem(analysis, limits=Limits(round_to=1, min_width=4)).within([parse("macs", "1%")])
    least = problem(analysis, limits=Limits(round_to=1, min_width=4)).at(1.0)
    assert f"{least.cost.macs:,}" in caught.value.where
    assert all(group.name in caught.value.because for group in analysis.groups)


def test_widths_follow_the_multiple(analysed: Callable[..., Analysis]) -> None:
    net = Net()
    x = net.input("x", ["n", 3, 8, 8])
    net.output(net.head(net.cbr(net.cbr(x, 3, 64), 64, 40), 40))
    kept = problem(analysed(net), limits=Limits(round_to=8)).at(0.45).keep.values()
    assert sorted(len(indices) for indices in kept) == [24, 32]


def test_the_best_scores_stay(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["chain"]())
    (first, second) = analysis.groups
    scores = {group.name: np.arange(group.width, dtype=float) for group in analysis.groups}
    allocating = Allocating(analysis, CostModel(analysis), registry.load("allocators", "uniform")(), scores, Limits())
    assert allocating.at(0.5).keep == {first.name: (4, 5, 6, 7), second.name: (6, 7, 8, 9, 10, 11)}


def test_global_ranking_removes_the_lowest_of_all_groups(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["chain"]())
    (first, second) = analysis.groups
    scores = {first.name: np.full(first.width, 2.0), second.name: np.linspace(0.1, 1, second.width)}
    allocating = Allocating(analysis, CostModel(analysis), registry.load("allocators", "global")(), scores, Limits())
    keep = allocating.at(0.25).keep
    assert keep[first.name] == tuple(range(8))
    assert keep[second.name] == tuple(range(5, 12))


def test_a_shared_tensor_counts_once_until_its_uses_differ(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["shared_bias"]())
    cost = CostModel(analysis)
    assert cost.dense().parameters == sum(
        int(np.prod(t.dims)) for t in TOPOLOGIES["shared_bias"]().initializers if t.data_type == 1
    )
    first = analysis.groups[0]
    one_less = cost.of(analysis.keep_mask({first.name: range(1, first.width)}))
    saved = 3 * 9 + 8 * 9  # one filter, and what reads it; the bias is needed whole by others, so a copy of 7 is added
    assert one_less.parameters == cost.dense().parameters - saved + 7


def test_cost_counts_what_textbooks_count(analysed: Callable[..., Analysis]) -> None:
    net = Net()
    x = net.input("x", ["n", 3, 10, 10])
    y = net.conv(x, 3, 8)  # 10*10*8*3*9 = 21,600
    y = net.conv(y, 8, 8, group=8, strides=[2, 2])  # 5*5*8*9 = 1,800
    y = net.op("ConvTranspose", y, net.weight(8, 6, 2, 2), strides=[2, 2])  # 25*8*6*4 = 4,800
    net.output(net.head(y, 6, 5))  # 30
    cost = CostModel(analysed(net)).dense()
    assert cost.macs == 21_600 + 1_800 + 4_800 + 30
    assert cost.parameters == (216 + 8) + (72 + 8) + 192 + (30 + 5)


@pytest.mark.parametrize("name", ["shared_bias", "grouped", "encoder_of_two_blocks"])
@pytest.mark.parametrize("quantity", ["macs", "parameters", "size_bytes"])
def test_prices_follow_the_cost_model_wherever_widths_go(name: str, quantity: str, analysed: Callable[..., Analysis]) -> None:
    analysis = analysed({**TOPOLOGIES, **ATTENTION}[name](), kinds=frozenset(Kind))
    cost, random = CostModel(analysis, overhead_bytes=1000), np.random.default_rng(0)
    scores = {group.name: np.arange(group.width, dtype=float) for group in analysis.groups}
    chosen = registry.load("allocators", "uniform")()
    asked = Allocating(analysis, cost, chosen, scores, Limits(), quantities=[quantity]).problem
    for _ in range(20):
        widths = {group.name: int(random.integers(1, group.width + 1)) for group in analysis.groups if random.random() < 0.7}
        keep = {
            group.name: range(group.width - widths[group.name], group.width)
            for group in analysis.groups
            if group.name in widths
        }
        counted = cost.quantity(quantity, analysis.keep_mask(keep)) / cost.quantity(quantity, analysis.keep_mask({}))
        assert asked.price(widths) == pytest.approx(counted, abs=1e-4 if quantity == "size_bytes" else 1e-12)
