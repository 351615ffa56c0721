"""TensorRT for RTX: builds engines without a graphics card, and its parser is the check of what TensorRT takes."""

from __future__ import annotations

from typing import Any, ClassVar

from shrinkc.runtimes import processor
from shrinkc.runtimes.isolated import IsolatedSession
from shrinkc.runtimes.tensorrt_family import TensorRtFamily

from shrinkc.api import Artifact, RunConfig
from shrinkc.errors import RuntimeUnavailable


class TensorRtRtx(TensorRtFamily):
    """Adapter for TensorRT-RTX."""

    name = "tensorrt-rtx"
    distributions = ("tensorrt_rtx",)
    modules = ("tensorrt_rtx",)
    hint = "pip install tensorrt-rtx"
    options: ClassVar[dict[str, Any]] = {"compute_capabilities": ("SM86", "SM89")}

    def open(self, artifact: Artifact, config: RunConfig) -> IsolatedSession:
        """Load an engine, for which there must be a graphics card, and cuda-bindings.

        Raises
        ------
        RuntimeUnavailable
            There is no driver.
        BuildError
            It refuses the engine.
        """
        if missing := processor.missing_cuda_driver():
            raise RuntimeUnavailable("the engine was built, and cannot run here", because=missing)
        return super().open(artifact, config)

    def devices(self) -> tuple[str, ...]:
        """Building needs no device, running does."""
        missing = processor.missing_cuda_driver()
        return (f"build only: {missing}",) if missing else ("CUDA",)
