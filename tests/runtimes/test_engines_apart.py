"""Engines that need an environment or an instruction set of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from shrinkc.runtimes.isolation import child_variables
from shrinkc.runtimes.onnxruntime_gpu import OnnxRuntimeTensorRt

import shrinkc
from shrinkc import registry
from shrinkc.api import ConvertConfig
from shrinkc.report.validation import EngineResult


def result_of(name: str, model: Path, **options: object) -> EngineResult:
    """Result of a model, beside itself, on an engine that has to be there."""
    probe = registry.built("runtimes", name).probe()
    if not probe.is_available:
        pytest.skip(f"{probe.reason}; {probe.hint}")
    (result,) = shrinkc.validate(model, model, runtimes=[name], **options).results  # type: ignore[arg-type]
    return result


def validated(name: str, demo: Path) -> EngineResult:
    """Result of the bundled model."""
    return result_of(name, demo / "fashion_resnet.onnx", data=demo / "fashion_eval.npz", n_inputs=2)


@pytest.mark.parametrize("engine", ["ncnn", "mnn"])
def test_engines_of_phones_agree_on_the_instruction_set_of_phones(engine: str, demo: Path) -> None:
    result = validated(f"arm64:{engine}", demo)
    assert (result.status, result.level, result.place) == ("ok", "validated", "arm64 emulated"), result.reason
    assert result.own[0].relative < 1e-4


def test_a_provider_that_chooses_its_precision_says_which_and_float32_is_never_tf32() -> None:
    """Both are settings that a card would heed; none has run here."""
    assert OnnxRuntimeTensorRt().details(ConvertConfig("float16"))["precision"] == "float16"
    assert OnnxRuntimeTensorRt().provider_options(ConvertConfig("float16")) == {"trt_fp16_enable": "True"}
    assert OnnxRuntimeTensorRt().details(ConvertConfig())["precision"] == "float32"
    assert child_variables(1)["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.engines
@pytest.mark.parametrize("name", ["litert", "executorch", "torch-cpu"])
def test_engines_with_environments_of_their_own_agree_with_onnxruntime(name: str, demo: Path) -> None:
    result = validated(name, demo)
    assert (result.status, result.level) == ("ok", "validated"), result.reason
    assert result.own[0].relative < 1e-4


@pytest.mark.engines
def test_a_detector_that_onnx2tf_breaks_while_it_reports_success_is_called_so(tmp_path: Path) -> None:
    """It cuts the slices of a split of channels along another axis here, ends with 0, and the file cannot be loaded."""
    networks = pytest.importorskip("models.torch_networks")
    pytest.importorskip("models.torch_dense")
    model = networks.export("yolo", "legacy", tmp_path / "yolo.onnx")
    result = result_of("litert", model, n_inputs=1)
    assert (result.status, result.level) == ("failed", "converted"), result.reason
    assert "the converter reported success, but its file does not load" in result.reason
    assert "the original does, too" in result.original


@pytest.mark.engines
@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_the_real_wheel_without_a_card_is_not_run_rather_than_run_on_the_processor(name: str, demo: Path) -> None:
    """It lists both providers and makes a session for either; the session is on the CPU."""
    result = validated(name, demo)
    if result.status == "ok":
        pytest.skip("there is a card")
    assert result.status == "not run"
    assert "fell back to CPUExecutionProvider" in result.reason
    assert result.own == ()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx", "torch-cuda"])
def test_engines_on_a_card_agree_with_onnxruntime(name: str, demo: Path) -> None:
    """In float32's own tolerance: no engine is left to compute in TF32."""
    result = validated(name, demo)
    assert result.status == "ok", result.reason
    assert result.precision == "float32"
