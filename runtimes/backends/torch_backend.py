"""The graph as a torch module, run by torch; needs shrinkc itself in its process, as the executor is shrinkc's."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]


def probe(request: Fields) -> Fields:
    """What can be imported here."""
    importlib.import_module("shrinkc.training.executor")
    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"version": torch.__version__, "devices": ["CPU", *cards]}


def load(request: Fields) -> Model:
    """Make the module on the device asked for."""
    return Model(request)


class Model:
    """A module in evaluation mode, and the tensors of its last run."""

    def __init__(self, request: Fields) -> None:
        executor = importlib.import_module("shrinkc.training.executor")
        reading = importlib.import_module("shrinkc.ir")
        self._device = torch.device(request["details"]["device"])
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise LookupError("torch finds no CUDA device")
        if request["threads"]:
            torch.set_num_threads(request["threads"])
        self._type = getattr(torch, request["precision"])
        self._ports = request["signature"]
        module = executor.Executor(reading.load(request["files"][0])).eval()
        self._module = module.to(self._device).to(self._type) if self._type != torch.float32 else module.to(self._device)
        self._inputs: dict[str, torch.Tensor] = {}
        self._found: dict[str, torch.Tensor] = {}

    def effective(self) -> Fields:
        """Device and type."""
        is_card = self._device.type == "cuda"
        return {
            "version": torch.__version__,
            "provider": self._device.type,
            "precision": str(self._type).replace("torch.", ""),
            "device": torch.cuda.get_device_name(self._device) if is_card else "CPU",
        }

    def bind(self, inputs: Arrays) -> None:
        """Tensors on the device, floats in the type asked for."""
        self._inputs = {name: self._tensor(array) for name, array in inputs.items()}

    def _tensor(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array)).to(self._device)
        return tensor.to(self._type) if tensor.dtype == torch.float32 else tensor

    def execute(self) -> None:
        """Run without gradients, to the end."""
        with torch.inference_mode():
            self._found = self._module(self._inputs)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def fetch(self) -> Arrays:
        """Outputs by name, in the types of the ONNX model."""
        found = {}
        for port in self._ports["outputs"]:
            tensor = self._found[port["name"]].cpu()
            tensor = tensor.float() if tensor.is_floating_point() else tensor
            found[port["name"]] = tensor.numpy().astype(port["dtype"], copy=False)
        return found

    def profile(self, runs: int) -> list[Fields]:
        """Own times of torch's operators, all their calls of one run together; torch does not tell which node they are of."""
        self.execute()
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as recorded:
            for _ in range(runs):
                self.execute()
        attribute = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        rows = [(event.key, getattr(event, attribute) / 1e6 / runs) for event in recorded.key_averages()]
        return [{"name": key, "op_type": key, "time_s": time} for key, time in rows if time > 0]
