"""TensorRT on NVIDIA cards and Jetson boards, 10.x and 11.x.  Engines are built on the device they are for.

Its libraries come from NVIDIA: with JetPack, or by ``pip install tensorrt`` from NVIDIA's own index.  A timing cache makes
later builds quicker and equal: give its path by the option ``timing_cache``; the new one lies beside the engine.
"""

from __future__ import annotations

from shrinkc.runtimes import processor
from shrinkc.runtimes.tensorrt_family import TensorRtFamily

from shrinkc.api import Probe


class TensorRt(TensorRtFamily):
    """Adapter for TensorRT."""

    name = "tensorrt"
    distributions = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12")
    modules = ("tensorrt", "cuda.bindings")
    hint = "pip install tensorrt cuda-bindings (JetPack has tensorrt; elsewhere pip fetches it from NVIDIA's own index)"

    def probe(self) -> Probe:
        """Whether the package is installed and there is a driver; on a board, that shows when it is used."""
        if not self.place.is_here:
            return Probe(True, devices=(self.place.name,))
        found, missing = super().probe(), processor.missing_cuda_driver()
        return Probe(False, found.version, missing) if found.is_available and missing else found

    def devices(self) -> tuple[str, ...]:
        """The card."""
        return ("CUDA",)
