"""onnxruntime for phones: its own file format, run here on the CPU, and its checker's word on phones' accelerators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shrinkc.runtimes.fixed_shapes import with_fixed_shapes
from shrinkc.runtimes.isolated import BACKENDS, IsolatedEngine
from shrinkc.runtimes.isolation import HERE, Child

from shrinkc.api import ConvertConfig, Signature, SupportReport


class OnnxRuntimeMobile(IsolatedEngine):
    """Adapter for ``.ort`` files; the operators a small build must have are in the artifact's ``details``."""

    name = "onnxruntime-mobile"
    formats = ("ort",)
    backend = BACKENDS / "onnxruntime_backend.py"
    distributions = ("onnxruntime",)
    modules = ("onnxruntime",)
    hint = "pip install onnxruntime"

    def supports(self, model: Path) -> SupportReport:
        """What the usability check says of NNAPI and Core ML: of partitions, not of nodes.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """
        self.require()
        with Child(self.backend, HERE) as child:
            answer, _ = child.request("call", {"function": "supports", "arguments": {"model": str(model.resolve())}})
        return SupportReport("onnxruntime's mobile usability check", self.version(), (), answer["note"])

    def conversion(self, model: Path, folder: Path, signature: Signature, config: ConvertConfig) -> dict[str, Any]:
        """Arguments of the backend, with every size fixed, as the accelerators want it."""
        fixed = with_fixed_shapes(model, signature, folder / "model.onnx")
        return super().conversion(fixed, folder, signature, config)
