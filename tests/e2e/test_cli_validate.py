"""``shrinkc validate`` and ``shrinkc doctor`` as they are called."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shrinkc.cli import cli
from shrinkc.errors import BuildError, CalibrationError, RuntimeUnavailable


def run(*arguments: str) -> tuple[str, BaseException | None]:
    result = CliRunner().invoke(cli, list(arguments))
    return result.stdout, result.exception


def test_the_json_says_how_far_each_runtime_came(demo: Path) -> None:
    model = str(demo / "fashion_resnet.onnx")
    out, error = run("validate", model, model, "--runtimes", "onnxruntime-cpu", "--inputs", "2", "--json")
    assert error is None
    report = json.loads(out)
    assert report["schema"] == "shrinkc.validation/1"
    assert report["is_synthetic"] is True
    (row,) = report["results"]
    assert (row["status"], row["level"], row["own"][0]["max_abs"]) == ("ok", "validated", 0)
    assert row["own"][0]["sqnr_db"] is None


def test_times_of_original_and_compressed_model_are_shown_where_asked_for(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shrinkc.latency import probe

    for name in ("WARMUP_S", "BLOCK_S"):
        monkeypatch.setattr(probe, name, 0.01)
    model = str(demo / "fashion_resnet.onnx")
    out, error = run("validate", model, model, "--runtimes", "onnxruntime-cpu", "--inputs", "1", "--time")
    assert error is None
    assert "original, compressed, speed" in out
    assert " timed " in out


def test_the_table_has_a_row_for_a_runtime_that_is_missing(demo: Path) -> None:
    model = str(demo / "fashion_resnet.onnx")
    out, error = run("validate", model, model, "--runtimes", "onnxruntime-cpu,onnxruntime-cuda", "--inputs", "1")
    assert isinstance(error, (RuntimeUnavailable, SystemExit))
    assert "onnxruntime-cpu" in out
    assert "not run" in out


def test_a_runtime_asked_for_by_name_that_cannot_take_the_model_is_an_error(tmp_path: Path) -> None:
    """pnnx ends without an error here, and writes a file that ncnn cannot load: a tensor of five axes is transposed."""
    pytest.importorskip("ncnn")
    model = five_axes(tmp_path / "attention.onnx")
    out, error = run("validate", str(model), str(model), "--runtimes", "ncnn", "--inputs", "1", "--json")
    assert isinstance(error, BuildError)
    (row,) = json.loads(out)["results"]
    assert (row["status"], row["level"]) == ("failed", "converted")
    assert "the converter reported success, but its file does not load" in row["reason"]
    assert any("5-rank" in warning for warning in row["warnings"])
    assert "the original does, too" in row["original"]


def five_axes(path: Path) -> Path:
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        net (float[1,16,24] x) => (float[3,1,3,16,8] y)
        <float[24,72] w, int64[5] sizes = {1, 16, 3, 3, 8}>
        {
            a = MatMul (x, w)
            b = Reshape (a, sizes)
            y = Transpose <perm = [2, 0, 3, 1, 4]> (b)
        }
        """
    )
    weight = np.random.default_rng(0).standard_normal((24, 72)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, str(path))
    return path


def test_models_of_different_inputs_are_refused(demo: Path, tmp_path: Path) -> None:
    other = five_axes(tmp_path / "other.onnx")
    _, error = run("validate", str(demo / "fashion_resnet.onnx"), str(other))
    assert isinstance(error, CalibrationError)
    assert {"image", "x"} <= set(re.findall(r"'(\w+)'", error.because)), "it says what either of them takes"


def test_doctor_lists_every_runtime_and_imports_none() -> None:
    script = (
        "import sys\nfrom shrinkc.doctor import examine\n"
        "found = examine()\n"
        "engines = {'onnxruntime', 'openvino', 'ncnn', 'MNN', 'tensorrt_rtx', 'torch', 'ai_edge_litert'} & sys.modules.keys()\n"
        "assert not engines, engines\n"
        "print(len(found.findings))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 14


def test_doctor_says_why_a_runtime_is_missing_and_how_to_get_it() -> None:
    out, error = run("doctor", "--json")
    assert error is None
    findings = {row["runtime"]: row["probe"] for row in json.loads(out)["findings"]}
    assert findings["onnxruntime-cpu"]["is_available"]
    for probe in findings.values():
        assert probe["is_available"] or probe["reason"]
    assert "remote:HOST_AND_ENGINE" in findings["remote"]["hint"]
