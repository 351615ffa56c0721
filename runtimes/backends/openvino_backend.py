"""OpenVINO in a process of its own, its precision always said: left alone it takes bfloat16 where the processor has it."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

# Importing OpenVINO imports a package that reports its use, and it goes without where that package is missing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]

HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
NAMES = {hint: name for name, hint in HINTS.items()}


def probe(request: Fields) -> Fields:
    """What can be imported here."""
    devices = [str(device) for device in ov.Core().available_devices]
    return {"version": ov.__version__.split("-")[0], "devices": devices}


def load(request: Fields) -> Model:
    """Read and compile the model at the signature's shapes."""
    return Model(request)


class Model:
    """A compiled model and an infer request."""

    def __init__(self, request: Fields) -> None:
        core = ov.Core()
        network = core.read_model(request["files"][0])
        ports = request["signature"]["inputs"]
        network.reshape({port["name"]: port["shape"] for port in ports if port["shape"] is not None})
        settings = {
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[request["precision"]],
            "PERF_COUNT": True,
        }
        device = request["device"] or "CPU"
        if device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = request["threads"]
        self._compiled = core.compile_model(network, device, settings)
        self._device = device
        self._device_name = str(core.get_property(device, "FULL_DEVICE_NAME"))
        self._request = self._compiled.create_infer_request()
        self._names = [port["name"] for port in request["signature"]["outputs"]]
        self._inputs: Arrays = {}

    def effective(self) -> Fields:
        """Precision as the plug-in says, and the kernels it ran once it has run."""
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return {
            "version": ov.__version__.split("-")[0],
            "provider": self._device,
            "precision": NAMES.get(hint, hint),
            "device": self._device_name,
            "kernels": sorted({row.exec_type for row in self._rows()}),
        }

    def _rows(self) -> list[Any]:
        try:
            return [row for row in self._request.profiling_info if row.real_time.total_seconds() > 0]
        except RuntimeError:  # nothing has run yet
            return []

    def bind(self, inputs: Arrays) -> None:
        """Arrays for the next run."""
        self._inputs = inputs

    def execute(self) -> None:
        """Run."""
        self._request.infer(self._inputs, share_inputs=True, share_outputs=True)

    def fetch(self) -> Arrays:
        """Outputs by their ONNX names; OpenVINO keeps their order."""
        tensors = [self._request.get_output_tensor(index) for index in range(len(self._names))]
        return {name: np.array(tensor.data) for name, tensor in zip(self._names, tensors)}

    def profile(self, runs: int) -> list[Fields]:
        """Times of what ran, the median over runs."""
        found: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(runs):
            self.execute()
            for row in self._rows():
                key = (row.node_name, row.node_type, row.exec_type)
                found.setdefault(key, []).append(row.real_time.total_seconds())
        return [
            {"name": name, "op_type": op_type, "kernel": kernel, "time_s": statistics.median(times)}
            for (name, op_type, kernel), times in found.items()
        ]
