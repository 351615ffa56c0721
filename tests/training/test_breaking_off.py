"""What is left when training breaks: the best weights so far, on disk, and an error that says why."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from training.lessons import blobs, convnet, lesson, loaded, mlp, pictures, settings

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.errors import PluginError, RecipeError, TrainingError
from shrinkc.evidence.data import Data
from shrinkc.log import Silent
from shrinkc.training import running
from shrinkc.training.context import Context
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
    cut, left = (shrinkc_ir.load(tmp_path / name).graph.initializers for name in ("cut.onnx", "o.onnx"))
    assert {name: value.shape for name, value in cut.items()} == {name: value.shape for name, value in left.items()}


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


def test_recovery_takes_back_what_came_out_worse(tmp_path: Path) -> None:
    """A method that means its last weights, whatever they are."""
    model, data = files(tmp_path)
    (tmp_path / "wild.toml").write_text(
        'method = "iterative-magnitude"\nlearning_rate = 5.0\nwarm_up = 0.0\nclip = 1.0\n'
        '[options]\nlevels = 1\nfraction = 0.9\nretraining = "weights"\n'
    )
    shrinkc.compress(model, data=data, macs="50%", output=tmp_path / "cut.onnx", **QUICK)
    report = shrinkc.compress(
        model, data=data, macs="50%", output=tmp_path / "o.onnx", recover="5steps",
        recover_with=str(tmp_path / "wild.toml"), **QUICK,
    )  # fmt: skip
    assert report.recovery is not None
    assert "taken back" in report.recovery.stopped
    assert report.recovery.loss_after == report.recovery.loss_before
    before, after = (shrinkc_ir.load(tmp_path / name).graph.initializers for name in ("cut.onnx", "o.onnx"))
    for name, value in before.items():
        np.testing.assert_array_equal(shrinkc_ir.stored_array(value), shrinkc_ir.stored_array(after[name]))


def test_a_budget_smaller_than_its_tries_is_not_overdrawn(tmp_path: Path) -> None:
    tried = ({"learning_rate": 0.5}, {"learning_rate": 0.1}, {"learning_rate": 0.01})
    short = settings(budget="2steps", options={"tried": tried})
    made = trained(lesson(loaded(mlp(seed=1), tmp_path), blobs(), loaded(mlp(seed=2), tmp_path)), short, Silent())
    assert made.context.steps_done == 2
    assert made.context.settings.learning_rate == 0.01
    assert [record["phase"] for record in made.context.records] == ["train"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C writes a checkpoint, however short ago the last one was."""
    import os
    import signal

    step = Trainer.step

    def interrupted(self: Trainer) -> float:
        if self.context.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    def run() -> Trained:
        what = lesson(loaded(mlp(seed=1), tmp_path), blobs(), loaded(mlp(seed=2), tmp_path))
        return trained(what, settings(budget="20steps"), Silent(), tmp_path / "c.npz")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", interrupted)
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


def test_a_checkpoint_of_another_graph_is_refused(tmp_path: Path) -> None:
    """The same weights under the same names, joined otherwise."""
    proto = mlp(seed=1)
    what = lesson(loaded(proto, tmp_path), blobs())
    trained(what, settings(teacher="none", budget="3steps"), Silent(), tmp_path / "c.npz")
    for node in proto.graph.node:
        node.op_type = {"Relu": "Tanh"}.get(node.op_type, node.op_type)
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
