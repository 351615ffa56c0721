"""What lies beside a model for a Jetson: files in its precision, recipes for both TensorRTs, no claim that was not checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models.fake_board import FakeCuda, fake_tensorrt, sent_to_jetson

import shrinkc
from shrinkc import emitting, precision
from shrinkc.boards import tensorrt_on_board as board

Save = Callable[..., Path]


@dataclass
class Emitted:
    folder: Path
    report: shrinkc.report.model.Report  # type: ignore[name-defined]
    deployment: dict[str, Any]


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Emitted:
    root = tmp_path_factory.mktemp("emitted")
    report = sent_to_jetson(root)
    folder = root / "small.jetson-orin-nano"
    return Emitted(folder, report, json.loads((folder / "deployment.json").read_text()))


def test_the_folder_holds_both_precisions_and_both_recipes(emitted: Emitted) -> None:
    assert sorted(path.name for path in emitted.folder.iterdir()) == [
        "README.md",
        "deployment.json",
        "model.fp16.onnx",
        "model.int8.onnx",
        "reference.npz",
        "tensorrt_on_board.py",
        "trtexec-10.sh",
        "trtexec-11.sh",
    ]
    assert emitted.report.files["target"] == str(emitted.folder)
    ten, eleven = ((emitted.folder / f"trtexec-{major}.sh").read_text() for major in (10, 11))
    assert "--stronglyTyped" in ten
    assert "--stronglyTyped" not in eleven
    for script in (ten, eleven):
        assert "--fp16" not in script  # typed networks take their precision from the file
        assert "--shapes=x:1x3x8x8" in script


def test_weights_are_in_the_precision_that_the_file_is_named_for(emitted: Emitted) -> None:
    half = onnx.load(str(emitted.folder / "model.fp16.onnx"))
    onnx.checker.check_model(half, full_check=True)
    assert {tensor.data_type for tensor in half.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert precision.zero_points(emitted.folder / "model.int8.onnx") == [0]
    reference = np.load(emitted.folder / "reference.npz")
    for name, most in (("fp16", 0.01), ("int8", 0.2)):
        session = ort.InferenceSession(str(emitted.folder / f"model.{name}.onnx"), providers=["CPUExecutionProvider"])
        found = session.run(["y"], {"x": reference["in.x"]})[0]
        assert np.abs(found - reference["out.y"]).max() <= most * np.abs(reference["out.y"]).max()


def test_the_style_for_x86_is_another(emitted: Emitted, tmp_path: Path) -> None:
    """onnxruntime is fast with U8 activations, whose zero points are anything; TensorRT refuses them."""
    batches = [{"x": np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)}]
    source = emitted.folder.with_name("small.onnx")
    precision.to_int8(source, tmp_path / "q.onnx", batches, precision.STYLES["onnxruntime-cpu"])
    assert precision.zero_points(tmp_path / "q.onnx") != [0]


def test_nothing_is_claimed_that_was_not_checked(emitted: Emitted) -> None:
    made = emitted.deployment
    assert "no engine was built" in made["not_validated"]
    assert any("int8_sparse_tops" in line for line in made["not_validated"])
    assert all("on onnxruntime, 32 samples" in line for line in made["validated"])
    for variant in made["variants"]:
        assert variant["verdict"].startswith(("not checked: ", "the tensorrt-rtx parser"))
    assert any(note.startswith("DLA: none") for note in made["notes"])
    assert any("3 to " in line for line in made["unaligned"])


@pytest.mark.parametrize(("version", "flag"), [("10.7.0", 2), ("11.4.1", 0)])
def test_the_script_for_the_board_builds_checks_times_and_writes(
    emitted: Emitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, flag: int
) -> None:
    flags: list[int] = []
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(version, flags))
    monkeypatch.setattr(board, "Cuda", FakeCuda)
    monkeypatch.chdir(tmp_path)
    files = [str(emitted.folder / name) for name in ("model.fp16.onnx", "reference.npz")]
    board.main([*files, "--warmup-s", "0", "--duration-s", "0.01", "-o", "result.json"])
    result = json.loads(Path("result.json").read_text())
    assert (result["schema"], result["tensorrt"], flags) == ("shrinkc.board/1", version, [flag])
    assert result["outputs"]["y"]["relative"] < 0.01
    assert result["latency_s"]["runs"] >= 10
    assert result["model_sha256"] == emitted.deployment["variants"][0]["sha256"]
    assert Path("timing.cache").read_bytes() == b"cache"


def test_the_script_lies_there_as_it_is_tested(emitted: Emitted) -> None:
    assert (emitted.folder / emitting.SCRIPT).read_text() == Path(board.__file__).read_text()
