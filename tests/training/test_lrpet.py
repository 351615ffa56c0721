"""LRPET: the projection by its formulas, training that alternates with it, ranks within a budget, and factors in the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from models.builder import Net
from models.linear_layers import LAYERS, correlated
from shrinkc.passes.training.lrpet import RANKS, LowRankWeight, Lrpet, Projecting, Projection, low_rank_weights, sizes_in
from training.lessons import blobs, context, convnet, lesson, loaded, mlp, pictures, settings

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc import rank_search, registry
from shrinkc.api import RunConfig
from shrinkc.budget import parse
from shrinkc.cli.train import train
from shrinkc.decomposing import decomposed, low_rank_layers
from shrinkc.errors import BudgetError, RecipeError, RuntimeUnavailable, TrainingError, VerificationError
from shrinkc.evidence.data import Data
from shrinkc.factorable import Scope, layers_of
from shrinkc.log import Silent
from shrinkc.rank_choice import RankCost, at_shares, within
from shrinkc.shapes import Shadow, input_shapes
from shrinkc.training import recipe_files
from shrinkc.training.budget import Budget
from shrinkc.training.context import Context
from shrinkc.training.fresh import StartAfresh
from shrinkc.training.interfaces import Plugin, Signal
from shrinkc.training.phases import Train, carry_out
from shrinkc.training.running import trained
from shrinkc.training.schedules import Constant
from shrinkc.training.state import copied


def matrices(groups: int = 2, outputs: int = 7, columns: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(groups, outputs, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gains(outputs: int = 7) -> torch.Tensor:
    """Of both signs and very different sizes."""
    return torch.stack([torch.linspace(-2, 2, outputs), torch.logspace(-2, 1, outputs)]).double()


def rank_of(matrix: torch.Tensor) -> int:
    values = torch.linalg.svdvals(matrix.detach().double())
    return int((values > 1e-5 * values.max()).sum())


def published(matrix: np.ndarray, gain: np.ndarray, rank: int, reduction: float) -> np.ndarray:
    """The formulas of the paper, for one matrix, without any of ours."""
    u, s, vt = np.linalg.svd(np.diag(gain) @ matrix, full_matrices=False)
    energy = sum(value**2 for value in s)
    moved = (energy - reduction**2 * sum(value**2 for value in s[rank:])) / sum(value**2 for value in s[:rank])
    new = [np.sqrt(moved) * value if number < rank else reduction * value for number, value in enumerate(s)]
    return np.diag(1 / gain) @ u @ np.diag(new) @ vt


@pytest.mark.parametrize("reduction", [0.0, 0.4])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_projection_follows_the_published_formulas(rank: int, reduction: float) -> None:
    found = Projection(reduction=reduction).of(matrices(), rank, gains() + 0.03)
    for group in range(2):
        expected = published(matrices()[group].numpy(), (gains() + 0.03)[group].numpy(), rank, reduction)
        np.testing.assert_allclose(found[group], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("reduction", [0.0, 0.4])
def test_energy_behind_the_normalisation_stays_exactly_what_it_was(reduction: float) -> None:
    gain = gains() + 0.03
    merged, found = (
        gain[..., None] * matrix for matrix in (matrices(), Projection(reduction=reduction).of(matrices(), 3, gain))
    )
    torch.testing.assert_close(found.square().sum((1, 2)), merged.square().sum((1, 2)), rtol=1e-12, atol=0)
    less = gain[..., None] * Projection(transfers=False, reduction=reduction).of(matrices(), 3, gain)
    assert (less.square().sum((1, 2)) < merged.square().sum((1, 2))).all()


def test_without_transfer_nothing_of_that_rank_is_nearer_behind_the_normalisation() -> None:
    gain = gains() + 0.03
    merged = gain[..., None] * matrices()
    lost = merged - gain[..., None] * Projection(transfers=False).of(matrices(), 3, gain)
    torch.testing.assert_close(lost.square().sum((1, 2)), torch.linalg.svdvals(merged)[:, 3:].square().sum(1))


def test_projecting_twice_is_projecting_once_and_the_rank_is_what_was_asked_for() -> None:
    gain = gains() + 0.03
    once = Projection().of(matrices(), 3, gain)
    assert [rank_of(matrix) for matrix in once] == [3, 3]
    torch.testing.assert_close(Projection().of(once, 3, gain), once, rtol=1e-9, atol=1e-11)


def test_rectifying_is_projecting_the_merged_weight() -> None:
    gain = gains() + 0.03
    merged = gain[..., None] * Projection().of(matrices(), 3, gain)
    torch.testing.assert_close(merged, Projection().of(gain[..., None] * matrices(), 3), rtol=1e-9, atol=1e-11)


def test_at_full_rank_and_for_no_weight_at_all_nothing_changes() -> None:
    assert torch.equal(Projection().of(matrices(), 7, gains() + 0.03), matrices())
    assert not Projection().of(torch.zeros(1, 4, 6), 2).any()


def normalised(seed: int = 0) -> Net:
    """A convolution, strided, with a BatchNormalization of which one gain is zero and one negative; then a head."""
    net = Net(seed=seed)
    net.input("x", ["n", 6, 9, 8])
    x = net.conv("x", 6, 12, bias=False, strides=[2, 1], pads=[0, 1, 2, 1])
    gain = np.linspace(-1, 2, 12).astype(np.float32)
    gain[5] = 0
    parts = [net.const(gain, "gain"), net.vector(12), net.vector(12), net.positive(12)]
    net.output(net.head(net.relu(str(net.op("BatchNormalization", x, *parts))), 12))
    return net


def made_of(net: Net, folder: Path, **given: Any) -> Context:
    model = loaded(net.model(), folder)
    inputs = {name: correlated((40, *shape[1:])) for name, shape in input_shapes(model).items()}
    return context(lesson(model, Data(inputs, None, "x"), loaded(net.model(), folder)), held_out=0.0, **given)


def weights_in(made: Context, rank: int, rectifies: bool = True) -> list[LowRankWeight]:
    sites = layers_of(made.model, Shadow.of(made.model, sizes_in(made)))
    return low_rank_weights(sites, {site.name: rank for site in sites}, rectifies)


def test_a_gain_of_zero_neither_breaks_the_projection_nor_wipes_out_its_row(tmp_path: Path) -> None:
    made = made_of(normalised(), tmp_path)
    weight = weights_in(made, 4)[0]
    before = weight.matrix(made.tensors[weight.site.weight.name or ""]).clone()
    gain = weight.gain(made)
    assert gain is not None
    weight.project(made, Projection())
    after = weight.matrix(made.tensors[weight.site.weight.name or ""])
    assert torch.isfinite(after).all()
    assert after[0, 5].any()
    energy = [(gain[..., None] * matrix.double()).square().sum() for matrix in (before, after)]
    torch.testing.assert_close(*energy, rtol=1e-5, atol=0)
    assert rank_of(after[0]) == 4


def test_without_rectification_the_raw_weight_keeps_its_energy(tmp_path: Path) -> None:
    found = {}
    for rectifies in (True, False):
        made = made_of(normalised(), tmp_path)
        weight = weights_in(made, 4, rectifies)[0]
        stored = made.tensors[weight.site.weight.name or ""]
        before = float(stored.square().sum())
        weight.project(made, Projection())
        found[rectifies] = float(stored.square().sum()) / before
    assert found[False] == pytest.approx(1, rel=1e-5)
    assert abs(found[True] - 1) > 1e-3


def scope() -> Scope:
    forms = tuple(registry.built("rewrites", name) for name in ("pointwise", "matrix"))
    return Scope(forms, registry.built("factorizations", "svd"))


def runtime() -> Any:
    return registry.load("runtimes", "onnxruntime-cpu")()


def layers_in(model: ir.Model) -> int:
    return sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in model.graph)


def run(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    found: np.ndarray = next(iter(runtime().load(shrinkc_ir.loadable(model), RunConfig()).run(inputs).values()))
    return found


@pytest.mark.parametrize(
    "maker", [maker for name, maker in LAYERS.items() if name != "table"], ids=lambda maker: maker.__name__
)
def test_every_kind_of_layer_is_projected_as_it_is_stored_and_decomposed_without_loss(
    maker: Callable[[], Net], tmp_path: Path
) -> None:
    made = made_of(maker(), tmp_path)
    (weight,) = weights_in(made, 2)
    weight.project(made, Projection())
    stored = made.tensors[weight.site.weight.name or ""]
    assert [rank_of(matrix) for matrix in weight.matrix(stored)] == [2] * weight.site.groups
    model = made.executor.write_back()
    found = decomposed(model, sizes_in(made), scope(), {weight.site.name: 2}, runtime())
    inputs = {name: tensor.numpy() for name, tensor in made.feeder.samples.inputs.items()}
    expected = run(model, inputs)
    assert np.abs(run(found.model, inputs) - expected).max() < 1e-5 * np.abs(expected).max()
    assert layers_in(found.model) == layers_in(model) + 1
    assert found.record["macs_after"] < found.record["macs_before"]


def test_a_weight_that_is_not_of_its_rank_is_not_decomposed(tmp_path: Path) -> None:
    model = loaded(convnet(), tmp_path)
    with pytest.raises(VerificationError, match="not of the rank"):
        decomposed(model, input_shapes(model), scope(), {"conv3": 3}, runtime())


class Ranks(Plugin):
    """After every step, the rank of a weight and what the optimizer remembers of it."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def after_step(self, context: Context) -> Signal:
        self.seen.append(rank_of(context.tensors["c5"].reshape(8, -1)))
        return Signal.GO_ON


def projecting(made: Context, ranks: Mapping[str, int], every: int = 4) -> Projecting:
    made.records.append({"phase": RANKS, RANKS: dict(ranks)})
    return Projecting(Projection(), True, every)


def test_ranks_are_low_after_every_projection_and_free_in_between(tmp_path: Path) -> None:
    made = context(lesson(loaded(convnet(1), tmp_path), pictures(), loaded(convnet(2), tmp_path)))
    ranks = Ranks()
    Train(Budget(10, "steps"), Constant(0.05), [projecting(made, {"conv3": 3}), ranks], keeps_best=False).run(made)
    assert [number + 1 for number, rank in enumerate(ranks.seen) if rank == 3] == [4, 8]
    assert max(ranks.seen) == 8
    assert rank_of(made.tensors["c5"].reshape(8, -1)) == 3


def test_once_an_epoch_is_the_default(tmp_path: Path) -> None:
    made = context(lesson(loaded(convnet(1), tmp_path), pictures(96), loaded(convnet(2), tmp_path)))
    per_epoch = made.feeder.order(0).steps_per_epoch
    ranks = Ranks()
    plugins = [projecting(made, {"conv3": 3}, every=0), ranks]
    Train(Budget(2 * per_epoch + 1, "steps"), Constant(0.05), plugins, keeps_best=False).run(made)
    assert [number + 1 for number, rank in enumerate(ranks.seen) if rank == 3] == [per_epoch, 2 * per_epoch]


def test_with_no_layer_to_project_it_is_plain_training_bitwise(tmp_path: Path) -> None:
    found = []
    for is_plain in (True, False):
        made = context(lesson(loaded(convnet(1), tmp_path), pictures(), loaded(convnet(2), tmp_path)))
        plugins = [] if is_plain else [projecting(made, {})]
        Train(Budget(6, "steps"), Constant(0.05), plugins, keeps_best=False).run(made)
        found.append(copied(made.tensors))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def result_of(folder: Path, student: int = 1, teacher: int | None = 2, **options: Any) -> Any:
    data = pictures(96)
    labels = np.arange(96) % 3 if teacher is None else None
    what = lesson(
        loaded(convnet(student), folder),
        replace(data, labels=labels),
        None if teacher is None else loaded(convnet(teacher), folder),
    )
    chosen = settings(
        method="lrpet", options=options, budget="8steps", batch_norm="batch", teacher="original" if teacher else "none"
    )
    return trained(what, chosen, Silent())


def test_the_model_that_is_written_is_factors_and_computes_what_was_trained(tmp_path: Path) -> None:
    result = result_of(tmp_path, macs="60%", every=3)
    inputs = pictures(20, seed=5).inputs
    with torch.no_grad():
        given = result.context.run({name: torch.from_numpy(array) for name, array in inputs.items()})
    expected = next(iter(given.values())).numpy()
    assert np.abs(run(result.model, inputs) - expected).max() < 1e-5 * np.abs(expected).max()
    record = result.context.records[-1]
    assert (record["phase"], layers_in(result.model)) == ("decomposition", 3 + len(record["layers"]))
    assert record["macs_after"] <= 0.6 * record["macs_before"]


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    first, second = (result_of(tmp_path, choice="searched", trials=4, start="fresh").context.tensors for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_starts_afresh_remembers_nothing_of_the_model_that_came(tmp_path: Path) -> None:
    found = [result_of(tmp_path, student=seed, teacher=None, start="fresh", remove=0.5).context for seed in (1, 2)]
    assert all(torch.equal(found[0].tensors[name], found[1].tensors[name]) for name in found[0].tensors)
    assert found[0].records[1] == {"phase": "fresh weights", "kept": []}


def test_fresh_weights_are_of_the_size_that_the_rectifier_asks_for(tmp_path: Path) -> None:
    made = context(lesson(loaded(convnet(width=64), tmp_path), pictures(), loaded(convnet(width=64), tmp_path)))
    trained_weight = made.tensors["c5"].clone()
    made.tensors["gain1"].fill_(3)
    StartAfresh().run(made)
    assert float(made.tensors["c5"].var()) == pytest.approx(2 / (64 * 9), rel=0.05)
    assert not torch.equal(made.tensors["c5"], trained_weight)
    assert (made.tensors["gain1"] == 1).all()


def costs(folder: Path) -> RankCost:
    model = loaded(convnet(width=16), folder)
    return low_rank_layers(model, input_shapes(model), scope(), runtime()).cost


def test_uniform_ranks_follow_the_published_rule_and_what_does_not_pay_stays_whole(tmp_path: Path) -> None:
    cost = costs(tmp_path)
    full = {name: one.full_rank for name, one in cost.candidates.items()}
    assert full == {"conv0": 9, "conv3": 16, "gemm8": 3}
    assert at_shares(cost, dict.fromkeys(full, 1 - 0.54)) == {
        "conv0": int(9 - 9 * 0.54),
        "conv3": int(16 - 16 * 0.54),
        "gemm8": 1,
    }
    assert at_shares(cost, dict.fromkeys(full, 0.7)) == {"conv3": 11, "gemm8": 2}  # 6 of 9 cost more than the whole convolution


def test_ranks_are_rounded_down_to_a_multiple_and_layers_too_small_for_one_stay_whole(tmp_path: Path) -> None:
    cost = replace(costs(tmp_path), round_to=4)
    shares = dict.fromkeys(cost.candidates, 0.7)
    assert at_shares(cost, shares) == {"conv0": 4, "conv3": 8}  # of 6 and 11; the least multiple of gemm8 does not pay
    assert at_shares(cost, dict.fromkeys(shares, 0.0)) == {"conv0": 4, "conv3": 4}
    result = result_of(tmp_path, macs="60%", round_to=4)
    assert {rank % 4 for rank in result.context.records[0][RANKS].values()} == {0}
    with pytest.raises(RecipeError, match="given by name"):
        result_of(tmp_path, choice="manual", ranks={"c5": 3}, round_to=4)


@pytest.mark.parametrize("asked", ["40%", "55%", "80%"])
def test_a_budget_is_met_by_the_largest_share_that_does(asked: str, tmp_path: Path) -> None:
    cost, budget = costs(tmp_path), parse("macs", asked)
    found = within(cost, dict.fromkeys(cost.candidates, 1.0), budget)
    every = [at_shares(cost, dict.fromkeys(cost.candidates, share)) for share in np.linspace(0, 1, 997)]
    most = max(cost.of(ranks).macs for ranks in every if budget.is_met(cost.of(ranks), cost.dense))
    assert cost.of(found).macs == most


def test_the_cost_of_ranks_is_what_is_counted_in_the_graph(tmp_path: Path) -> None:
    result = result_of(tmp_path, macs="60%")
    record, ranks = result.context.records[-1], result.context.records[0][RANKS]
    model = loaded(convnet(1), tmp_path)
    cost = low_rank_layers(model, input_shapes(model), scope(), runtime()).cost
    assert (record["macs_after"], record["parameters_after"]) == (cost.of(ranks).macs, cost.of(ranks).parameters)


def test_a_budget_out_of_reach_and_ranks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="at best"):
        result_of(tmp_path, macs="1%")
    with pytest.raises(RecipeError, match="called so"):
        result_of(tmp_path, choice="manual", ranks={"conv9": 3})
    with pytest.raises(RecipeError, match="does not pay"):
        result_of(tmp_path, choice="manual", ranks={"conv3": 8})


def test_ranks_by_name_are_those_of_the_result(tmp_path: Path) -> None:
    result = result_of(tmp_path, choice="manual", ranks={"c5": 3})
    assert result.context.records[0][RANKS] == {"conv3": 3}
    assert [(layer["layer"], layer["rank"]) for layer in result.context.records[-1]["layers"]] == [("conv3", 3)]


def test_a_search_stays_within_the_budget_and_is_no_worse_than_the_same_share_everywhere(tmp_path: Path) -> None:
    result = result_of(tmp_path, choice="searched", macs="55%", trials=6)
    record = result.context.records[0]
    assert len(record["trials"]) == 6
    assert min(record["trials"]) <= record["trials"][0]
    decomposition = result.context.records[-1]
    assert decomposition["macs_after"] <= 0.55 * decomposition["macs_before"]


def test_the_search_finds_what_a_layer_needs_and_repeats_itself() -> None:
    def loss(weights: Mapping[str, float]) -> float:
        return float((np.log(weights["a"]) - np.log(0.2)) ** 2 + (weights["b"] - 0.9) ** 2)

    found = [rank_search.searched(["a", "b"], loss, 14, seed) for seed in (0, 0)]
    assert found[0] == found[1]
    assert min(found[0].losses) < 0.5 * found[0].losses[0]
    assert loss(found[0].weights) == min(found[0].losses)
    assert len(rank_search.searched(["a", "b"], loss, 14, 0, lambda: True).losses) == 1


def test_a_search_without_optuna_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RuntimeUnavailable, match=r"shrinkc\[search\]"):
        rank_search.searched(["a"], lambda weights: 0.0, 3, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choice": "guessed"}, "no such choice"),
        ({"start": "late"}, "no such choice"),
        ({"macs": "50%", "remove": 0.5}, "two answers"),
        ({"choice": "manual"}, "manual choice"),
        ({"ranks": {"a": 1}}, "manual choice"),
        ({"choice": "manual", "ranks": {"a": 1}, "macs": "50%"}, "no effect"),
        ({"remove": 1.0}, "out of its range"),
        ({"macs": "0%"}, "must be positive"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Lrpet(**options)


def test_averaged_weights_are_refused_and_so_are_models_without_a_layer_to_lower(tmp_path: Path) -> None:
    task = lesson(loaded(convnet(), tmp_path), pictures(), loaded(convnet(), tmp_path))
    with pytest.raises(RecipeError, match="not of low rank"):
        Lrpet().rewritten(task).phases(context(task, ema=0.9))
    task = lesson(loaded(mlp(width=2), tmp_path), blobs())
    made = context(task, teacher="none")
    with pytest.raises(RecipeError, match="no layer can"):
        carry_out(Lrpet().rewritten(task).phases(made), made)


def test_weights_that_explode_end_the_training_with_what_there_was_before(tmp_path: Path) -> None:
    what = lesson(loaded(convnet(1), tmp_path), pictures(), loaded(convnet(2), tmp_path))
    wild = {"learning_rate": 1e38, "momentum": 0.0, "optimizer": "sgd", "weight_decay": 1e5}
    result = trained(what, settings(method="lrpet", options={"every": 1}, **wild), Silent())
    assert isinstance(result.error, TrainingError)
    assert result.error.message == "a weight is not finite"
    assert all(np.isfinite(shrinkc_ir.stored_array(value)).all() for value in result.model.graph.initializers.values())
    assert layers_in(result.model) == 3


def test_every_training_method_can_be_named_in_place_of_a_recipe() -> None:
    for name in registry.names("training"):
        assert recipe_files.resolve(method=name).method == name
    assert recipe_files.resolve(method="lrpet").reestimate
    assert recipe_files.resolve(method="network-slimming") == recipe_files.resolve("slimming")
    with pytest.raises(RecipeError, match="no training method"):
        recipe_files.resolve(method="nonsense")
    with pytest.raises(RecipeError, match="nothing says how"):
        recipe_files.resolve()


def test_assignments_reach_the_settings_and_the_options_of_the_method() -> None:
    given = recipe_files.assigned(["batch=64", "macs=40%", "every = 7", 'exclude=["a*"]', "teacher=none"])
    assert given == {"batch": 64, "teacher": "none", "options": {"macs": "40%", "every": 7, "exclude": ["a*"]}}
    found = recipe_files.resolve("lrpet-scratch", options={"start": "trained"})
    assert dict(found.options) == {"start": "trained", "remove": 0.54}
    assert recipe_files.resolve("recovery").options, "what follows is of no worth otherwise"
    assert dict(recipe_files.resolve("recovery", method="lrpet", options={"every": 3}).options) == {"every": 3}
    with pytest.raises(RecipeError, match="given twice"):
        recipe_files.assigned(["batch=1", "batch=2"])
    with pytest.raises(RecipeError, match="table of whole numbers"):
        recipe_files.resolve(method="lrpet", options={"choice": "manual", "ranks": {"a": 1.5}})


def test_the_command_writes_factors_and_tells_what_they_save(tmp_path: Path) -> None:
    onnx.save(convnet(width=16), str(tmp_path / "net.onnx"))
    np.savez(tmp_path / "d.npz", **pictures(160).inputs)
    common = ["--data", str(tmp_path / "d.npz"), "-o", str(tmp_path / "o.onnx"), "--threads", "1"]
    arguments = [str(tmp_path / "net.onnx"), *common, "--method", "lrpet", "--macs", "60%", "--budget", "6steps"]
    result = CliRunner().invoke(train, [*arguments, "--set", "every=2", "--set", "batch=32"])
    assert result.exit_code == 0, result.output
    assert "2 layers are now factors" in result.output
    assert "too few to hold any out" in result.output
    before, after = (shrinkc.inspect(tmp_path / name).cost.macs for name in ("net.onnx", "o.onnx"))
    assert after <= 0.6 * before


def test_flags_that_say_two_things_or_nothing_are_usage_errors(tmp_path: Path) -> None:
    for own in (
        [],
        ["--recipe", "lrpet", "--method", "lrpet"],
        ["--method", "lrpet", "--macs", "50%", "--set", "macs=40%"],
        ["--method", "lrpet", "--budget", "2steps", "--set", "budget=3steps"],
    ):
        result = CliRunner().invoke(train, [str(tmp_path / "net.onnx"), "--data", "d.npz", *own])
        assert result.exit_code == 2, result.output


@pytest.mark.parametrize("method", ["lrpet", "flop"])
def test_recovery_refuses_a_method_that_changes_the_graph(method: str, tmp_path: Path) -> None:
    onnx.save(convnet(width=16), str(tmp_path / "net.onnx"))
    np.savez(tmp_path / "d.npz", **pictures(64).inputs)
    with pytest.raises(RecipeError, match="keeps the graph"):
        shrinkc.compress(tmp_path / "net.onnx", data=tmp_path / "d.npz", recover="2steps", recover_with=method)
