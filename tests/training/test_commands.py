"""Training from the command line, recovery among the stages of compress, and several processes."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models.builder import Net
from training.lessons import blobs, convnet, dropping, mlp, pictures

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc import recipe_files as recipes
from shrinkc import registry
from shrinkc.cli.compress import compress
from shrinkc.cli.recipes import recipes as recipes_command
from shrinkc.cli.train import train
from shrinkc.errors import CalibrationError, RecipeError, TrainingError
from shrinkc.training import recipe_files
from shrinkc.training.settings import Settings

RECIPE = """
method = "distillation"
teacher = "none"
budget = "40steps"
batch = 16
learning_rate = 0.05
"""
QUICK = {"verify": False, "measure_latency": False, "round_to": 1}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(mlp(), str(tmp_path / "m.onnx"))
    return tmp_path / "m.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    found = blobs(96)
    np.savez(tmp_path / "d.npz", labels=found.labels, **found.inputs)
    return tmp_path / "d.npz"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.savez(tmp_path / "i.npz", **pictures(160).inputs)
    return tmp_path / "i.npz"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(convnet(width=16), str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


def recipe(folder: Path, text: str = RECIPE, name: str = "r.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def stored(path: Path) -> dict[str, np.ndarray]:
    return {name: shrinkc_ir.stored_array(value) for name, value in shrinkc_ir.load(path).graph.initializers.items()}


def launched(folder: Path, *arguments: str, program: Sequence[str] = ("-m", "shrinkc")) -> subprocess.CompletedProcess[str]:
    """Two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, *program, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_every_recipe_that_comes_with_the_program_is_valid() -> None:
    for name in recipes.training_names():
        assert recipe_files.resolve(name).method
    listed = CliRunner().invoke(recipes_command, []).output
    assert "lottery-ticket" in listed
    assert 'method = "iterative-magnitude"' in CliRunner().invoke(recipes_command, ["lottery-ticket"]).output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat = 0.1", "nearest one is learning_rate"),
        ('batch = "many"', "wrong type"),
        ("batch = 0", "more than 0"),
        ('method = "nonsense"', "no training method"),
        ("[options]\nlevels = 2", "no such setting"),
        ('method = "iterative-magnitude"\n[options]\nretraining = "never"', "no such retraining"),
        ("ema = 0.9\nswa = 0.5", "contradict"),
        ("options.leraning_rate = 0.1", "nearest one is learning_rate"),
        ('swa = 0.5\nbatch_norm = "batch"', "averaged weights"),
        ("pool = 64", "without an augmentation"),
        ("milestones = [0.5]", "no effect without schedule"),
        ('temperature = 2.0\nlogit_loss = "mse"', "no effect without logit_loss"),
        ('feature_weight = 1.0\nteacher = "none"', "no effect without a teacher"),
        ("features = 3", "no effect without feature_weight"),
        ("shift = 4", "no effect without augment"),
        ('schedule = "steep"', "no such choice"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_key(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_files.resolve(recipe(tmp_path, text))


def test_the_command_trains_and_leaves_model_and_report(model: Path, data: Path, tmp_path: Path) -> None:
    arguments = [str(model), "--recipe", str(recipe(tmp_path)), "--data", str(data), "-o", str(tmp_path / "o.onnx")]
    result = CliRunner().invoke(train, [*arguments, "--eval-data", str(data), "--threads", "1", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "o.training.json").read_text())
    assert report["schema"] == "shrinkc.training/1"
    assert report["steps"] == 40
    assert report["quality"]["accuracy_after"] > report["quality"]["accuracy_before"]
    assert stored(tmp_path / "o.onnx").keys() == stored(model).keys()


def test_slimming_makes_the_gains_small_that_the_criterion_then_removes(net: Path, images: Path, tmp_path: Path) -> None:
    text = 'method = "network-slimming"\nbudget = "30steps"\nlearning_rate = 0.1\nmomentum = 0.0\n[options]\nstrength = 0.05\n'
    shrinkc.train(net, recipe=recipe(tmp_path, text), data=images, output=tmp_path / "s.onnx", threads=1)
    before, after = (np.abs(stored(path)["gain1"]) for path in (net, tmp_path / "s.onnx"))
    assert after.sum() < 0.95 * before.sum()
    options = {"criterion": "bn-gamma", "allocator": "uniform", "prune_ratio": 0.5, "save_plan": tmp_path / "p.json"}
    shrinkc.compress(tmp_path / "s.onnx", output=tmp_path / "c.onnx", **options, **QUICK)
    left = np.abs(stored(tmp_path / "c.onnx")["gain1"])
    np.testing.assert_allclose(np.sort(left), np.sort(after)[-len(left) :])


def test_recovery_brings_a_cut_model_closer_to_its_original(net: Path, images: Path, tmp_path: Path) -> None:
    settings = 'learning_rate = 3e-3\nbatch = 32\nthreads = 1\naugment = ["shift"]\npool = 256\nfeature_weight = 1.0\n'
    report = shrinkc.compress(
        net,
        data=images,
        macs="40%",
        output=tmp_path / "o.onnx",
        save_plan=tmp_path / "p.json",
        compensation="none",
        recover="60steps",
        recover_with=str(recipe(tmp_path, f'optimizer = "adamw"\n{settings}')),
        **QUICK,
    )
    found = report.recovery
    assert found is not None
    assert found.loss_after < 0.8 * found.loss_before
    assert (found.steps, found.stopped) == (60, "the budget is spent")
    told = (tmp_path / "o.report.md").read_text()
    assert "Recovery: 60 steps" in told
    assert "1 value inside compared" in told
    assert json.loads((tmp_path / "o.report.json").read_text())["recovery"]["settings"]["batch"] == 32
    assert json.loads((tmp_path / "p.json").read_text())["reconstructed"]


def test_recovery_of_a_model_without_stages_compares_what_it_says_alone(tmp_path: Path) -> None:
    net = Net()
    hidden = net.op("Gemm", net.input("x", ["N", 8]), net.weight(32, 8), net.const(np.zeros(32, np.float32)), transB=1)
    net.output(net.op("Gemm", hidden, net.weight(3, 32), net.const(np.zeros(3, np.float32)), transB=1))
    onnx.save(net.model(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((64, 8)).astype(np.float32))
    options = {"data": tmp_path / "x.npz", "macs": "50%", "recover": "40steps", "output": tmp_path / "o.onnx", **QUICK}
    report = shrinkc.compress(tmp_path / "m.onnx", **options)
    assert report.recovery is not None
    assert report.recovery.inside == ()
    assert "no values inside compared" in (tmp_path / "o.report.md").read_text()


def test_recovery_without_data_is_an_error_unless_inputs_are_made_up(net: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="recovery needs inputs"):
        shrinkc.compress(net, output=tmp_path / "o.onnx", recover="2steps", **QUICK)
    report = shrinkc.compress(net, output=tmp_path / "o.onnx", recipe="synthetic", recover="2steps", **QUICK)
    assert report.recovery is not None
    assert report.recovery.is_synthetic
    assert "made up from the model" in (tmp_path / "o.report.md").read_text()


def test_flags_of_recovery_without_effect_are_usage_errors(net: Path, images: Path) -> None:
    for arguments in (["--recover-with", "recovery"], ["--checkpoint", "c.npz"], ["--recover", "3min", "--dry-run"]):
        result = CliRunner().invoke(compress, [str(net), "--data", str(images), *arguments])
        assert result.exit_code == 2, result.output
    with pytest.raises(RecipeError, match="not an amount of training"):
        shrinkc.compress(net, data=images, recover="soon", **QUICK)


def test_an_exploding_loss_is_an_error_and_the_best_model_is_on_disk(net: Path, images: Path, tmp_path: Path) -> None:
    wild = recipe(tmp_path, 'optimizer = "sgd"\nlearning_rate = 1e30\nlogit_loss = "mse"\nwarm_up = 0.0\nthreads = 1\n')
    with pytest.raises(TrainingError, match=r"(?s)not finite.*o\.onnx"):
        shrinkc.compress(net, data=images, output=tmp_path / "o.onnx", recover="20steps", recover_with=str(wild), **QUICK)
    assert all(np.isfinite(array).all() for array in stored(tmp_path / "o.onnx").values())


def test_bad_data_is_refused_before_anything_is_trained(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.full((64, 2), np.nan, np.float32))
    with pytest.raises(CalibrationError, match="NaN"):
        shrinkc.train(model, recipe="recovery", data=tmp_path / "bad.npz", output=tmp_path / "o.onnx")


def test_gradient_criteria_work_with_data_alone(net: Path, images: Path, tmp_path: Path) -> None:
    options = {"criterion": "taylor", "samples": 16, "allocator": "uniform", "prune_ratio": 0.5, "compensation": "none"}
    shrinkc.compress(net, data=images, output=tmp_path / "o.onnx", **options, **QUICK)
    assert len(stored(tmp_path / "o.onnx")["gain1"]) == 8


def test_a_killed_process_goes_on_to_the_same_model(model: Path, data: Path, tmp_path: Path) -> None:
    own = recipe(tmp_path, RECIPE.replace("40steps", "600steps"))
    arguments = ["train", str(model), "--recipe", str(own), "--data", str(data), "--threads", "1", "-q"]
    shrinkc.train(model, recipe=own, data=data, output=tmp_path / "whole.onnx", threads=1)
    command = [sys.executable, "-c", SOON, "-m", *arguments, "-o", "again.onnx", "--checkpoint", "c.npz"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (tmp_path / "c.npz").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "again.onnx").exists()
    shrinkc.train(model, recipe=own, data=data, output=tmp_path / "again.onnx", checkpoint=tmp_path / "c.npz", threads=1)
    a, b = stored(tmp_path / "whole.onnx"), stored(tmp_path / "again.onnx")
    assert all(np.array_equal(a[name], b[name]) for name in a)


SOON = """
import sys
from shrinkc.training.checkpoint import Checkpoints
Checkpoints.__init__.__defaults__ = (*Checkpoints.__init__.__defaults__[:2], 0.05, *Checkpoints.__init__.__defaults__[3:])
sys.argv = ["shrinkc", *sys.argv[2:]]
from shrinkc.cli import main
main()
"""


def test_two_processes_train_as_one_does(net: Path, images: Path, tmp_path: Path) -> None:
    text = 'method = "distillation"\nteacher = "original"\nbudget = "6steps"\nbatch = 30\nlearning_rate = 0.05\n'
    net = shifted(net, tmp_path / "shifted.onnx")
    own = recipe(tmp_path, text + 'batch_norm = "batch"\nlabel_weight = 1.0\nheld_out = 0.2\naugment = ["shift", "flip"]\n')
    with np.load(images) as archive:
        np.savez(tmp_path / "l.npz", image=archive["image"], labels=np.arange(160) % 3)
    arguments = ["train", str(net), "--recipe", str(own), "--data", str(tmp_path / "l.npz"), "--threads", "1"]
    shrinkc.train(net, recipe=own, data=tmp_path / "l.npz", output=tmp_path / "alone.onnx", threads=1)
    both = launched(tmp_path, *arguments, "-o", "both.onnx")
    assert both.returncode == 0, both.stderr
    before, a, b = (stored(path) for path in (net, tmp_path / "alone.onnx", tmp_path / "both.onnx"))
    assert any(not np.array_equal(before[name], a[name]) for name in a)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=2e-5, rtol=1e-4)
    assert json.loads((tmp_path / "both.training.json").read_text())["processes"] == 2


def test_two_processes_drop_out_as_one_does(images: Path, tmp_path: Path) -> None:
    onnx.save(dropping(1), str(tmp_path / "net.onnx"))
    with np.load(images) as archive:
        np.savez(tmp_path / "l.npz", image=archive["image"], labels=np.arange(160) % 3)
    own = recipe(tmp_path, 'teacher = "none"\nbudget = "6steps"\nbatch = 31\nlearning_rate = 0.05\nbatch_norm = "batch"\n')
    arguments = ["train", str(tmp_path / "net.onnx"), "--recipe", str(own), "--data", str(tmp_path / "l.npz"), "--threads", "1"]
    shrinkc.train(tmp_path / "net.onnx", recipe=own, data=tmp_path / "l.npz", output=tmp_path / "alone.onnx", threads=1)
    both = launched(tmp_path, *arguments, "-o", "both.onnx")
    assert both.returncode == 0, both.stderr
    before, a, b = (stored(tmp_path / name) for name in ("net.onnx", "alone.onnx", "both.onnx"))
    assert not np.allclose(before["head"], a["head"], atol=1e-4)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=2e-5, rtol=1e-4)


def test_two_processes_recover_a_cut_model_as_one_does(net: Path, images: Path, tmp_path: Path) -> None:
    """Steps of an odd number of samples, tries, and the cut and the repair before them."""
    own = recipe(
        tmp_path,
        "batch = 31\nheld_out = 0.2\n[options]\nshare = 0.2\n"
        'tried = [{ learning_rate = 0.05, batch_norm = "batch" }, { learning_rate = 0.01 }]\n',
    )
    given = ["compress", str(net), "--data", str(images), "--macs", "50%", "--round-to", "1", "--seed", "3", "--no-latency"]
    given += ["--recover", "20steps", "--recover-with", str(own)]
    # On one thread as well: how many there are shows in the last bits of the repair, and this one hardly holds them.
    command = [sys.executable, "-m", "shrinkc", *given, "-o", "alone.onnx"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300)
    both = launched(tmp_path, *given, "-o", "both.onnx")
    assert both.returncode == 0, both.stderr
    alone, told = (json.loads((tmp_path / f"{name}.report.json").read_text())["recovery"] for name in ("alone", "both"))
    assert (told["processes"], told["steps"]) == (2, alone["steps"])
    assert told["settings"]["learning_rate"] == alone["settings"]["learning_rate"]
    a, b = (stored(tmp_path / name) for name in ("alone.onnx", "both.onnx"))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-4, rtol=1e-3)


def test_processes_refuse_a_budget_of_time_that_each_would_measure_for_itself(net: Path, images: Path, tmp_path: Path) -> None:
    both = launched(tmp_path, "compress", str(net), "--data", str(images), "--latency", "50%", "--recover", "4steps")
    assert both.returncode != 0
    assert "every process would measure times of its own" in both.stderr
    assert "--latency-table" in both.stderr


def test_processes_that_do_not_find_the_same_checkpoint_say_so(net: Path, images: Path, tmp_path: Path) -> None:
    """As on two machines without a folder that both see."""
    text = 'teacher = "original"\nbudget = "6steps"\nbatch = 30\n'
    own, data = recipe(tmp_path, text), ["--data", str(images)]
    shrinkc.train(net, recipe=own, data=images, output=tmp_path / "o.onnx", checkpoint=tmp_path / "c.npz", threads=1)
    blind = (
        "import os\nfrom shrinkc.training.checkpoint import Checkpoints\n"
        "if os.environ['RANK'] == '1':\n    Checkpoints.found = lambda self: None\n"
        "from shrinkc.cli import main\nmain()\n"
    )
    (tmp_path / "blind.py").write_text(blind)
    command = ["train", str(net), "--recipe", str(own), *data, "--threads", "1", "--checkpoint", "c.npz", "-o", "p.onnx"]
    both = launched(tmp_path, *command, program=["blind.py"])
    assert both.returncode != 0
    assert "do not go on from the same checkpoint" in both.stderr


def shifted(source: Path, target: Path) -> Path:
    """The model with other running statistics, which training finds to be wrong."""
    model = shrinkc_ir.load(source)
    for value in model.graph.initializers.values():
        if (value.name or "").startswith("c") and shrinkc_ir.stored_array(value).ndim == 1:
            shrinkc_ir.replace_tensor(value, shrinkc_ir.stored_array(value) * np.float32(0.7))
    shrinkc_ir.save(model, target)
    return target


def folded(folder: Path) -> Path:
    """A net as an exporter for inference leaves it: normalisations folded away, convolutions with a bias."""
    net = Net()
    x = net.relu(net.conv(net.input("image", ["N", 1, 8, 8]), 1, 16))
    net.output(net.head(net.relu(net.conv(x, 16, 16)), 16))
    onnx.save(net.model(), str(folder / "folded.onnx"))
    return folder / "folded.onnx"


def test_recovery_opens_folded_normalisations_and_folds_them_again(images: Path, tmp_path: Path) -> None:
    settings = 'norms = "refolded"\nbatch_norm = "batch"\nlearning_rate = 0.01\nbatch = 32\nthreads = 1\n'
    report = shrinkc.compress(
        folded(tmp_path), data=images, macs="40%", output=tmp_path / "o.onnx", compensation="none", recover="40steps",
        recover_with=str(recipe(tmp_path, settings)), **QUICK,
    )  # fmt: skip
    assert report.recovery is not None
    assert report.recovery.loss_after < 0.9 * report.recovery.loss_before
    assert not [node for node in shrinkc_ir.load(tmp_path / "o.onnx").graph if node.op_type == "BatchNormalization"]


def test_normalisations_that_were_folded_into_constant_nodes_are_opened_as_well(images: Path, tmp_path: Path) -> None:
    model = onnx.load(str(folded(tmp_path)))
    stored = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes = [*stored, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(tmp_path / "constants.onnx"))
    chosen = str(recipe(tmp_path, 'norms = "refolded"\nthreads = 1\n'))
    report = shrinkc.compress(
        tmp_path / "constants.onnx", data=images, macs="60%", output=tmp_path / "o.onnx", recover="2steps", recover_with=chosen,
        **QUICK,
    )  # fmt: skip
    assert report.recovery is not None


def test_recovery_refuses_before_any_work_what_its_normalisations_cannot_be(net: Path, images: Path, tmp_path: Path) -> None:
    for norms, model, message in (("opened", folded(tmp_path), "keeps the graph"), ("refolded", net, "no convolution has")):
        chosen = str(recipe(tmp_path, f'norms = "{norms}"\n'))
        with pytest.raises(RecipeError, match=message):
            shrinkc.compress(model, data=images, dry_run=True, recover="2steps", recover_with=chosen)


def test_training_of_a_whole_model_compares_values_inside_as_well(net: Path, images: Path, tmp_path: Path) -> None:
    options = {"data": images, "augment": [], "pool": 0, "batch": 16, "budget": "1steps", "options": {}, "seed": 0}
    report = shrinkc.train(net, recipe="recovery", output=tmp_path / "o.onnx", **options)
    assert len(report.inside) == 1
    assert report.before["loss"] < 1e-6, "the original is its own teacher"


def test_what_a_recipe_says_may_lose_its_effect_to_what_is_given_over_it(tmp_path: Path) -> None:
    milestones = recipe(tmp_path, 'schedule = "steps"\nmilestones = [0.2]\ntemperature = 2.0\n')
    assert recipe_files.resolve(milestones, schedule="cosine", teacher="none").schedule == "cosine"
    with pytest.raises(RecipeError, match="no effect without schedule"):
        recipe_files.resolve("recovery", milestones=(0.3,))
    assert recipe_files.resolve(milestones, feature_weight=0.0, teacher="none").teacher == "none"  # as it is by default


@pytest.mark.parametrize("method", registry.names("training"))
def test_no_option_of_a_method_is_named_like_a_setting_that_all_share(method: str) -> None:
    options = set(inspect.signature(registry.load("training", method)).parameters)
    assert options
    assert not options & {field.name for field in fields(Settings)}
