"""TensorRT for RTX: builds engines without a graphics card, and its parser is the check of what TensorRT takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shrinkc.runtimes import processor
from shrinkc.runtimes.fixed_shapes import with_fixed_shapes
from shrinkc.runtimes.isolated import BACKENDS, IsolatedEngine, IsolatedSession
from shrinkc.runtimes.tensorrt_verdicts import verdicts

from shrinkc.api import Artifact, ConvertConfig, RunConfig, Signature, SupportReport
from shrinkc.errors import RuntimeUnavailable


class TensorRtRtx(IsolatedEngine):
    """Adapter for TensorRT-RTX."""

    name = "tensorrt-rtx"
    formats = ("engine",)
    backend = BACKENDS / "tensorrt_rtx_backend.py"
    distributions = ("tensorrt_rtx",)
    modules = ("tensorrt_rtx",)
    hint = "pip install tensorrt-rtx"

    def supports(self, model: Path) -> SupportReport:
        """What its parser says of every node.  TensorRT's own is of the same family, but may differ by version and device.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """
        self.require()
        return verdicts(self, model)

    def conversion(self, model: Path, folder: Path, signature: Signature, config: ConvertConfig) -> dict[str, Any]:
        """Request for the backend, with every size fixed."""
        fixed = with_fixed_shapes(model, signature, folder / "fixed.onnx")
        return super().conversion(fixed, folder, signature, config)

    def open(self, artifact: Artifact, config: RunConfig) -> IsolatedSession:
        """Load an engine, for which there must be a graphics card.

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
        return (f"build only ({missing})",) if missing else ("CUDA",)
