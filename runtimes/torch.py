"""torch, on the processor or an NVIDIA card: the graph runs as a module, through the executor that training uses."""

from __future__ import annotations

from typing import ClassVar

from shrinkc.runtimes import processor
from shrinkc.runtimes.isolated import BACKENDS
from shrinkc.runtimes.onnx_files import OnnxEngine

from shrinkc.api import ConvertConfig, Probe


class Torch(OnnxEngine):
    """Adapter for one device of torch.

    Attributes
    ----------
    device : str
    """

    backend = BACKENDS / "torch_backend.py"
    distributions = ("torch",)
    modules = ("torch", "shrinkc.training.executor")
    hint = "pip install 'shrinkc[torch]'"
    device: ClassVar[str]

    def details(self, config: ConvertConfig) -> dict[str, object]:
        """Name the device."""
        return {"device": self.device}


class TorchCpu(Torch):
    """Adapter for the processor."""

    name = "torch-cpu"
    device = "cpu"


class TorchCuda(Torch):
    """Adapter for an NVIDIA card."""

    name = "torch-cuda"
    device = "cuda"

    def probe(self) -> Probe:
        """Whether torch is installed and there is a driver."""
        found, missing = super().probe(), processor.missing_cuda_driver()
        return Probe(False, found.version, missing, "install NVIDIA's driver") if found.is_available and missing else found

    def devices(self) -> tuple[str, ...]:
        """The card."""
        return ("CUDA",)
