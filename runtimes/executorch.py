"""ExecuTorch on this machine's CPU: PyTorch's engine for phones, through the graph as a torch module.

It is large and pins its torch, so it lives in an environment of its own, with shrinkc in it; ``SHRINKC_EXECUTORCH`` names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shrinkc.runtimes.environments import InEnvironment
from shrinkc.runtimes.fixed_shapes import with_fixed_shapes
from shrinkc.runtimes.isolated import BACKENDS
from shrinkc.runtimes.isolation import Child

from shrinkc.api import ConvertConfig, Signature


class ExecuTorch(InEnvironment):
    """Adapter for ExecuTorch with its XNNPACK delegate."""

    name = "executorch"
    formats = ("pte",)
    backend = BACKENDS / "executorch_backend.py"
    distributions = ("executorch",)
    modules = ("executorch", "shrinkc.training.executor")
    hint = "pip install executorch 'shrinkc[torch]'"
    variable = "SHRINKC_EXECUTORCH"

    def converting_child(self) -> Child:
        """The environment."""
        return Child(self.backend, self.place)

    def conversion(self, model: Path, folder: Path, signature: Signature, config: ConvertConfig) -> dict[str, Any]:
        """Arguments of the backend, with every size fixed."""
        fixed = with_fixed_shapes(model, signature, folder / "fixed.onnx")
        return super().conversion(fixed, folder, signature, config)
