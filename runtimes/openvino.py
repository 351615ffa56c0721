"""OpenVINO on this machine's CPU: Intel's engine, fast in bfloat16 and int8 where the processor is."""

from __future__ import annotations

from shrinkc.runtimes.isolated import BACKENDS
from shrinkc.runtimes.onnx_files import OnnxEngine


class OpenVino(OnnxEngine):
    """Adapter for OpenVINO's CPU plug-in."""

    name = "openvino"
    backend = BACKENDS / "openvino_backend.py"
    distributions = ("openvino",)
    modules = ("openvino",)
    hint = "pip install openvino"
