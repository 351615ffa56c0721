"""Factorised models end to end: errors as predicted, and engines that run the original run what came of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models.factorable_nets import encoder, recogniser

import shrinkc
from shrinkc import registry
from shrinkc.report.model import Report

OTHERS = ("openvino", "torch-cpu")
"""Engines beside onnxruntime that take both; MNN takes the encoder alone and ncnn neither, and so it is with the originals."""


@pytest.fixture(autouse=True)
def others_are_here() -> None:
    """Every test here needs the other engines."""
    for probe in (registry.built("runtimes", name).probe() for name in OTHERS):
        if not probe.is_available:
            pytest.skip(f"{probe.reason}; {probe.hint}")


def compressed(path: Path, feed: dict[str, np.ndarray], method: str, **options: object) -> Report:
    np.savez(path.with_suffix(".npz"), **feed)
    common = {"method": method, "data": path.with_suffix(".npz"), "measure_latency": False}
    return shrinkc.compress(path, output=path.with_name("small.onnx"), **{**common, **options})  # type: ignore[arg-type]


def judge(report: Report, original: Path, share: float) -> None:
    assert report.after.macs <= share * report.before.macs
    done = [row for row in report.factors if not row.reason]
    assert done
    for row in done:
        assert row.measured_error == pytest.approx(row.predicted_error, rel=1e-4, abs=1e-12)
    assert report.factor_proof is not None
    found = shrinkc.validate(original, original.with_name("small.onnx"), runtimes=OTHERS, n_inputs=2).results
    assert [(result.runtime, result.level) for result in found] == [(name, "validated") for name in OTHERS]
    assert all(result.own[0].relative < 1e-4 for result in found)


@pytest.mark.parametrize(("method", "name"), [("lowrank", "recogniser"), ("auto", "encoder")])
def test_small_ones_run_on_two_more_engines_with_the_errors_that_were_predicted(tmp_path: Path, method: str, name: str) -> None:
    random, path = np.random.default_rng(0), tmp_path / "m.onnx"
    if name == "encoder":
        encoder(layers=1, width=32, heads=2, tokens=6, vocabulary=80).save(path)
        feed = {"tokens": random.integers(0, 80, (64, 6))}
    else:
        recogniser(channels=8, hidden=24, classes=200, height=8, length=16).save(path)
        feed = {"image": random.standard_normal((64, 1, 8, 16)).astype(np.float32)}
    judge(compressed(path, feed, method, macs="60%", round_to=1), path, 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lowrank", "auto"])
def test_an_encoder_of_six_layers_and_384_channels(tmp_path: Path, method: str) -> None:
    path = encoder().save(tmp_path / "m.onnx")
    feed = {"tokens": np.random.default_rng(0).integers(0, 2000, (96, 32))}
    judge(compressed(path, feed, method, macs="60%"), path, 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lowrank", "auto"])
def test_a_recogniser_with_a_bidirectional_lstm_and_a_head_of_8210_classes(tmp_path: Path, method: str) -> None:
    path = recogniser().save(tmp_path / "m.onnx")
    lines = np.random.default_rng(0).standard_normal((64, 1, 16, 64)).astype(np.float32)
    report = compressed(path, {"image": lines + np.roll(lines, 1, axis=3)}, method, macs="40%")
    judge(report, path, 0.4)
    forms = {row.form for row in report.factors if not row.reason}
    assert "matrix" in forms
    assert method == "auto" or "recurrent" in forms  # auto may take channels of the layers before it in its place
    assert any("recurrent matrices whole" in row.reason for row in report.factors)
