from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import shrinkc
from shrinkc.errors import BudgetError, RecipeError

MODEL = Path(__file__).parents[2] / "benchmarks" / "models" / "resnet20.onnx"
EVAL = Path(__file__).parents[2] / "examples" / "fashion_eval.npz"
CALIBRATION = Path(__file__).parents[2] / "examples" / "fashion_calibration.npz"

QUICK = {"measure_latency": False}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled samples, few enough for a test."""
    path = tmp_path_factory.mktemp("data") / "judged.npz"
    with np.load(EVAL) as arrays:
        np.savez(path, image=arrays["image"][:400], labels=arrays["labels"][:400])
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration samples for tests that do not look at how good the repair is."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(CALIBRATION) as arrays:
        np.savez(path, **{name: arrays[name][:96] for name in arrays.files})
    return path


def test_the_default_with_data_keeps_what_magnitude_alone_loses(judged: Path, tmp_path: Path) -> None:
    """An ordinary trained model at half its MACs; neither labels nor training for the repair."""
    common = {"macs": "50%", "data": CALIBRATION, "eval_data": judged, **QUICK}
    plan = tmp_path / "plan.json"
    repaired = shrinkc.compress(MODEL, output=tmp_path / "a.onnx", save_plan=plan, **common)
    plain = shrinkc.compress(MODEL, output=tmp_path / "b.onnx", recipe="magnitude", **common)
    assert repaired.proof is not None
    assert repaired.after.macs <= 0.5 * repaired.before.macs
    assert repaired.quality.accuracy_before - repaired.quality.accuracy_after < 0.025
    assert plain.quality.accuracy_after < repaired.quality.accuracy_after - 0.2
    errors = [(layer.error_before, layer.error_after) for layer in repaired.calibration.layers]
    assert sum(after for _, after in errors) < 0.7 * sum(before for before, _ in errors)
    assert json.loads(plan.read_text())["reconstruction"]


def test_a_plan_is_replayed_with_its_repair_and_gives_the_same_bytes(few: Path, tmp_path: Path) -> None:
    plan, first, second = tmp_path / "plan.json", tmp_path / "a.onnx", tmp_path / "b.onnx"
    data = {"data": few, "eval_data": few, "verify": False, **QUICK}
    shrinkc.compress(MODEL, output=first, macs="60%", save_plan=plan, **data)
    shrinkc.compress(MODEL, output=second, plan=plan, **data)
    assert first.read_bytes() == second.read_bytes()


def test_without_data_nothing_is_compensated_unless_asked_for(tmp_path: Path) -> None:
    bare = shrinkc.compress(MODEL, output=tmp_path / "a.onnx", macs="70%", verify=False, **QUICK)
    assert bare.calibration is None
    assert any("Nothing makes up" in note for note in bare.notes)
    asked = shrinkc.compress(MODEL, output=tmp_path / "b.onnx", macs="70%", recipe="synthetic", verify=False, **QUICK)
    assert asked.calibration.is_synthetic
    assert not asked.quality.is_measured
    assert any("synthetic" in note for note in asked.notes)


def test_one_source_is_shared_out_for_repairing_and_judging(few: Path, tmp_path: Path) -> None:
    report = shrinkc.compress(MODEL, output=tmp_path / "a.onnx", macs="70%", data=few, verify=False, **QUICK)
    assert report.calibration.samples + report.quality.samples == 96
    assert report.quality.samples == 24


def test_the_largest_cut_stays_within_the_allowed_drop(judged: Path, tmp_path: Path) -> None:
    options = {"data": CALIBRATION, "eval_data": judged, "compensation": "affine", "verify": False, **QUICK}
    report = shrinkc.compress(MODEL, output=tmp_path / "a.onnx", max_drop=2.0, **options)
    drop = 100 * (report.quality.accuracy_before - report.quality.accuracy_after)
    assert drop <= 2.0
    assert report.after.macs < 0.7 * report.before.macs
    assert report.recipe["max_drop"] == 2.0


def test_a_largest_drop_without_data_or_beside_a_budget_is_refused(judged: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="only be measured on data"):
        shrinkc.compress(MODEL, output=tmp_path / "a.onnx", max_drop=1.0, verify=False, **QUICK)
    with pytest.raises(RecipeError, match="looks for the cut itself"):
        shrinkc.compress(MODEL, output=tmp_path / "a.onnx", max_drop=1.0, macs="50%", **QUICK)


def test_a_drop_that_no_cut_keeps_is_refused(judged: Path, tmp_path: Path) -> None:
    options = {"data": judged, "eval_data": judged, "criterion": "random", "allocator": "uniform", "compensation": "none"}
    with pytest.raises(BudgetError, match="no cut stays"):
        shrinkc.compress(MODEL, output=tmp_path / "a.onnx", max_drop=0.0, verify=False, **options, **QUICK)
