from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.lessons import convnet, loaded, mlp

from shrinkc.errors import PluginError
from shrinkc.training.masks import MaskSet
from shrinkc.training.select import NOfM, PerUnit, erk, keep_k, kept_after, kept_of, lamp, select_k, uniform_plus
from shrinkc.training.views import prunable, weight_views


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_exactly_k_of_the_eligible_stay_and_ties_go_to_the_lower_index(values: list[int], data: st.DataObject) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    eligible = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    k = data.draw(st.integers(0, int(eligible.sum())))
    found = keep_k(scores, k, eligible).nonzero()[:, 0].tolist()
    ranked = sorted((place for place in range(len(values)) if eligible[place]), key=lambda place: (-values[place], place))
    assert found == sorted(ranked[:k])


def test_a_score_that_is_not_a_number_is_an_error_unless_it_is_not_eligible() -> None:
    scores = torch.tensor([1.0, math.nan, 2.0])
    with pytest.raises(PluginError, match="not a number"):
        keep_k(scores, 1)
    assert keep_k(scores, 1, torch.tensor([True, False, True])).tolist() == [False, False, True]


def test_survivors_of_a_fifth_each_time_are_the_published_counts() -> None:
    masks, counts = MaskSet.dense({"w": torch.zeros(1000)}), []
    scores = {"w": torch.rand(1000, generator=torch.Generator().manual_seed(0))}
    for _ in range(5):
        counts.append(masks.alive)
        smaller = select_k(scores, masks, kept_after(masks.alive, 0.2))
        assert smaller.nested_in(masks)
        masks = smaller
    assert counts == [1000, 800, 640, 512, 410]
    assert masks.alive == 328


def test_lamp_scores_are_the_thirteenths_and_every_layer_keeps_its_largest() -> None:
    assert lamp(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([1 / 14, 4 / 13, 1])
    weights = {"small": torch.tensor([1e-3, 2e-3]), "large": torch.tensor([5.0, 6.0, 7.0])}
    kept = select_k({name: lamp(weight) for name, weight in weights.items()}, MaskSet.dense(weights), 2)
    assert kept["small"].tolist() == [False, True]
    assert kept["large"].tolist() == [False, False, True]


def test_erk_densities_are_those_of_the_reference_example() -> None:
    shapes = {"a": (3, 3, 3, 16), "b": (3, 3, 16, 32), "c": (3, 3, 32, 64), "d": (64, 10)}
    found = erk(shapes, 0.1)
    assert [round(1 - found[name], 4) for name in shapes] == pytest.approx([0.4331, 0.8852, 0.9458, 0.0], abs=1e-3)
    total = sum(math.prod(shape) * found[name] for name, shape in shapes.items())
    assert total == pytest.approx(0.1 * sum(map(math.prod, shapes.values())))


def test_uniform_plus_keeps_the_first_layer_and_a_fifth_of_the_last() -> None:
    shapes = {"a": (4, 4), "b": (100, 10), "c": (10, 10)}
    found = uniform_plus(shapes, 0.1, "a", "c")
    assert (found["a"], found["c"]) == (1.0, 0.2)
    assert sum(math.prod(shape) * found[name] for name, shape in shapes.items()) == pytest.approx(0.1 * 1116)


def test_views_turn_every_layout_into_units_by_inputs_and_back(tmp_path) -> None:
    views = weight_views(loaded(convnet(), tmp_path))
    assert [view.units for view in views] == [8, 8, 3]
    assert [view.is_first for view in views] == [True, False, False]
    assert [view.reads_nonnegative for view in views] == [False, True, True]
    assert [view.is_normalized for view in views] == [True, True, False]
    assert views[-1].is_last
    for view in views:
        weight = torch.rand(view.shape)
        assert torch.equal(view.from2d(view.to2d(weight)), weight)
    assert len(prunable(views, keep_first=True, keep_last=True)) == 1


def test_whole_units_go_by_their_mean_score(tmp_path) -> None:
    views = tuple(weight_views(loaded(mlp(), tmp_path)))
    weights = {view.name: torch.rand(view.shape) for view in views}
    kept = PerUnit(views).select(weights, MaskSet.dense(weights), 0.5)
    rows = [view.to2d(kept[view.name]) for view in views]
    assert all(bool((row.all(1) | ~row.any(1)).all()) for row in rows)
    assert sum(int(row.any(1).sum()) for row in rows) == 9


def test_two_of_four_keeps_the_two_largest_of_every_block(tmp_path) -> None:
    views = tuple(weight_views(loaded(mlp(), tmp_path)))[1:]
    weight = torch.rand(views[0].shape)
    mask = NOfM(views).select({"w2": weight}, MaskSet.dense({"w2": weight}), 0.5)["w2"]
    blocks, kept = weight.reshape(-1, 4), mask.reshape(-1, 4)
    assert bool((kept.sum(1) == 2).all())
    assert bool((blocks.masked_fill(~kept, 2).amin(1) >= blocks.masked_fill(kept, -1).amax(1)).all())


def test_hashes_tell_masks_apart_and_density_counts() -> None:
    a = MaskSet({"w": torch.tensor([True, False])})
    b = MaskSet({"w": torch.tensor([False, True])})
    assert a.hash() != b.hash()
    assert a.density() == 0.5
    assert kept_of(10, 0.35) == 4
