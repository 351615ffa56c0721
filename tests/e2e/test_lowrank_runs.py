"""Factorised models from the command's point of view: plans, budgets, replays, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models.factorable_nets import encoder, recogniser
from shrinkc.passes.lowrank.whitened_svd import WhitenedSvd

import shrinkc
from shrinkc import choosing
from shrinkc.api import Evidence
from shrinkc.cli import cli
from shrinkc.errors import BudgetError, RecipeError
from shrinkc.evidence.sites import Site
from shrinkc.latency.layer_times import LayerTimes
from shrinkc.layer_timing import Times
from shrinkc.plan import Plan
from shrinkc.report.model import Report
from shrinkc.stages import Stage

QUICK = {"measure_latency": False, "round_to": 1, "compensation": "none"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both nets, small, with samples."""
    path = tmp_path_factory.mktemp("nets")
    random = np.random.default_rng(0)
    encoder(layers=1, width=32, heads=2, tokens=6, vocabulary=80).save(path / "encoder.onnx")
    recogniser(channels=8, hidden=24, classes=200, height=8, length=16).save(path / "recogniser.onnx")
    np.savez(path / "encoder.npz", tokens=random.integers(0, 80, (80, 6)))
    images = random.standard_normal((80, 1, 8, 16)).astype(np.float32)
    np.savez(path / "recogniser.npz", image=images + np.roll(images, 1, axis=3))
    return path


def compressed(folder: Path, tmp_path: Path, name: str, **options: object) -> Report:
    given = {"data": folder / f"{name}.npz", **QUICK, **options}
    return shrinkc.compress(folder / f"{name}.onnx", output=tmp_path / "small.onnx", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["lowrank", "auto"])
@pytest.mark.parametrize("name", ["encoder", "recogniser"])
def test_a_budget_is_met_with_errors_as_predicted_and_proved(folder: Path, tmp_path: Path, name: str, method: str) -> None:
    report = compressed(folder, tmp_path, name, method=method, macs="60%")
    assert report.after.macs <= 0.6 * report.before.macs
    done = [row for row in report.factors if not row.reason]
    assert done
    for row in done:
        assert row.rank <= row.break_even < row.full_rank
        assert row.measured_error == pytest.approx(row.predicted_error, rel=1e-4)
    assert report.factor_proof is not None
    chains = [row for row in done if row.form != "pairs"]  # which add no node
    assert report.factor_proof.layers == len(chains)
    names = {node.name for node in onnx.load(tmp_path / "small.onnx").graph.node}
    assert sum(name.endswith(".factor1") for name in names) == len(chains)


def test_a_plan_of_ranks_and_channels_is_replayed_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    compressed(folder, tmp_path, "recogniser", method="auto", macs="50%", save_plan=plan)
    first = (tmp_path / "small.onnx").read_bytes()
    steps = json.loads(plan.read_text())["steps"]
    assert any("factorise" in step for step in steps)
    data = folder / "recogniser.npz"
    shrinkc.compress(folder / "recogniser.onnx", output=tmp_path / "b.onnx", plan=plan, data=data, measure_latency=False)
    assert (tmp_path / "b.onnx").read_bytes() == first


def test_a_plan_with_a_rank_that_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    compressed(folder, tmp_path, "encoder", method="lowrank", macs="60%", save_plan=plan)
    content = json.loads(plan.read_text())
    next(step for step in content["steps"] if "factorise" in step)["rank"] = 1000
    plan.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match="impossible rank"):
        shrinkc.compress(
            folder / "encoder.onnx",
            output=tmp_path / "b.onnx",
            plan=plan,
            data=folder / "encoder.npz",
            measure_latency=False,
        )


def test_second_factors_are_refitted_in_the_factorised_network(folder: Path, tmp_path: Path) -> None:
    """To what the original gave, from what the factorised prefix gives: errors do not add up on the way."""
    common = {"method": "lowrank", "macs": "35%", "forms": "pointwise,matrix", "verify": False}
    plain = compressed(folder, tmp_path, "encoder", **common)
    refitted = compressed(folder, tmp_path, "encoder", **{**common, "compensation": "affine"})
    assert refitted.after == plain.after
    layers = {row.layer for row in refitted.factors if not row.reason}
    assert layers & {layer.name for layer in refitted.calibration.layers}
    worse = [layer for layer in refitted.calibration.layers if layer.error_after > layer.error_before * (1 + 1e-6)]
    assert not worse
    before, after = (
        sum(getattr(layer, name) for layer in refitted.calibration.layers) for name in ("error_before", "error_after")
    )
    assert after < 0.98 * before


def test_tables_are_factorised_where_parameters_count_and_nowhere_else(folder: Path, tmp_path: Path) -> None:
    by_macs = compressed(folder, tmp_path, "encoder", method="lowrank", macs="60%", verify=False)
    by_parameters = compressed(folder, tmp_path, "encoder", method="lowrank", params="40%", verify=False)
    assert "embedding" not in {row.form for row in by_macs.factors}
    assert "embedding" in {row.form for row in by_parameters.factors}
    assert by_parameters.after.parameters <= 0.4 * by_parameters.before.parameters


def test_a_smaller_file_is_promised_and_kept(folder: Path, tmp_path: Path) -> None:
    before = (folder / "recogniser.onnx").stat().st_size
    compressed(folder, tmp_path, "recogniser", method="lowrank", size="70%", verify=False)
    assert (tmp_path / "small.onnx").stat().st_size <= 0.7 * before


def test_without_data_the_weights_alone_decide(folder: Path, tmp_path: Path) -> None:
    report = compressed(folder, tmp_path, "recogniser", data=None, method="lowrank", macs="70%")
    assert report.calibration is None
    assert report.recipe["factorization"] == "bn-svd"
    done = [row for row in report.factors if not row.reason]
    assert all(row.measured_error == pytest.approx(row.predicted_error, rel=1e-4) for row in done)


def test_another_budget_costs_no_new_decomposition(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    basis = WhitenedSvd.basis
    monkeypatch.setattr(WhitenedSvd, "basis", lambda self, layer: (asked.append(layer.name), basis(self, layer))[1])
    report = compressed(folder, tmp_path, "encoder", method="lowrank", max_drop=30.0, verify=False)
    assert report.after.macs < report.before.macs
    assert sorted(asked) == sorted(set(asked))  # seven budgets were tried


@pytest.mark.parametrize(
    ("settled", "reason"), [(True, "no less time"), (False, "within the noise")], ids=["slower", "not settled"]
)
def test_layers_that_gain_no_time_stay_whole_and_are_listed_with_both_times(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool, reason: str
) -> None:
    """Layers of one size are timed once; a second run does not even ask."""
    timed: list[tuple[str, tuple[int, ...]]] = []

    def measured(self: Times, site: Site, shape: tuple[int, ...], chains: list[tuple[Stage, ...]]) -> LayerTimes:
        timed.append((site.name, chains[1][0].weight.shape))
        is_slow = (site.inputs, site.outputs) == (32, 128)
        return LayerTimes(1e-3, 2e-3 if settled else 0.9e-3, settled) if is_slow else LayerTimes(2e-3, 1e-3)

    monkeypatch.setattr(Times, "_measured", measured)
    common = {"method": "lowrank", "macs": "85%", "verify": False, "measure_latency": True, "data": None}
    common |= {"latency_cache": tmp_path / "cache"}
    report = compressed(folder, tmp_path, "encoder", **common)
    refused = [row for row in report.factors if row.cpu_before_s == 1e-3]
    assert len(refused) == 1
    assert reason in refused[0].reason
    assert refused[0].cpu_after_s == (2e-3 if settled else 0.9e-3)
    assert report.after.macs <= 0.85 * report.before.macs
    assert reason in Path(tmp_path / "small.report.md").read_text()
    assert len(set(timed)) == len(timed)
    before = len(timed)
    assert compressed(folder, tmp_path, "encoder", **common).factors == report.factors
    assert len(timed) == before


def test_a_budget_out_of_reach_names_what_stays_whole(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="stay whole") as caught:
        compressed(folder, tmp_path, "recogniser", method="lowrank", macs="2%", data=None, round_to=8)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "lowrank", "--speedup", "0.5"], "factor above 1"),
        (["--method", "lowrank", "--speedup", "2", "--target", "android-arm64"], "nothing is known"),
        (["--method", "lowrank", "--criterion", "l2"], "no effect"),
        (["--factorization", "svd"], "no effect"),
        (["--method", "lowrank", "--prune-ratio", "0.5"], "no effect"),
        (["--method", "lowrank", "--factorization", "none-such"], "no factorization of that name"),
        (["--method", "lowrank", "--forms", "pointwise,none-such"], "no rewrite of that name"),
        (["--method", "auto", "--allocator", "preset:he-vgg16-5x"], "prescribes widths"),
        (["--method", "lowrank", "--forms", "matrix,embedding", "--macs", "60%"], "saves neither MACs nor time"),
    ],
)
def test_settings_without_effect_are_refused(folder: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["compress", str(folder / "encoder.onnx"), "--dry-run", *options])
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)


def test_a_rank_may_be_had_from_the_same_share_or_the_same_energy_everywhere(folder: Path, tmp_path: Path) -> None:
    for allocator in ("uniform", "energy", "global"):
        report = compressed(folder, tmp_path, "encoder", method="lowrank", macs="70%", allocator=allocator, verify=False)
        assert 0.4 < report.after.macs / report.before.macs <= 0.7


def test_factors_recover_from_the_original(folder: Path, tmp_path: Path) -> None:
    plan, training = tmp_path / "plan.json", tmp_path / "training.toml"
    training.write_text('method = "distillation"\noptimizer = "adamw"\nlearning_rate = 3e-3\nthreads = 1\n')
    learning = {"recover": "40steps", "recover_with": str(training), "save_plan": plan}
    report = compressed(folder, tmp_path, "encoder", method="lowrank", macs="40%", **learning)
    assert report.recovery is not None
    assert report.recovery.loss_after < 0.9 * report.recovery.loss_before
    factors = {tensor.name for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer if ".factor" in tensor.name}
    assert len(factors) >= 2 * sum(not row.reason for row in report.factors)
    assert factors <= set(json.loads(plan.read_text())["compensated"])


def test_groups_are_probed_again_where_ranks_are_chosen_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[Plan] = []
    known = choosing.probed_at

    def noted(plan: Plan, *rest: Any) -> Evidence:
        probed.append(plan)
        return known(plan, *rest)

    monkeypatch.setattr(choosing, "probed_at", noted)
    compressed(folder, tmp_path, "recogniser", method="auto", macs="50%", verify=False)
    assert len(probed) == choosing.TURNS
    assert all(plan.ranks and plan.steps for plan in probed)
    compressed(folder, tmp_path, "recogniser", method="lowrank", macs="70%", verify=False)
    assert len(probed) == choosing.TURNS
