"""Models other than float32 with scores of free batches; and the rest of what only an unusual run meets."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from models.builder import Net
from onnx import TensorProto, helper, numpy_helper
from training.lessons import blobs, context, convnet, dropping, killed_at, lesson, loaded, mlp, pictures, settings

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.errors import RecipeError, TrainingError
from shrinkc.evidence.data import Data
from shrinkc.log import Silent
from shrinkc.training import feeding
from shrinkc.training.augment import augmented
from shrinkc.training.budget import Budget
from shrinkc.training.context import Context
from shrinkc.training.executor import Executor
from shrinkc.training.feeding import pooled
from shrinkc.training.gradients import gradients
from shrinkc.training.phases import Train, measure_statistics
from shrinkc.training.rates import schedule_of
from shrinkc.training.running import trained
from shrinkc.training.samples import Samples
from shrinkc.training.schedules import Constant
from shrinkc.training.teaching import is_turned
from shrinkc.training.trainer import Trainer

QUICK = {"verify": False, "measure_latency": False, "round_to": 1}


def with_softmax(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with its scores turned into probabilities, as Keras and Paddle export it."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    output = made.graph.output[0]
    made.graph.node.append(helper.make_node("Softmax", [output.name], ["probabilities"], axis=1))
    output.name = "probabilities"
    return made


def learned(made: Context) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in made.executor.trainable().items()}


def test_labels_teach_probabilities_what_they_teach_the_scores_behind_them(tmp_path: Path) -> None:
    taught = []
    for proto in (mlp(), with_softmax(mlp())):
        made = trained(lesson(loaded(proto, tmp_path), blobs()), settings(teacher="none"), Silent())
        taught.append((learned(made.context), made.after))
    for name, value in taught[0][0].items():
        torch.testing.assert_close(value, taught[1][0][name], atol=1e-5, rtol=1e-4)
    assert taught[0][1].loss == pytest.approx(taught[1][1].loss, rel=1e-4)


@pytest.mark.parametrize("labelled", [True, False])
def test_gradients_of_probabilities_are_those_of_the_scores_behind_them(labelled: bool, tmp_path: Path) -> None:
    data = blobs(8) if labelled else Data(blobs(8).inputs, None, "blobs")
    plain, probable = (gradients(loaded(proto, tmp_path), data, threads=1) for proto in (mlp(), with_softmax(mlp())))
    for name in plain:
        np.testing.assert_allclose(plain[name], probable[name], atol=1e-6, rtol=1e-4)


def fixed(proto: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The same network for so many samples at a time."""
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    dim.dim_value = size
    return proto


def squeezing() -> onnx.ModelProto:
    """A network with a normalisation of single numbers, as in squeeze and excitation, that must have one sample at a time."""
    net = Net(seed=3)
    image = net.op("Squeeze", net.input("image", ["N", 1, 8, 8]), net.ints(0))
    x = net.relu(net.bn(net.conv(net.op("Unsqueeze", image, net.ints(0)), 1, 16, bias=False), 16))
    x = net.relu(net.conv(x, 16, 16))
    gate = net.bn(net.conv(net.op("GlobalAveragePool", x), 16, 16, k=1, pads=[0, 0, 0, 0], bias=False), 16)
    x = net.op("Mul", x, net.op("Sigmoid", gate))
    net.output(net.head(str(x), 16, 3))
    return net.model()


def test_recovery_of_a_model_for_one_sample_at_a_time_keeps_its_statistics(tmp_path: Path) -> None:
    onnx.save(fixed(squeezing(), 1), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "d.npz", **pictures(96).inputs)
    tried = '[{ learning_rate = 0.02, batch_norm = "batch" }, { learning_rate = 0.01, batch_norm = "settling" }]'
    (tmp_path / "r.toml").write_text(
        f"batch = 8\nevaluations = 2\nheld_out = 0.4\nreestimate = true\noptions = {{ share = 0.2, tried = {tried} }}\n"
    )
    given = {"data": tmp_path / "d.npz", "output": tmp_path / "o.onnx", "macs": "60%", "recover": "20steps", **QUICK}
    found = shrinkc.compress(tmp_path / "m.onnx", recover_with=str(tmp_path / "r.toml"), **given).recovery
    assert found is not None
    assert found.settings["batch_norm"] == "frozen"
    assert {one["batch_norm"] for one in found.settings["options"]["tried"]} == {"frozen"}
    assert found.loss_after < found.loss_before


@pytest.mark.parametrize("wrong", [{"batch_norm": "batch"}, {"batch_norm": "settling"}, {"reestimate": True}])
def test_statistics_of_a_few_samples_are_refused_for_training(wrong: dict[str, Any], tmp_path: Path) -> None:
    what = lesson(loaded(fixed(convnet(), 4), tmp_path), pictures(), loaded(fixed(convnet(1), 4), tmp_path))
    with pytest.raises(RecipeError, match="say nothing") as caught:
        context(what, **wrong)
    assert "frozen" in caught.value.hint
    assert context(what).settings.batch_norm == "frozen"
    enough = lesson(loaded(fixed(convnet(), 8), tmp_path), pictures(), loaded(fixed(convnet(1), 8), tmp_path))
    assert context(enough, **wrong).normalizations
    plain = Data({"x": blobs(64).inputs["x"]}, blobs(64).labels, "blobs")
    assert context(lesson(loaded(fixed(mlp(), 4), tmp_path), plain), teacher="none", **wrong)


def test_a_search_of_ranks_leaves_the_statistics_of_such_a_model_alone(tmp_path: Path) -> None:
    """Of one sample there is one number to normalise by, which torch refuses."""
    what = lesson(loaded(fixed(squeezing(), 1), tmp_path), pictures(), loaded(fixed(squeezing(), 1), tmp_path))
    options = {"choice": "searched", "trials": 2, "macs": "70%"}
    made = trained(what, settings(method="lrpet", options=options, budget="2steps", batch=4), Silent())
    assert made.error is None
    assert len(next(record["trials"] for record in made.context.records if "trials" in record)) == 2


def shared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The second normalisation reads what the first does, through Identity, as torch's older exporter leaves equal tensors."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    first, second = (node for node in made.graph.node if node.op_type == "BatchNormalization")
    nodes = [helper.make_node("Identity", [one], [other]) for one, other in zip(first.input[1:], second.input[1:], strict=True)]
    rest = [tensor for tensor in made.graph.initializer if tensor.name not in second.input[1:]]
    del made.graph.initializer[:]
    made.graph.initializer.extend(rest)
    nodes += list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def in_function(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The first normalisation in a function of the model."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    node = next(node for node in made.graph.node if node.op_type == "BatchNormalization")
    inside = helper.make_node("BatchNormalization", list("abcde"), ["y"])
    opset = [helper.make_opsetid("", made.opset_import[0].version)]
    made.functions.append(helper.make_function("own", "Normalise", list("abcde"), ["y"], [inside], opset))
    made.opset_import.append(helper.make_opsetid("own", 1))
    node.op_type, node.domain = "Normalise", "own"
    return made


@pytest.mark.parametrize("change", [shared, in_function])
def test_statistics_go_back_with_the_weights_wherever_they_are_read(change: Any, tmp_path: Path) -> None:
    """Steps that only spoil the model: what comes out is what went in."""
    original = loaded(change(convnet(1)), tmp_path)
    student = loaded(change(convnet(1)), tmp_path)
    wild = settings(batch_norm="batch", learning_rate=10.0, budget="6steps", held_out=0.5, batch=8)
    images = {"image": torch.from_numpy(pictures(16, 5).inputs["image"])}
    before = next(iter(Executor(original).eval()(images).values())).detach()
    made = trained(lesson(student, pictures(), original), wild, Silent())
    after = next(iter(Executor(made.model).eval()(images).values())).detach()
    assert made.context.steps_done == 6
    torch.testing.assert_close(after, before)


def test_normalisations_that_share_tensors_get_their_own_to_train(tmp_path: Path) -> None:
    what = lesson(loaded(shared(convnet(1)), tmp_path), pictures(), loaded(convnet(2), tmp_path))
    made = trained(what, settings(batch_norm="batch", reestimate=True), Silent())
    assert len(made.context.normalizations) == 2
    means = [made.context.tensors[normalization.mean] for normalization in made.context.normalizations]
    assert not torch.allclose(means[0], means[1])


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in half precision."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for tensor in made.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return made


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_half_precision_learns_what_single_precision_does(optimizer: str, tmp_path: Path) -> None:
    """Thousands of small steps; in half precision alone each of them would be rounded away."""
    given = settings(
        teacher="none", optimizer=optimizer, learning_rate=2e-4 if optimizer == "adamw" else 2e-3, budget="400steps", ema=0.99
    )
    x, labels = blobs().inputs["x"], blobs().labels
    whole = trained(lesson(loaded(mlp(), tmp_path), blobs()), given, Silent())
    data = Data({"x": x.astype(np.float16)}, labels, "blobs")
    half = trained(lesson(loaded(halved(mlp()), tmp_path), data), given, Silent())
    assert half.error is None
    assert whole.after.loss < 0.9 * whole.before.loss
    assert half.after.loss == pytest.approx(whole.after.loss, rel=0.02)
    stored = half.model.graph.initializers["w1"].const_value
    assert stored is not None
    assert stored.dtype == ir.DataType.FLOAT16


def test_what_somebody_writes_into_a_weight_of_half_precision_is_what_trains_on(tmp_path: Path) -> None:
    made = context(lesson(loaded(halved(mlp()), tmp_path), _half_blobs()), teacher="none")
    from shrinkc.training.optimizers import Optimizer

    optimizer = Optimizer(made.executor.trainable(), made.settings)
    parameter = made.executor.trainable()["w1"]
    for value in (0.25, -1.0):
        parameter.data.fill_(value)
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step(1e-9)
        torch.testing.assert_close(parameter.data, torch.full_like(parameter, value))


def _half_blobs() -> Data:
    return Data({"x": blobs().inputs["x"].astype(np.float16)}, blobs().labels, "blobs")


@pytest.mark.parametrize("method", ["distillation", "iterative-magnitude"])
def test_a_killed_run_in_half_precision_goes_on_to_the_same_weights(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def result(checkpoint: Path | None) -> dict[str, torch.Tensor]:
        what = lesson(loaded(halved(mlp()), tmp_path), _half_blobs())
        given = settings(method=method, teacher="none", optimizer="adamw", budget="12steps", held_out=0.5)
        return learned(trained(what, given, Silent(), checkpoint).context)

    whole = result(None)
    with killed_at(7, monkeypatch):
        result(tmp_path / "c.npz")
    assert all(torch.equal(value, whole[name]) for name, value in result(tmp_path / "c.npz").items())


def steps_first() -> Net:
    """A network whose output has its steps before its samples, as recognisers of text have."""
    net = Net(seed=1)
    x = net.op("Relu", net.conv(net.input("image", ["N", 1, 8, 8]), 1, 8))
    net.output(str(net.op("Transpose", net.op("ReduceMean", x, axes=[2], keepdims=0), perm=[2, 0, 1])))
    return net


def test_outputs_without_a_row_for_each_sample_are_left_out_and_the_others_taught(tmp_path: Path) -> None:
    net = steps_first()
    net.output(str(net.op("ReduceMax", net.op("GlobalAveragePool", "image"), keepdims=0)))
    net.output(net.head("image", 1, 3))
    what = lesson(loaded(net.model(), tmp_path), pictures(), loaded(net.model(), tmp_path))
    made = context(what, learning_rate=1e-3)
    assert made.objective.distillation is not None
    assert list(made.objective.distillation.outputs) == [net.model().graph.output[2].name]
    assert made.evaluate().loss == pytest.approx(0.0, abs=1e-6)


def test_rounding_to_few_bits_does_not_hide_that_rows_changed_places() -> None:
    """As of quantised models, where another order of sums is another step of a few numbers; other values are no rows."""
    random = torch.Generator().manual_seed(0)
    told = torch.randn(8, 40, generator=random)
    steps = (torch.rand(8, 40, generator=random) < 0.05) * 0.2
    assert is_turned(told, told.flip(0) + steps, 8)
    assert is_turned(told.half(), told.half().flip(0) * 1.002, 8)
    assert not is_turned(told, torch.randn(8, 40, generator=random), 8)
    assert not is_turned(told, told, 8)
    assert not is_turned(told, told.flip(0), 4)
    assert is_turned(torch.ones(8, 3), torch.ones(8, 3), 8)


def test_where_no_output_has_one_the_error_says_so_and_the_cut_model_is_kept(tmp_path: Path) -> None:
    net = Net(seed=1)
    x = net.op("Relu", net.conv(net.input("image", ["N", 1, 8, 8]), 1, 16))
    x = net.op("Relu", net.conv(str(x), 16, 8))
    net.output(str(net.op("Transpose", net.op("ReduceMean", x, axes=[2], keepdims=0), perm=[2, 0, 1])))
    onnx.save(net.model(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "d.npz", **pictures(64).inputs)
    given = {"data": tmp_path / "d.npz", "output": tmp_path / "o.onnx", "macs": "60%", "recover": "4steps", **QUICK}
    with pytest.raises(TrainingError, match=r"(?s)no output can be distilled.*row for each sample.*o\.onnx"):
        shrinkc.compress(tmp_path / "m.onnx", **given)
    assert shrinkc_ir.load(tmp_path / "o.onnx").graph.outputs


def test_frozen_statistics_do_not_keep_dropout_from_dropping(tmp_path: Path) -> None:
    images = {"image": torch.from_numpy(pictures(16).inputs["image"])}
    executor = Executor(loaded(dropping(1), tmp_path))
    executor.train()
    executor.normalizes = False
    torch.manual_seed(0)
    dropped = [next(iter(executor(images).values())) for _ in range(2)]
    assert not torch.equal(*dropped)
    executor.drops = False
    still = [next(iter(executor(images).values())) for _ in range(2)]
    assert torch.equal(*still)
    seen: list[bool] = []
    forward = Executor.forward

    def watching(self: Executor, *arguments: Any, **named: Any) -> Any:
        seen.append(self.training and self.drops)
        return forward(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Executor, "forward", watching)
        what = lesson(loaded(dropping(1), tmp_path), pictures(), loaded(dropping(2), tmp_path))
        made = context(what, batch_norm="frozen")
        seen.clear()
        Train(Budget(3, "steps"), Constant(0.1), keeps_best=False).run(made)
    assert sum(seen) == 3


def test_statistics_are_measured_without_dropping(tmp_path: Path) -> None:
    net = Net(seed=2)
    x = net.op("Dropout", net.relu(net.conv(net.input("image", ["N", 1, 8, 8]), 1, 4)), net.const(np.float32(0.5)))
    net.output(net.head(net.bn(str(x), 4), 4, 3))
    what = lesson(loaded(net.model(), tmp_path), pictures(), loaded(net.model(), tmp_path))
    made = context(what, held_out=0.0)
    measure_statistics(made, 64)
    first = made.normalizations[0]
    with torch.no_grad():
        read = made.executor.eval()({"image": made.feeder.samples.inputs["image"]}, also=[first.data])[first.data]
    torch.testing.assert_close(made.tensors[first.mean], read.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert made.executor.drops


def test_both_images_of_a_sample_are_changed_alike() -> None:
    left = torch.rand(16, 1, 12, 12)
    inputs = {"left": left, "right": 2 * left, "size": torch.ones(16, 2)}
    made = augmented(inputs, ("shift", "flip", "mix"), 3, torch.Generator().manual_seed(1))
    assert not torch.equal(made["left"], left)
    torch.testing.assert_close(made["right"], 2 * made["left"])
    assert torch.equal(made["size"], inputs["size"])


def test_augmented_copies_stay_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples({"image": torch.rand(10, 1, 8, 8)}, None)
    given = settings(augment=("flip",))
    assert len(pooled(samples, given, 100)) == 100
    monkeypatch.setattr(feeding, "POOL_BYTES", 4 * samples.inputs["image"].nbytes)
    assert len(pooled(samples, given, 100)) == 40
    monkeypatch.setattr(feeding, "POOL_BYTES", 1)
    assert pooled(samples, given, 100) is samples


@pytest.mark.parametrize("budget", ["0.5s", "0.0084min", "0.0084cpumin"])
def test_a_budget_of_time_is_spent_and_the_schedule_comes_to_its_end(
    budget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    rate = Trainer._rate

    def watching(self: Trainer) -> float:
        rates.append(rate(self))
        return rates[-1]

    monkeypatch.setattr(Trainer, "_rate", watching)
    made = context(lesson(loaded(mlp(), tmp_path), blobs()), teacher="none", budget=budget, held_out=0.0)
    started, counted = time.perf_counter(), time.process_time()
    Train(made.settings.length(), schedule_of(made.settings, made), keeps_best=False).run(made)
    spent = time.process_time() - counted if "cpu" in budget else time.perf_counter() - started
    assert spent > 0.45
    assert len(rates) > 2
    assert rates[0] > 0.9 * made.settings.learning_rate
    assert rates[-1] < 0.5 * rates[0]


def test_a_killed_run_with_a_budget_of_time_has_only_the_rest_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that every step moves on by a tenth of a second."""
    now = [0.0]
    step = Trainer.step

    def slowly(self: Trainer) -> float:
        now[0] += 0.1
        return step(self)

    def run() -> Context:
        what = lesson(loaded(mlp(), tmp_path), blobs())
        return trained(what, settings(teacher="none", budget="2s"), Silent(), tmp_path / "c.npz").context

    monkeypatch.setattr(Trainer, "step", slowly)
    monkeypatch.setattr(Budget, "clock", lambda self: now[0])
    with killed_at(7, monkeypatch):
        run()
    assert run().steps_done in range(20, 23)  # a step is counted once it is over
    assert now[0] < 2.4


@pytest.mark.parametrize("kill_at", [2, 11])
def test_what_was_chosen_by_trying_outlives_a_killed_run(kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rates by how far the weights are from the original's: where tries begin, not where it was killed."""

    def result(checkpoint: Path | None) -> tuple[dict[str, torch.Tensor], float, object]:
        what = lesson(loaded(convnet(1), tmp_path), pictures(), loaded(convnet(2, 12), tmp_path))
        tried = ({"learning_rate": 0.3}, {"learning_rate": 0.01})
        given = settings(
            schedule="allr",
            original="100steps",
            budget="20steps",
            held_out=0.5,
            options={"tried": tried, "share": 0.1},
            learning_rate=0.04,
        )
        made = trained(what, given, Silent(), checkpoint).context
        return learned(made), made.settings.learning_rate, made.records[-1]["last"]

    whole = result(None)
    with killed_at(kill_at, monkeypatch):
        result(tmp_path / "c.npz")
    resumed = result(tmp_path / "c.npz")
    assert all(torch.equal(value, resumed[0][name]) for name, value in whole[0].items())
    assert whole[2] == resumed[2]
    again = result(tmp_path / "c.npz")  # nothing is left to do
    assert whole[1] == resumed[1] == again[1] != 0.04


@pytest.mark.parametrize("kill_at", [13, 16, 21])
def test_a_rewound_level_that_was_killed_goes_on_from_its_masks(
    kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps, then twice seven after a rewind to the third."""

    def result(checkpoint: Path | None) -> Context:
        what = lesson(loaded(convnet(1), tmp_path), pictures(), loaded(convnet(2), tmp_path))
        options = {"levels": 2, "fraction": 0.5, "retraining": "weights", "rewind_step": 3}
        given = settings(method="iterative-magnitude", options=options, budget="10steps", batch_norm="batch")
        return trained(what, given, Silent(), checkpoint).context

    whole = result(None)
    with killed_at(kill_at, monkeypatch):
        result(tmp_path / "c.npz")
    resumed = result(tmp_path / "c.npz")
    assert whole.steps_done == resumed.steps_done == 24
    assert whole.masks.hash() == resumed.masks.hash()
    assert all(torch.equal(value, resumed.tensors[name]) for name, value in whole.tensors.items())


def test_trained_normalisations_are_folded_into_what_was_trained(tmp_path: Path) -> None:
    net = Net(seed=4)
    x = net.relu(net.conv(net.input("image", ["N", 1, 8, 8]), 1, 8))
    net.output(net.head(net.relu(net.conv(x, 8, 8)), 8, 3))
    data = replace(pictures(), labels=np.arange(64) % 3)
    given = settings(teacher="none", norms="refolded", batch_norm="batch", budget="10steps")
    images = {"image": torch.from_numpy(pictures(16, 9).inputs["image"])}
    seen: dict[str, torch.Tensor] = {}
    write_back = Executor.write_back

    def watching(self: Executor) -> ir.Model:
        seen.update(self.eval()(images))
        return write_back(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Executor, "write_back", watching)
        made = trained(lesson(loaded(net.model(), tmp_path), data), given, Silent())
    folded = Executor(made.model).eval()(images)
    before = Executor(loaded(net.model(), tmp_path)).eval()(images)
    for name, value in folded.items():
        torch.testing.assert_close(value, seen[name], atol=1e-5, rtol=1e-4)
        assert (value - before[name]).abs().max() > 1e-3
