"""TensorRT for RTX: builds engines without a graphics card, and its parser is the check of what TensorRT takes."""

from __future__ import annotations

from shrinkc.runtimes import processor
from shrinkc.runtimes.isolated import BACKENDS, IsolatedEngine


class TensorRtRtx(IsolatedEngine):
    """Adapter for TensorRT-RTX."""

    name = "tensorrt-rtx"
    formats = ("engine",)
    backend = BACKENDS / "tensorrt_rtx_backend.py"
    distributions = ("tensorrt_rtx",)
    modules = ("tensorrt_rtx",)
    hint = "pip install tensorrt-rtx"

    def devices(self) -> tuple[str, ...]:
        """Building needs no device, running does."""
        missing = processor.missing_cuda_driver()
        return (f"build only ({missing})",) if missing else ("CUDA",)
