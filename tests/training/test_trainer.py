from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from shrinkc.passes.training.gradual_magnitude import GradualMagnitude
from shrinkc.passes.training.iterative_magnitude import TICKET, IterativeMagnitude, Retrain
from shrinkc.passes.training.network_slimming import GainPenalty
from training.lessons import Killed, blobs, context, convnet, interrupt_at, killed_at, lesson, loaded, mlp, pictures, settings

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.errors import RecipeError, TrainingError
from shrinkc.evidence.data import Data
from shrinkc.log import Silent
from shrinkc.training.budget import Budget
from shrinkc.training.checkpoint import Checkpoints
from shrinkc.training.context import Context
from shrinkc.training.interfaces import Plugin, Signal
from shrinkc.training.keeping import Keeper
from shrinkc.training.masks import MaskSet
from shrinkc.training.phases import Train, carry_out, measure_statistics
from shrinkc.training.rates import schedule_of
from shrinkc.training.running import trained
from shrinkc.training.schedules import Constant
from shrinkc.training.schedules import retraining as schedule_by_name
from shrinkc.training.state import copied


class Watch(Plugin):
    """After every step: masked weights and their momentum are zero."""

    def __init__(self) -> None:
        self.densities: list[float] = []
        self.hashes: list[str] = []

    def after_step(self, context: Context) -> Signal:
        for name, mask in context.masks.items():
            assert not context.tensors[name][~mask].any()
            assert torch.isfinite(context.tensors[name]).all()
        self.densities.append(context.masks.density())
        return Signal.GO_ON


def weights(made: Context) -> dict[str, torch.Tensor]:
    return copied(made.tensors)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_on_labels_learns_them(tmp_path: Path) -> None:
    what = lesson(loaded(mlp(), tmp_path), blobs(256))
    result = trained(what, settings(teacher="none", budget="10epochs", learning_rate=0.3), Silent())
    assert result.before.accuracy is not None
    assert result.after.accuracy is not None
    assert result.after.accuracy > max(0.9, result.before.accuracy)


def test_the_model_written_back_computes_what_the_executor_did(tmp_path: Path) -> None:
    data = pictures()
    what = lesson(loaded(convnet(1), tmp_path), data, loaded(convnet(2), tmp_path))
    result = trained(what, settings(learning_rate=0.02, optimizer="adamw", batch_norm="batch"), Silent())
    shrinkc_ir.save(result.model, tmp_path / "out.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    found = session.run(None, {"image": data.inputs["image"]})[0]
    with torch.no_grad():
        expected = result.context.run({"image": torch.from_numpy(data.inputs["image"])})
    np.testing.assert_allclose(found, next(iter(expected.values())), atol=1e-5)
    assert result.after.loss < result.before.loss


def test_a_rate_too_high_never_gives_back_a_worse_model(tmp_path: Path) -> None:
    teacher = loaded(mlp(seed=2), tmp_path)
    what = lesson(loaded(mlp(seed=2), tmp_path), blobs(128), teacher)
    result = trained(what, settings(optimizer="adamw", learning_rate=3.0), Silent())
    assert result.after.loss <= result.before.loss
    assert result.after.agreement == 1.0


def test_a_loss_that_is_not_finite_ends_with_the_best_weights_so_far(tmp_path: Path) -> None:
    what = lesson(loaded(mlp(seed=1), tmp_path), blobs(128), loaded(mlp(seed=2), tmp_path))
    result = trained(what, settings(learning_rate=1e30, momentum=0.0, logit_loss="mse"), Silent())
    assert isinstance(result.error, TrainingError)
    assert "not finite" in str(result.error)
    assert result.after.loss <= result.before.loss
    assert all(np.isfinite(shrinkc_ir.stored_array(value)).all() for value in result.model.graph.initializers.values())


def test_a_model_whose_outputs_are_not_finite_is_refused_before_the_first_step(tmp_path: Path) -> None:
    student = loaded(mlp(seed=1), tmp_path)
    shrinkc_ir.replace_tensor(student.graph.initializers["b2"], np.full(2, math.nan, np.float32))
    with pytest.raises(TrainingError, match="before the first step"):
        trained(lesson(student, blobs(), loaded(mlp(seed=2), tmp_path)), settings(), Silent())


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    data = blobs()
    unlabelled = type(data)(data.inputs, None, "x")
    with pytest.raises(RecipeError, match="nothing to learn from"):
        context(lesson(loaded(mlp(), tmp_path), unlabelled), teacher="none")
    with pytest.raises(RecipeError, match="no images"):
        context(lesson(loaded(mlp(), tmp_path), data), teacher="none", augment=("shift",))


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none", seed=seed)
        Train(Budget(9, "steps"), Constant(0.1), keeps_best=False).run(made)
        found.append(weights(made))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_without_masks_penalty_and_loss_the_methods_are_plain_training_bitwise(tmp_path: Path) -> None:
    def result(plugins: list[Plugin], masked: bool = False) -> dict[str, torch.Tensor]:
        made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none")
        if masked:
            made.masks = MaskSet.dense(made.weights(made.views))
        Train(Budget(9, "steps"), Constant(0.1), plugins, keeps_best=False).run(made)
        return weights(made)

    plain = result([])
    assert same(plain, result([GainPenalty(["w1"], 0.0)]))
    assert same(plain, result([], masked=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masked_weights_stay_zero_and_optimizer_state_with_them(optimizer: str, tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none", optimizer=optimizer)
    random_mask = torch.rand(16, 2, generator=torch.Generator().manual_seed(0)) > 0.5
    made.masks = MaskSet({"w1": random_mask})
    made.masks.apply(made.tensors)
    watch = Watch()
    states: list[dict[str, torch.Tensor]] = []

    class Spy(Plugin):
        def after_step(self, context: Context) -> Signal:
            states.append(copied(trainer._optimizer.state()))
            if context.step == 3:  # more goes, and with it what the optimizer remembers of it
                random_mask[::2] = False
                context.masks = MaskSet({"w1": random_mask.clone()})
                context.masks.apply(context.tensors)
            return Signal.GO_ON

    from shrinkc.training.trainer import Trainer

    trainer = Trainer(made, Constant(0.05), Budget(6, "steps"), [watch, Spy()])
    trainer.run()
    for state in states[3:]:
        held = [value for name, value in state.items() if name.startswith("w1/") and value.shape == random_mask.shape]
        assert held
        assert all(not value[~random_mask].any() and value[random_mask].any() for value in held)


def test_tickets_start_from_the_weights_of_their_step_and_masks_are_nested(tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none", budget="12steps")
    phases = list(IterativeMagnitude(levels=2, fraction=0.2, retraining="weights", rewind_step=4).phases(made))
    masks: list[MaskSet] = []
    for phase in phases:
        phase.run(made)
        if type(phase).__name__ == "Rewind":
            masks.append(made.masks)
            ticket = made.snapshots[TICKET]
            for name, value in made.tensors.items():
                expected = ticket[name] if name not in made.masks else ticket[name] * made.masks[name]
                assert torch.equal(value, expected)
    assert [mask.alive for mask in masks] == [64 - 12, 52 - 10]
    assert masks[1].nested_in(masks[0])
    assert made.records[1]["distance"] <= 1


def test_remembering_a_step_does_not_change_the_dense_run(tmp_path: Path) -> None:
    dense = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none", budget="12steps")
    Train(Budget(12, "steps"), schedule_of(dense.settings, dense), keeps_best=False).run(dense)
    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none", budget="12steps")
    IterativeMagnitude(levels=1, retraining="weights", rewind_step=5).phases(made)[0].run(made)
    assert same(weights(dense), weights(made))


@pytest.mark.parametrize("scope", ["global", "lamp", "uniform", "erk"])
@pytest.mark.parametrize("retraining", ["lrw", "allr"])
def test_iterative_pruning_reaches_its_density_whatever_the_scope(scope: str, retraining: str, tmp_path: Path) -> None:
    given = {"teacher": "none", "budget": "3steps", "original": "9steps"}
    made = context(lesson(loaded(mlp(width=40), tmp_path), blobs()), **given)
    method = IterativeMagnitude(levels=2, fraction=0.5, retraining=retraining, scope=scope)
    carry_out(method.phases(made), made)
    assert made.masks.density() == pytest.approx(0.25, abs=0.03)


def rates(made: Context, retraining: str, distance: float, original: str) -> list[float]:
    """Learning rates of the steps of one retraining, after a pruning that moved the weights so far."""
    made.settings = replace(made.settings, original=original)
    phase = IterativeMagnitude(levels=1, retraining=retraining).phases(made)[1]
    assert isinstance(phase, Retrain)
    schedule = schedule_by_name(phase.name, phase.trace, distance=distance, length=phase.length, warm_up=0.0)
    return [schedule.value(step, 10) for step in range(10)]


def test_schedules_of_retraining_know_how_long_the_original_training_was(tmp_path: Path) -> None:
    """ALLR begins as high as the larger of what was pruned and how long there is; LRW repeats the end of the schedule."""
    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none", budget="10steps", learning_rate=0.1)
    low, middle, high = (rates(made, "allr", distance, "40steps")[0] for distance in (0.1, 0.5, 1.0))
    assert low / high == pytest.approx(0.25, rel=1e-6)
    assert middle / high == pytest.approx(0.5, rel=1e-6)
    whole, end = (max(rates(made, "lrw", 1.0, original)) for original in ("10steps", "40steps"))
    assert whole > 0.09
    assert end < 0.02
    with pytest.raises(RecipeError, match="compares lengths"):
        rates(made, "allr", 1.0, "")
    with pytest.raises(RecipeError, match="no effect"):
        rates(made, "ft", 1.0, "5epochs")


def test_too_little_memory_before_the_first_step_is_told_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(context: Context) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Context, "evaluate", scarce)
    with pytest.raises(TrainingError, match="needs more memory"):
        trained(lesson(loaded(mlp(), tmp_path), blobs()), settings(teacher="none"), Silent())


def test_training_stops_early_where_nothing_held_out_gets_better(tmp_path: Path) -> None:
    slow = settings(teacher="none", budget="100steps", learning_rate=1e-12, patience=2, evaluations=10)
    made = trained(lesson(loaded(mlp(), tmp_path), blobs()), slow, Silent())
    assert 0 < made.context.steps_done < 60
    assert made.stopped == "no better model was found any more"
    patient = trained(lesson(loaded(mlp(), tmp_path), blobs()), replace(slow, patience=0), Silent())
    assert patient.context.steps_done == 100
    assert patient.stopped == "the budget is spent"


def test_stopping_early_ends_a_phase_and_not_the_recipe(tmp_path: Path) -> None:
    slow = settings(teacher="none", budget="50steps", learning_rate=1e-12, patience=1, evaluations=10, clip=1.0)
    ticket = replace(slow, method="iterative-magnitude", options={"levels": 2, "fraction": 0.5})
    made = trained(lesson(loaded(mlp(), tmp_path), blobs()), ticket, Silent())
    assert [record["phase"] for record in made.context.records] == ["prune", "train"] * 2
    assert made.context.masks.density() == pytest.approx(0.25)
    assert made.context.steps_done < 100
    assert all(record["ended_early"] for record in made.context.records[1::2])
    statistics = replace(slow, reestimate=True, teacher="original", batch_norm="batch")
    found = trained(lesson(loaded(convnet(1), tmp_path), pictures(), loaded(convnet(2), tmp_path)), statistics, Silent())
    assert [record["phase"] for record in found.context.records] == ["train", "statistics"]
    assert found.context.records[0]["ended_early"]


def test_a_phase_that_ended_early_is_not_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the step that was enough and the end of the phase."""
    slow = settings(teacher="none", budget="100steps", learning_rate=1e-12, patience=2, evaluations=10)

    def run(checkpoint: Path | None) -> Context:
        return trained(lesson(loaded(mlp(), tmp_path), blobs()), slow, Silent(), checkpoint).context

    def dying(self: Keeper, context: Context) -> None:
        raise Killed

    whole = run(None)
    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "on_cycle_end", dying)
        patched.setattr(Checkpoints, "offer", lambda self, made: self.write(made()))
        with pytest.raises(Killed):
            run(tmp_path / "c.npz")
    assert run(tmp_path / "c.npz").steps_done == whole.steps_done < 100


def test_sparsity_that_grows_by_steps_refuses_a_budget_of_time(tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none", budget="3min")
    with pytest.raises(RecipeError, match="grows by steps"):
        GradualMagnitude().phases(made)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 1, -1]])
@pytest.mark.parametrize("teacher", [True, False])
def test_labels_that_no_output_has_a_class_for_are_refused_before_anything_is_trained(
    labels: list[int], teacher: bool, tmp_path: Path
) -> None:
    data = blobs(60)
    wrong = Data(data.inputs, np.asarray(labels * 20), "blobs")
    original = loaded(mlp(), tmp_path) if teacher else None
    with pytest.raises(RecipeError, match="labels fit no output"):
        context(lesson(loaded(mlp(), tmp_path), wrong, original), teacher="original" if teacher else "none")


def test_labels_count_for_nothing_where_images_are_mixed(tmp_path: Path) -> None:
    data = Data(pictures().inputs, np.zeros(64, np.int64), "pictures")
    taught = lesson(loaded(convnet(), tmp_path), data, loaded(convnet(), tmp_path))
    assert context(taught, augment=("mix",), label_weight=0.5).objective.label_weight == 0
    assert context(taught, label_weight=0.5).objective.label_weight == 0.5


def test_gradual_pruning_follows_the_cubic_rule_and_ends_exactly(tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(width=50), tmp_path), blobs()), teacher="none", budget="40steps")
    growing, settling = GradualMagnitude(sparsity=0.8, ramp=0.5, every=5).phases(made)
    watch = Watch()
    growing.plugins.append(watch)  # type: ignore[attr-defined]
    growing.run(made)
    before = made.masks.hash()
    settling.run(made)
    assert made.masks.alive == 40
    assert made.masks.hash() == before
    assert watch.densities == sorted(watch.densities, reverse=True)
    assert watch.densities[9] == pytest.approx(1 - 0.8 * (1 - 1 / 8), abs=0.006)


def test_weights_may_come_back_where_that_is_asked_for(tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(width=50), tmp_path), blobs()), teacher="none", budget="40steps", learning_rate=0.5)
    growing = GradualMagnitude(sparsity=0.5, initial_sparsity=0.5, ramp=0.9, every=2, is_regrowing=True).phases(made)[0]
    seen: list[MaskSet] = []

    class Keep(Plugin):
        def after_step(self, context: Context) -> Signal:
            seen.append(context.masks)
            return Signal.GO_ON

    growing.plugins.append(Keep())  # type: ignore[attr-defined]
    growing.run(made)
    assert not seen[-1].nested_in(seen[0])
    assert {mask.alive for mask in seen} == {100}
    assert not made.tensors["w1"][~made.masks["w1"]].any()


def test_the_penalty_alone_shrinks_gains_by_rate_times_strength(tmp_path: Path) -> None:
    made = context(lesson(loaded(convnet(), tmp_path), pictures(), loaded(convnet(), tmp_path)), momentum=0.0, weight_decay=0.0)
    before = {name: float(made.tensors[name].abs().sum()) for name in ("gain1",)}
    Train(Budget(10, "steps"), Constant(0.1), [GainPenalty(["gain1"], 0.05)], keeps_best=False).run(made)
    # The student starts as its teacher, so the first steps have no other gradient than the penalty's.
    assert float(made.tensors["gain1"].abs().sum()) < before["gain1"] - 8 * 0.1 * 0.05


def test_statistics_measured_anew_are_the_moments_of_what_is_read(tmp_path: Path) -> None:
    """All batches count alike by their samples; later normalisations read what earlier ones make of their own batch."""
    made = context(lesson(loaded(convnet(), tmp_path), pictures(), loaded(convnet(1), tmp_path)), held_out=0.0)
    made.evaluation_batch = 24
    measure_statistics(made, 64)
    images, parts = made.feeder.samples.inputs["image"], []
    made.executor.train()
    kept = {name: tensor.clone() for name, tensor in made.tensors.items()}
    with torch.no_grad():
        for start in range(0, 64, 24):
            names = [normalization.data for normalization in made.normalizations]
            parts.append(made.executor({"image": images[start : start + 24]}, also=names))
    made.put(kept)
    assert len(made.normalizations) == 2
    for normalization in made.normalizations:
        value = torch.cat([part[normalization.data] for part in parts])
        torch.testing.assert_close(made.tensors[normalization.mean], value.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
        spread = value.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(made.tensors[normalization.variance], spread, atol=1e-5, rtol=1e-4)


def test_statistics_that_settle_follow_the_batch_in_the_first_half_of_every_phase(tmp_path: Path) -> None:
    follows: list[bool] = []

    class Watcher(Plugin):
        def loss(self, context: Context, values: object, batch: object) -> None:
            follows.append(context.executor.normalizes)

    made = context(lesson(loaded(convnet(), tmp_path), pictures(), loaded(convnet(1), tmp_path)), batch_norm="settling")
    for _ in range(2):
        Train(Budget(6, "steps"), Constant(0.01), [Watcher()], keeps_best=False).run(made)
    assert follows == 2 * [True, True, True, False, False, False]


def test_plugins_are_called_in_the_promised_order(tmp_path: Path) -> None:
    calls: list[str] = []

    class Order(Plugin):
        name: ClassVar[str] = "order"

        def on_cycle_start(self, context: Context) -> None:
            calls.append("start")

        def on_batch(self, context, batch):
            calls.append("batch")
            return batch

        def loss(self, context, outputs, batch):
            calls.append("loss")

        def on_grad(self, context, gradients) -> None:
            calls.append("grad")

        def replaces_step(self, context: Context) -> bool:
            calls.append("replaces")
            return True

        def after_step(self, context: Context) -> Signal:
            calls.append("after")
            return Signal.STOP

        def on_cycle_end(self, context: Context) -> None:
            calls.append("end")

    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none")
    before = weights(made)
    Train(Budget(5, "steps"), Constant(0.1), [Order()], keeps_best=False).run(made)
    assert calls == ["start", "batch", "loss", "grad", "replaces", "after", "end"]
    assert same(before, weights(made))


def test_every_training_method_is_found_by_its_entry_point() -> None:
    names = {"distillation", "gradual-magnitude", "iterative-magnitude", "lrpet", "network-slimming"}
    assert names <= set(registry.names("training"))
    for name in names:
        assert registry.load("training", name).name == name


def test_a_model_of_a_fixed_batch_takes_larger_steps_in_parts(tmp_path: Path) -> None:
    found = []
    for size in ("N", 4):
        proto = mlp()
        dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
        dim.Clear()
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size
        made = context(lesson(loaded(proto, tmp_path), blobs()), teacher="none", held_out=0.0)
        Train(Budget(5, "steps"), Constant(0.1), keeps_best=False).run(made)
        found.append(weights(made))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-6, rtol=1e-5)


METHODS = [
    ("distillation", {}, {"ema": 0.9}),
    ("distillation", {}, {"swa": 0.5, "reestimate": True, "optimizer": "adamw"}),
    ("distillation", {"share": 0.25, "tried": ({"learning_rate": 0.1}, {"batch_norm": "frozen"})}, {}),
    ("iterative-magnitude", {"levels": 2, "retraining": "weights", "rewind_step": 3}, {}),
    ("iterative-magnitude", {"levels": 2, "refit": True}, {}),
    ("iterative-magnitude", {"levels": 2}, {"patience": 1, "evaluations": 4, "learning_rate": 1e-9}),
    ("gradual-magnitude", {"sparsity": 0.7, "every": 3}, {"optimizer": "adamw"}),
    ("lrpet", {"every": 3, "start": "fresh", "choice": "searched", "trials": 3}, {}),
    ("flop", {"target": 0.8}, {"optimizer": "adamw"}),
]


@pytest.mark.parametrize(("method", "options", "given"), METHODS)
def test_a_run_killed_at_a_random_step_goes_on_to_the_same_weights(
    method: str, options: dict[str, object], given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shrinkc.training.trainer import Trainer

    def result(checkpoint: Path | None) -> tuple[dict[str, torch.Tensor], str]:
        what = lesson(loaded(convnet(1), tmp_path), pictures(), loaded(convnet(2), tmp_path))
        chosen = settings(
            method=method, options=options, budget="8steps", augment=("shift", "mix"), batch_norm="batch", held_out=0.5, **given
        )
        made = trained(what, chosen, Silent(), checkpoint)
        return weights(made.context), made.context.masks.hash()

    step = Trainer.step
    last: dict[str, torch.Tensor] = {}

    def recording(self: Trainer) -> float:
        loss = step(self)
        last.update(weights(self.context))
        return loss

    monkeypatch.setattr(Trainer, "step", recording)
    whole, ended = result(None), dict(last)
    kill_at = random.randrange(2, 8)
    with killed_at(kill_at, monkeypatch):
        result(tmp_path / "run.npz")
    resumed = result(tmp_path / "run.npz")
    assert same(whole[0], resumed[0]), f"killed at {kill_at}"
    assert same(ended, last), f"killed at {kill_at}"
    assert whole[1] == resumed[1]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    def run(seed: int) -> None:
        what = lesson(loaded(mlp(), tmp_path), blobs())
        trained(what, settings(teacher="none", seed=seed), Silent(), tmp_path / "run.npz")

    run(0)
    with pytest.raises(RecipeError, match="another run"):
        run(1)
    (tmp_path / "run.npz").write_bytes(b"nonsense")
    with pytest.raises(RecipeError, match="cannot be read"):
        run(0)


def test_averages_are_what_they_are_called(tmp_path: Path) -> None:
    from shrinkc.training.averaging import EqualAverage, MovingAverage

    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none")
    moving, equal = MovingAverage(0.5), EqualAverage(0.5)
    seen: list[dict[str, torch.Tensor]] = []

    class Keep(Plugin):
        def after_step(self, context: Context) -> Signal:
            seen.append(weights(context))
            return Signal.GO_ON

    start = weights(made)
    Train(Budget(4, "steps"), Constant(0.1), [moving, equal, Keep()], keeps_best=False).run(made)
    expected = start["w1"]
    for count, value in enumerate(seen):
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value["w1"]
    torch.testing.assert_close(moving.values()["w1"], expected)
    mean = torch.stack([value["w1"] for value in seen[1:]]).mean(0)
    held = equal.values()
    assert held is not None
    torch.testing.assert_close(held["w1"], mean)


def test_an_interrupt_ends_after_the_step_and_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(3, monkeypatch)
    what = lesson(loaded(mlp(seed=1), tmp_path), blobs(128), loaded(mlp(seed=2), tmp_path))
    result = trained(what, settings(evaluations=20), Silent())
    assert result.stopped == "interrupted"
    assert result.context.steps_done == 4
    assert result.after.loss <= result.before.loss


def test_too_little_memory_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shrinkc.training.trainer import Trainer

    def greedy(self: Trainer) -> float:
        torch.empty(1 << 60)
        return 0.0

    monkeypatch.setattr(Trainer, "step", greedy)
    result = trained(lesson(loaded(mlp(), tmp_path), blobs()), settings(teacher="none"), Silent())
    assert result.error is not None
    assert "needs more memory" in str(result.error)
    assert "smaller batch" in str(result.error)
    assert result.after == result.before


def test_no_more_samples_are_held_out_than_tell_two_models_apart(tmp_path: Path) -> None:
    made = context(lesson(loaded(mlp(), tmp_path), blobs(9000)), teacher="none", held_out=0.5)
    assert len(made.judged) == 1024
    assert made.n_trained == 9000 - 1024


def test_looking_at_held_out_samples_takes_a_small_share_of_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shrinkc.training.context import Context

    looks: list[int] = []
    evaluate = Context.evaluate

    def counted(self: Context) -> object:
        looks.append(self.step)
        return evaluate(self)

    monkeypatch.setattr(Context, "evaluate", counted)
    what = lesson(loaded(mlp(), tmp_path), blobs(4000))
    trained(what, settings(teacher="none", budget="30steps", batch=64, evaluations=20, held_out=0.2), Silent())
    assert set(looks) == {0, 30}, "800 samples cost as much as four steps; beginning and end are always looked at"
