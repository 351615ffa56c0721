"""onnxruntime on NVIDIA cards, by its CUDA and TensorRT execution providers.

The wheel lists both wherever it is installed, and sessions fall back to the CPU without an error.  So the provider is
read from the session that was made; anything else than what was asked for is *not run*.
"""

from __future__ import annotations

from typing import ClassVar

from shrinkc.runtimes import processor
from shrinkc.runtimes.environments import InEnvironment
from shrinkc.runtimes.isolated import BACKENDS, IsolatedSession
from shrinkc.runtimes.onnx_files import OnnxEngine

from shrinkc.api import Artifact, ConvertConfig, Probe, RunConfig
from shrinkc.errors import RuntimeUnavailable


class OnnxRuntimeGpu(InEnvironment, OnnxEngine):
    """An execution provider of onnxruntime-gpu, whose package has the same module as onnxruntime and replaces it.

    Attributes
    ----------
    provider : str
    """

    backend = BACKENDS / "onnxruntime_backend.py"
    distributions = ("onnxruntime-gpu",)
    modules = ("onnxruntime",)
    hint = "pip install onnxruntime-gpu"
    variable = "SHRINKC_ONNXRUNTIME_GPU"
    provider: ClassVar[str]

    def probe(self) -> Probe:
        """Whether the package is installed; whether there is a card shows when a model is loaded."""
        found = super().probe()
        if found.is_available and not self.version():
            hint = f"{self.hint}, in {self.home}; then export {self.variable}=ITS_PYTHON"
            return Probe(False, reason="not installed: onnxruntime-gpu (onnxruntime is, for the CPU)", hint=hint)
        return found

    def devices(self) -> tuple[str, ...]:
        """The card, or why there is none."""
        return (processor.missing_cuda_driver() or "CUDA",)

    def details(self, config: ConvertConfig) -> dict[str, object]:
        """Name the provider and its options."""
        return {"provider": self.provider, "provider_options": self.provider_options(config)}

    def provider_options(self, config: ConvertConfig) -> dict[str, str]:
        """Options of the provider."""
        return {name: str(value) for name, value in config.options.items()}

    def open(self, artifact: Artifact, config: RunConfig) -> IsolatedSession:
        """Load, on the provider asked for or not at all.

        Raises
        ------
        RuntimeUnavailable
            There is no driver, or onnxruntime fell back.
        BuildError
            It refuses the model.
        """
        try:
            session = super().open(artifact, config)
        except RuntimeUnavailable as error:
            reasons = filter(None, [error.because, processor.missing_cuda_driver()])
            raise RuntimeUnavailable("the card was not used", where=self.name, because="; ".join(reasons)) from error
        found = session.effective().provider
        if found != self.provider:
            session.close()
            raise RuntimeUnavailable("another provider took the model", where=self.name, because=found)
        return session


class OnnxRuntimeCuda(OnnxRuntimeGpu):
    """CUDA execution provider."""

    name = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"


class OnnxRuntimeTensorRt(OnnxRuntimeGpu):
    """TensorRT execution provider; engines are built when the model is loaded, and cached nowhere."""

    name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"

    def details(self, config: ConvertConfig) -> dict[str, object]:
        """Name the precision, too, which the provider, unlike CUDA's, chooses at load."""
        return {**super().details(config), "precision": config.precision}

    def provider_options(self, config: ConvertConfig) -> dict[str, str]:
        """Precision, by TensorRT's own weak typing (10.x), and what the user asked for."""
        precision = {"float16": {"trt_fp16_enable": "True"}, "bfloat16": {"trt_bf16_enable": "True"}}
        return {**precision.get(config.precision, {}), **super().provider_options(config)}
