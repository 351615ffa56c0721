"""The executor as an ``onnx.backend``, so that onnx's own test suite can judge it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.backend.base import Backend, BackendRep
from torch import Tensor

from shrinkc.training.executor import Executor
from shrinkc.training.ops.tensors import CARRIERS, from_array, to_array


class TorchRep(BackendRep):
    """A model that is ready to run on arrays."""

    def __init__(self, executor: Executor, device: torch.device) -> None:
        self.executor, self.device = executor.to(device).eval(), device
        self.kinds = {value.name: value.dtype for value in executor.write_back().graph.outputs}

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """Outputs for inputs in the order of the graph.

        Parameters
        ----------
        inputs : sequence of ndarray, list (an ONNX sequence) or None (an empty optional)

        Returns
        -------
        tuple of ndarray, list or None
        """
        given = {name: self._tensor(value) for name, value in zip(self.executor.input_names, inputs, strict=False)}
        with torch.no_grad():
            found = self.executor(given)
        return tuple(self._array(name, found[name]) for name in self.executor.output_names)

    def _array(self, name: str, value: Any) -> Any:
        """Array of an output; torch holds one of a few bits in a wider type."""
        array, kind = _array(value), self.kinds.get(name)
        return array.astype(kind.numpy()) if kind in CARRIERS else array

    def _tensor(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list | tuple):
            return [self._tensor(item) for item in value]
        return from_array(np.asarray(value)).to(self.device)


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return to_array(value)
    return [_array(item) for item in value] if isinstance(value, Sequence) else value


class TorchBackend(Backend):
    """What ``onnx.backend.test`` asks of a backend."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> TorchRep:
        """Make a model ready; nothing of it is trainable.

        Raises
        ------
        UnsupportedGraphError
            Torch has no function for an operator, or no such element type.
        """
        executor = Executor(ir.from_proto(model), is_trainable=lambda value: False)
        return TorchRep(executor, torch.device(device.lower()))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU always, CUDA where torch finds it."""
        return device == "CPU" or (device == "CUDA" and torch.cuda.is_available())


prepare = TorchBackend.prepare
supports_device = TorchBackend.supports_device
run_model = TorchBackend.run_model
