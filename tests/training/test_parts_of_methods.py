"""What methods are made of: samples of a phase, ends of epochs, scores of what training showed, weights that come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from training.lessons import blobs, context, killed_at, lesson, loaded, mlp, settings

from shrinkc.log import Silent
from shrinkc.training.budget import Budget
from shrinkc.training.context import Context
from shrinkc.training.interfaces import Phase, Plugin, Signal
from shrinkc.training.masks import MaskSet
from shrinkc.training.phases import Average, Evaluate, Open, Prune, Remember, Train
from shrinkc.training.running import trained
from shrinkc.training.samples import Batch, Samples
from shrinkc.training.schedules import Constant
from shrinkc.training.scoring import Magnitude
from shrinkc.training.views import WeightView, prunable


class Seen(Plugin):
    """Trains on the first samples only, with every label turned around, and notes what comes."""

    def __init__(self, samples: int) -> None:
        self.samples, self.seen, self.ends = samples, set[int](), list[int]()

    def on_dataset(self, context: Context, samples: Samples) -> Samples:
        few = samples.take(torch.arange(self.samples))
        assert few.labels is not None
        return replace(few, labels=1 - few.labels)

    def on_batch(self, context: Context, batch: Batch) -> Batch:
        assert batch.labels is not None
        given = context.feeder.samples.labels
        assert given is not None
        assert torch.equal(batch.labels, given[batch.index])
        self.seen |= set(batch.index.tolist())
        return batch

    def on_epoch_end(self, context: Context) -> Signal:
        self.ends.append(context.step)
        return Signal.STOP if len(self.ends) == 3 else Signal.GO_ON


def test_a_plugin_says_what_a_phase_trains_on_and_ends_it_after_an_epoch(tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(), tmp_path), blobs(128)), teacher="none", held_out=0.25, batch=16)
    before, first = made.feeder, made.evaluate()
    watch = Seen(40)
    Train(Budget(50, "steps"), Constant(0.1), [watch], keeps_best=False).run(made)
    assert watch.ends == [2, 4, 6]  # two whole batches of the forty samples an epoch
    assert watch.seen <= set(range(40))
    assert len(watch.seen) > 32
    assert made.feeder is before
    assert made.records[-1]["ended_early"]
    assert made.evaluate().accuracy < first.accuracy  # it learned the opposite


class Movement(Plugin):
    """Scores of Sanh, Wolf, Rush (2020), eq. (3): what every step takes away from zero; a plugin and a scorer in one."""

    NAME: ClassVar[str] = "movement"

    def __init__(self, views: list[WeightView]) -> None:
        self.views = views

    def on_cycle_start(self, context: Context) -> None:
        context.snapshots[self.NAME] = {view.name: torch.zeros(view.shape) for view in self.views}

    def on_grad(self, context: Context, gradients: Mapping[str, torch.Tensor]) -> None:
        for name, score in context.snapshots[self.NAME].items():
            score -= gradients[name] * context.tensors[name].detach()

    def scores(self, context: Context) -> dict[str, torch.Tensor]:
        return context.snapshots[self.NAME]


@dataclass(frozen=True)
class Moving:
    name: ClassVar[str] = "moving"

    def phases(self, context: Context) -> list[Phase]:
        views = prunable(context.views)
        watch = Movement(views)
        rest = Budget(4, "steps")
        return [
            Train(Budget(9, "steps"), Constant(0.05), [watch]),
            Prune(views, watch, lambda alive, total: alive // 2),
            Train(rest, Constant(0.05)),
            Open(views[:1]),
            Train(rest, Constant(0.05)),
            Evaluate("at the end"),
        ]


@pytest.mark.parametrize("at", [4, 9, 11, 14])
def test_what_a_scorer_saw_outlives_its_phase_and_a_killed_run(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def result(checkpoint: Path | None) -> Context:
        def built(name: str, options: Mapping[str, object]) -> Any:
            return Moving()

        chosen = settings(method="moving", teacher="none", batch=16)
        return trained(lesson(loaded(mlp(), tmp_path), blobs()), chosen, Silent(), checkpoint, built).context

    whole = result(None)
    with killed_at(at, monkeypatch):
        result(tmp_path / "run.npz")
    again = result(tmp_path / "run.npz")
    assert again.masks.hash() == whole.masks.hash()
    assert all(torch.equal(value, whole.tensors[name]) for name, value in again.tensors.items())
    told = {record["phase"]: record for record in whole.records}
    assert told["evaluate"]["name"] == "at the end"
    assert told["evaluate"]["after"]["accuracy"] > 0.8


def test_weights_that_are_let_back_start_from_zero_and_learn_while_others_stay_masked(tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none")
    views = prunable(made.views)
    Prune(views, Magnitude(views), lambda alive, total: 3 * alive // 4).run(made)
    was = made.masks
    Open([view for view in views if view.name == "w1"]).run(made)
    assert was.nested_in(made.masks)
    assert made.masks["w1"].all()
    assert torch.equal(made.masks["w2"], was["w2"])
    assert not made.tensors["w1"][~was["w1"]].any()
    Train(Budget(4, "steps"), Constant(0.1), keeps_best=False).run(made)
    assert (made.tensors["w1"][~was["w1"]] != 0).float().mean() > 0.5
    assert not made.tensors["w2"][~was["w2"]].any()


def test_the_average_of_copies_is_masked_and_put_in(tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none")
    copies: list[dict[str, torch.Tensor]] = []
    for number in range(3):
        made.tensors["w1"] += number
        Remember(f"copy {number}").run(made)
        copies.append({name: tensor.clone() for name, tensor in made.tensors.items()})
    mask = torch.rand(16, 2, generator=torch.Generator().manual_seed(0)) > 0.5
    made.masks = MaskSet({"w1": mask})
    Average([f"copy {number}" for number in (0, 2)]).run(made)
    torch.testing.assert_close(made.tensors["w1"], (copies[0]["w1"] + copies[2]["w1"]) / 2 * mask)
    torch.testing.assert_close(made.tensors["w2"], copies[0]["w2"])
    assert made.records[-1]["of"] == 2
