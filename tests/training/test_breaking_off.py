"""What is left when training breaks: the best weights so far, on disk, and an error that says why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from shrinkc.passes.training.iterative_magnitude import IterativeMagnitude
from training.lessons import (
    blobs,
    context,
    convnet,
    in_constants,
    interrupt_at,
    killed_at,
    lesson,
    loaded,
    mlp,
    pictures,
    settings,
)

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.errors import PluginError, RecipeError, TrainingError
from shrinkc.evidence.data import Data
from shrinkc.log import Silent
from shrinkc.training import phases, running
from shrinkc.training.context import Context
from shrinkc.training.lifting import lift_weights
from shrinkc.training.running import Trained, trained
from shrinkc.training.scarcity import memory_counted
from shrinkc.training.trainer import Trainer

QUICK = {"verify": False, "measure_latency": False, "round_to": 1}


def distilled(tmp_path: Path, **given: object) -> Trained:
    data = Data(blobs().inputs, None, "blobs")
    what = lesson(loaded(mlp(seed=1), tmp_path), data, loaded(mlp(seed=2), tmp_path))
    return trained(what, settings(budget="20steps", evaluations=20, batch=64, learning_rate=0.05, **given), Silent())


@pytest.mark.parametrize(
    "error",
    [
        ValueError("expected more than one"),
        PluginError("scores are not finite", where="w1"),
        RecipeError("cannot go on"),
        OSError("no space left"),
        TrainingError("too much"),
    ],
)
def test_whatever_breaks_training_the_best_weights_so_far_are_kept(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def broken(self: Trainer) -> float:
        if self.context.step == 10:
            raise error
        return step(self)

    monkeypatch.setattr(Trainer, "step", broken)
    made = distilled(tmp_path)
    assert isinstance(made.error, TrainingError)
    assert str(error).splitlines()[0] in str(made.error)
    assert made.error is error or made.error.__cause__ is error
    assert made.context.steps_done == 10
    assert made.after.loss < made.before.loss
    assert made.context.evaluate() == made.after


def test_what_cannot_even_begin_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(self: Trainer) -> float:
        raise RecipeError("cannot begin")

    monkeypatch.setattr(Trainer, "step", refusing)
    with pytest.raises(RecipeError, match="cannot begin"):
        distilled(tmp_path)


def test_weights_that_explode_in_the_very_last_step_are_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def exploding(self: Trainer) -> float:
        loss = step(self)
        if self.context.step == 5:
            self.context.tensors["w1"].fill_(math.nan)
        return loss

    monkeypatch.setattr(Trainer, "step", exploding)
    ticket = settings(
        teacher="none", budget="5steps", method="iterative-magnitude", options={"levels": 0, "retraining": "weights"}
    )
    made = trained(lesson(loaded(mlp(), tmp_path), blobs()), ticket, Silent())
    assert made.error is not None
    assert "not finite" in str(made.error)
    assert made.after == made.before


@pytest.mark.parametrize("text", ["Failed to allocate memory for requested buffer of size 4", "std::bad_alloc"])
def test_any_allocator_that_has_nothing_left_is_understood(text: str) -> None:
    class RuntimeException(Exception):
        """Of onnxruntime: no kin of RuntimeError."""

    with pytest.raises(TrainingError, match="needs more memory"), memory_counted():
        raise RuntimeException(text)
    with pytest.raises(RuntimeException), memory_counted():
        raise RuntimeException("something else")


def files(folder: Path) -> tuple[Path, Path]:
    onnx.save(convnet(width=16), str(folder / "net.onnx"))
    np.savez(folder / "i.npz", **pictures(96).inputs)
    return folder / "net.onnx", folder / "i.npz"


def test_a_cut_model_is_on_disk_even_if_recovery_cannot_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = files(tmp_path)
    shrinkc.compress(model, data=data, macs="50%", output=tmp_path / "cut.onnx", **QUICK)

    def scarce(context: Context) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Context, "evaluate", scarce)
    with pytest.raises(TrainingError, match="needs more memory") as raised:
        shrinkc.compress(model, data=data, macs="50%", output=tmp_path / "o.onnx", recover="5steps", **QUICK)
    assert f"cut and not recovered, is at {tmp_path / 'o.onnx'}" in raised.value.hint
    assert_same_weights(tmp_path / "cut.onnx", tmp_path / "o.onnx")


def test_a_mistake_of_the_user_does_not_write_over_an_earlier_result(tmp_path: Path) -> None:
    model, data = files(tmp_path)
    given = {"data": data, "macs": "50%", "output": tmp_path / "o.onnx", "recover": "5steps", "checkpoint": tmp_path / "c.npz"}
    shrinkc.compress(model, seed=1, **given, **QUICK)
    before = (tmp_path / "o.onnx").read_bytes()
    with pytest.raises(RecipeError, match="another run") as raised:
        shrinkc.compress(model, seed=2, **given, **QUICK)
    assert "not recovered" not in raised.value.hint
    assert (tmp_path / "o.onnx").read_bytes() == before


def assert_same_weights(*paths: Path) -> None:
    before, after = (shrinkc_ir.load(path) for path in paths)
    for model in (before, after):
        lift_weights(model)
    assert before.graph.initializers.keys() == after.graph.initializers.keys()
    for name, value in before.graph.initializers.items():
        np.testing.assert_array_equal(
            shrinkc_ir.stored_array(value), shrinkc_ir.stored_array(after.graph.initializers[name]), err_msg=name
        )


def test_memory_that_runs_out_in_recovery_leaves_the_best_model_so_far_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = files(tmp_path)
    step, seen = Trainer.step, []

    def scarce(self: Trainer) -> float:
        if self.context.steps_done == 30:
            seen.append({name: tensor.clone() for name, tensor in self.context.snapshots["best"].items()})
            raise torch.OutOfMemoryError("out of memory")
        return step(self)

    monkeypatch.setattr(Trainer, "step", scarce)
    with pytest.raises(TrainingError, match="needs more memory") as raised:
        shrinkc.compress(model, data=data, macs="50%", output=tmp_path / "o.onnx", recover="40steps", **QUICK)
    assert f"the best model so far is at {tmp_path / 'o.onnx'}" in raised.value.hint
    found = shrinkc_ir.load(tmp_path / "o.onnx").graph.initializers
    for name, tensor in seen[0].items():
        np.testing.assert_array_equal(shrinkc_ir.stored_array(found[name]), tensor.numpy())


@pytest.mark.parametrize("kind", [lambda proto: proto, in_constants])
def test_recovery_takes_back_what_came_out_worse(
    kind: Callable[[onnx.ModelProto], onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a method that means its last weights, whatever they are, and wherever the file stores them."""
    _, data = files(tmp_path)
    onnx.save(kind(convnet(width=16)), str(tmp_path / "net.onnx"))
    monkeypatch.setattr(IterativeMagnitude, "leaves_weights_masked", False)
    (tmp_path / "wild.toml").write_text(
        'method = "iterative-magnitude"\nlearning_rate = 5.0\nwarm_up = 0.0\nclip = 1.0\n'
        '[options]\nlevels = 1\nfraction = 0.9\nretraining = "weights"\n'
    )
    given = {"data": data, "macs": "50%", **QUICK}
    shrinkc.compress(tmp_path / "net.onnx", output=tmp_path / "cut.onnx", **given)
    wild = {"recover": "5steps", "recover_with": str(tmp_path / "wild.toml")}
    report = shrinkc.compress(tmp_path / "net.onnx", output=tmp_path / "o.onnx", **wild, **given)
    assert report.recovery is not None
    assert "taken back" in report.recovery.stopped
    assert report.recovery.loss_after == report.recovery.loss_before
    assert_same_weights(tmp_path / "cut.onnx", tmp_path / "o.onnx")


def test_an_output_that_is_not_there_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = files(tmp_path)
    (tmp_path / "own.toml").write_text('classes = "nothing"\n')
    monkeypatch.setattr("shrinkc.pipeline.decided", lambda *arguments: pytest.fail("the work began"))
    given = {"recover": "5steps", "recover_with": str(tmp_path / "own.toml"), **QUICK}
    with pytest.raises(RecipeError, match="classes = nothing"):
        shrinkc.compress(model, data=data, macs="50%", output=tmp_path / "o.onnx", **given)


@pytest.mark.parametrize("recipe", ["iterative-magnitude", "gradual-magnitude"])
def test_what_masks_weights_away_is_no_recovery(recipe: str, tmp_path: Path) -> None:
    model, data = files(tmp_path)
    with pytest.raises(RecipeError, match="masks weights away"):
        shrinkc.compress(
            model, data=data, macs="50%", output=tmp_path / "o.onnx", recover="5steps", recover_with=recipe, **QUICK
        )


def test_low_ranks_that_were_trained_outlive_a_failure_of_what_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The projected weights are the best by then, and what is told of them goes with them."""
    chosen = settings(method="lrpet", options={"macs": "60%", "every": 3}, budget="8steps", batch_norm="batch", reestimate=True)

    def failing(context: Context, most: int) -> None:
        raise MemoryError("no more")

    def run() -> Trained:
        return trained(lesson(loaded(convnet(1), tmp_path), pictures(96), loaded(convnet(2), tmp_path)), chosen, Silent())

    whole = run()
    monkeypatch.setattr(phases, "measure_statistics", failing)
    made = run()
    assert made.error is not None
    assert [node.op_type for node in made.model.graph] == [node.op_type for node in whole.model.graph], "factors"
    assert len(made.model.graph) > len(convnet(1).graph.node)


def test_low_ranks_that_break_off_before_they_are_projected_leave_the_model_as_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shrinkc.passes.training import lrpet

    def failing(self: object, context: Context) -> None:
        end(self, context)
        raise OSError("no space left")

    end = lrpet.Projecting.on_cycle_end
    monkeypatch.setattr(lrpet.Projecting, "on_cycle_end", failing)
    chosen = settings(method="lrpet", options={"macs": "60%", "every": 3}, budget="8steps", batch_norm="batch")
    made = trained(lesson(loaded(convnet(1), tmp_path), pictures(96), loaded(convnet(2), tmp_path)), chosen, Silent())
    assert made.error is not None
    assert len(made.model.graph) == len(convnet(1).graph.node)
    assert all(record["phase"] != lrpet.PROJECTED for record in made.context.records)


def test_masks_go_back_with_the_weights_they_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def broken(self: Trainer) -> float:
        if self.context.steps_done == 15:
            raise OSError("no space left")
        return step(self)

    monkeypatch.setattr(Trainer, "step", broken)
    ticket = settings(
        teacher="none", budget="6steps", method="iterative-magnitude",
        options={"levels": 3, "fraction": 0.5, "retraining": "weights"},
    )  # fmt: skip
    made = trained(lesson(loaded(mlp(), tmp_path), blobs()), ticket, Silent())
    assert made.error is not None
    assert made.context.masks.density() == pytest.approx(0.5), "the second level, which was whole, and not the third"
    for name, mask in made.context.masks.items():
        assert not made.context.tensors[name][~mask].any()


def test_a_budget_smaller_than_its_tries_is_not_overdrawn(tmp_path: Path) -> None:
    tried = ({"learning_rate": 0.5}, {"learning_rate": 0.1}, {"learning_rate": 0.01})
    short = settings(budget="2steps", options={"tried": tried})
    made = trained(lesson(loaded(mlp(seed=1), tmp_path), blobs(), loaded(mlp(seed=2), tmp_path)), short, Silent())
    assert made.context.steps_done == 2
    assert made.context.settings.learning_rate == 0.01
    assert [record["phase"] for record in made.context.records] == ["train"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C writes a checkpoint, however short ago the last one was."""
    step = Trainer.step

    def run() -> Trained:
        what = lesson(loaded(mlp(seed=1), tmp_path), blobs(), loaded(mlp(seed=2), tmp_path))
        return trained(what, settings(budget="20steps"), Silent(), tmp_path / "c.npz")

    with monkeypatch.context() as patched:
        interrupt_at(7, patched)
        assert run().stopped == "interrupted"
    steps = []
    monkeypatch.setattr(Trainer, "step", lambda self: steps.append(self.context.step) or step(self))
    made = run()
    assert steps == list(range(8, 20))
    assert made.stopped == running.SPENT
    again = trained(
        lesson(loaded(mlp(seed=1), tmp_path), blobs(), loaded(mlp(seed=2), tmp_path)), settings(budget="20steps"), Silent()
    )
    assert all(torch.equal(made.context.tensors[name], value) for name, value in again.context.tensors.items())


def other_operator(proto: onnx.ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Tanh"


def other_number(proto: onnx.ModelProto) -> None:
    attribute = next(node for node in proto.graph.node if node.op_type == "Gemm").attribute.add()
    attribute.name, attribute.type, attribute.f = "alpha", onnx.AttributeProto.FLOAT, 2.0


def other_constant(proto: onnx.ModelProto) -> None:
    """No weight: what stands in a node that nothing learns."""
    constant = next(node for node in proto.graph.node if node.op_type == "Constant")
    constant.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.float32([3, 4])))


@pytest.mark.parametrize("change", [other_operator, other_number, other_constant])
def test_a_checkpoint_of_another_graph_is_refused(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    """The same weights under the same names, joined otherwise."""
    proto = mlp(seed=1)
    shift = onnx.helper.make_node("Constant", [], ["shift"], value=onnx.numpy_helper.from_array(np.float32([1, 2])))
    add = onnx.helper.make_node("Add", [proto.graph.output[0].name, "shift"], ["shifted"])
    proto.graph.node.extend([shift, add])
    proto.graph.output[0].name = "shifted"
    what = lesson(loaded(proto, tmp_path), blobs())
    trained(what, settings(teacher="none", budget="3steps"), Silent(), tmp_path / "c.npz")
    change(proto)
    other = lesson(loaded(proto, tmp_path), blobs())
    with pytest.raises(RecipeError, match="another run"):
        trained(other, settings(teacher="none", budget="3steps"), Silent(), tmp_path / "c.npz")


def test_statistics_are_measured_on_whole_batches(tmp_path: Path) -> None:
    """Of 257 samples the last would stand alone, and have no variance."""
    proto = convnet(1)
    what = lesson(loaded(proto, tmp_path), pictures(257), loaded(convnet(2), tmp_path))
    made = trained(replace(what, data=Data(pictures(514).inputs, None, "x")), settings(reestimate=True, held_out=0.5), Silent())
    assert made.error is None
    context = made.context
    assert len(context.feeder.samples) == 257
    assert len(context.few(2048)) == 256
    assert len(context.few(100)) == 100


def test_statistics_that_make_the_model_worse_are_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = context(lesson(loaded(convnet(1), tmp_path), pictures(96), loaded(convnet(1), tmp_path)))
    before = {name: tensor.clone() for name, tensor in made.tensors.items()}

    def spoiling(context: Context, most: int) -> None:
        for normalization in context.normalizations:
            context.tensors[normalization.mean] += 5.0

    monkeypatch.setattr(phases, "measure_statistics", spoiling)
    phases.Reestimate().run(made)
    assert made.records[-1]["after"]["loss"] > made.records[-1]["before"]["loss"]
    assert not made.records[-1]["is_kept"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.tensors.items())


@pytest.mark.parametrize("step", [3, 17])
def test_a_killed_recovery_goes_on_to_the_same_model(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut and the repair are made anew, the same; training goes on where it was, in a try or behind it."""
    model, data = files(tmp_path)
    (tmp_path / "own.toml").write_text(
        'batch = 16\nthreads = 1\naugment = ["shift"]\n[options]\nshare = 0.25\n'
        'tried = [{ learning_rate = 0.05, batch_norm = "batch" }, { learning_rate = 0.01 }]\n'
    )
    given = {"data": data, "macs": "50%", "recover": "24steps", "recover_with": str(tmp_path / "own.toml"), **QUICK}
    shrinkc.compress(model, output=tmp_path / "whole.onnx", **given)
    with killed_at(step, monkeypatch):
        shrinkc.compress(model, output=tmp_path / "again.onnx", checkpoint=tmp_path / "c.npz", **given)
    assert not (tmp_path / "again.onnx").exists()
    shrinkc.compress(model, output=tmp_path / "again.onnx", checkpoint=tmp_path / "c.npz", **given)
    assert_same_weights(tmp_path / "whole.onnx", tmp_path / "again.onnx")
