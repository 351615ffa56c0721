"""Quantisation in the style a runtime wants, judged on samples it was not calibrated on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models.builder import Net

from shrinkc import registry
from shrinkc.cli import cli
from shrinkc.errors import CalibrationError, GateError, RecipeError
from shrinkc.evidence.quality import OutputAgreement, Quality
from shrinkc.latency import probe
from shrinkc.quantizing import Quantized, quantize, verdict

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, net = tmp_path_factory.mktemp("quantized"), Net()
    x = net.cbr(net.input("x", ["n", 3, 8, 8]), 3, 16)
    net.head(net.cbr(x, 16, 32), 32)
    net.nodes[-1].output[0] = "y"
    net.output("y")
    onnx.save(net.model(), str(root / "model.onnx"))
    random = np.random.default_rng(0)
    np.savez(root / "samples.npz", x=random.standard_normal((64, 3, 8, 8)).astype(np.float32))
    np.savez(root / "few.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    return root


def run(folder: Path, **options: object) -> Quantized:
    given = {"output": folder / "out.onnx", "data": folder / "samples.npz", **options}
    return quantize(folder / "model.onnx", **given)  # type: ignore[arg-type]


def test_weights_take_a_quarter_and_the_style_is_the_runtimes(folder: Path) -> None:
    here, there = run(folder), run(folder, target_name="jetson")
    assert there.zero_points == (0,)
    assert here.zero_points != (0,)
    stored = {tensor.data_type for tensor in onnx.load(str(folder / "out.onnx")).graph.initializer if len(tensor.dims) == 4}
    assert stored == {onnx.TensorProto.INT8}
    assert here.quality.samples == 16
    assert here.verdict == verdict("int8", here.quality)
    assert here.quality.agreement[0].cosine > 0.99
    assert (here.notes, len(there.notes)) == ((), 1)


def test_the_targets_own_engine_judges_and_times_where_it_is_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARMUP_S", "BLOCK_S"):
        monkeypatch.setattr(probe, name, 0.01)
    if not registry.built("runtimes", "openvino").probe().is_available:
        pytest.skip("openvino is not here")
    found = run(folder, target_name="openvino-cpu")
    assert found.engine is not None
    assert (found.engine.level, found.latency_runtime) == ("timed", "openvino")
    assert "it is what was timed" in found.notes[0]
    files = [str(folder / name) for name in ("model.onnx", "samples.npz", "shown.onnx")]
    shown = CliRunner().invoke(cli, ["quantize", files[0], "--target", "openvino-cpu", "--data", files[1], "-o", files[2]])
    assert shown.exit_code == 0, shown.output
    line = re.search(r"latency +([\d.]+) (\w+) to ([\d.]+) (\w+), ([\d.]+)x speed on openvino", shown.output)
    assert line is not None, shown.output
    before, after = float(line[1]) * UNITS[line[2]], float(line[3]) * UNITS[line[4]]
    assert before / after == pytest.approx(float(line[5]), rel=0.05)


def test_halves_are_nearer_than_bytes(folder: Path) -> None:
    half, byte = run(folder, to="float16"), run(folder)
    assert half.quality.agreement[0].relative_error < 0.002 < byte.quality.agreement[0].relative_error < 0.2
    assert half.bytes_after < 0.75 * half.bytes_before


def test_int8_is_judged_by_points_and_halves_by_error() -> None:
    one = OutputAgreement("y", 0.999, 0.03, 0.995)
    quality = Quality("samples", 200, 0.9, 0.895, (one,))
    assert verdict("int8", quality).is_within
    assert "0.50 points lost, 1 allowed" in verdict("int8", quality).sentence
    assert not verdict("int8", replace(quality, accuracy_after=0.88)).is_within
    assert not verdict("int8", quality, max_drop=0.4).is_within
    assert not verdict("float16", quality).is_within, "3 % off, whatever class wins"
    assert verdict("bfloat16", replace(quality, agreement=(replace(one, relative_error=0.019),))).is_within


def test_what_loses_too_much_is_set_aside(folder: Path) -> None:
    (folder / "out.onnx").unlink(missing_ok=True)
    with pytest.raises(GateError, match="are allowed"):
        run(folder, max_drop=-1.0)
    assert (folder / "out.rejected.onnx").exists()
    assert not (folder / "out.onnx").exists()


def test_what_cannot_be_done_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="no style"):
        run(folder, target_name="android-arm64")
    with pytest.raises(RecipeError, match="another"):
        run(folder, output=folder / "model.onnx")
    with pytest.raises(CalibrationError, match="too few"):
        run(folder, data=folder / "few.npz")
