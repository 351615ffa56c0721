"""LiteRT on this machine's CPU: Google's engine for phones and boards.

The converter, onnx2tf, wants a newer Python and its own versions of everything, so it lives in an environment of its own, which
``SHRINKC_LITERT`` names; models run in this one, if it has ai-edge-litert.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shrinkc.runtimes.environments import InEnvironment, interpreter
from shrinkc.runtimes.fixed_shapes import with_fixed_shapes
from shrinkc.runtimes.isolated import BACKENDS
from shrinkc.runtimes.isolation import HERE, Child, Place, is_importable

from shrinkc.api import ConvertConfig, Signature


class LiteRt(InEnvironment):
    """Adapter for LiteRT."""

    name = "litert"
    formats = ("tflite",)
    backend = BACKENDS / "litert_backend.py"
    distributions = ("onnx2tf",)
    modules = ("onnx2tf", "ai_edge_litert")
    hint = "pip install onnx2tf"
    variable = "SHRINKC_LITERT"
    home = "an environment of its own with Python 3.12"

    def __init__(self, place: Place | None = None) -> None:
        super().__init__(place or (HERE if is_importable("ai_edge_litert") else None))

    def converting_child(self) -> Child:
        """The environment of the converter."""
        return Child(self.backend, interpreter(self.variable) or HERE)

    def conversion(self, model: Path, folder: Path, signature: Signature, config: ConvertConfig) -> dict[str, Any]:
        """Arguments of the backend, with every size fixed."""
        fixed = with_fixed_shapes(model, signature, folder / "model.onnx")
        return super().conversion(fixed, folder, signature, config)
