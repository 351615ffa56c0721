"""onnxruntime on the CPU: the reference every other engine is compared with, in this process or in one of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shrinkc.runtimes.isolated import BACKENDS
from shrinkc.runtimes.onnx_files import OnnxEngine

from shrinkc.api import ConvertConfig, Effective, RunConfig
from shrinkc.errors import BuildError

PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeCpu(OnnxEngine):
    """Adapter for onnxruntime's CPU execution provider; :meth:`load` runs it in this process, :meth:`open` in its own."""

    name = "onnxruntime-cpu"
    backend = BACKENDS / "onnxruntime_backend.py"
    distributions = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
    modules = ("onnxruntime",)
    hint = "pip install onnxruntime"

    def details(self, config: ConvertConfig) -> dict[str, object]:
        """Name the provider."""
        return {"provider": PROVIDER}

    def load(self, model: Path | bytes, config: RunConfig) -> OnnxRuntimeSession:
        """Load a model; ``threads=0`` leaves the number to onnxruntime.

        Raises
        ------
        RuntimeUnavailable
            onnxruntime is not installed.
        BuildError
            It refuses the model.
        """
        self.require()
        return OnnxRuntimeSession(model, config)


class OnnxRuntimeSession:
    """A model loaded by onnxruntime."""

    def __init__(self, model: Path | bytes, config: RunConfig) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads, options.inter_op_num_threads = config.threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning threads burn the other model's time on a shared machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if config.is_spinning else "0")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime has a type of its own for every way to refuse
            raise BuildError("onnxruntime refuses the model", because=str(error)[:400]) from error
        self._config = config
        self._version = onnxruntime.__version__
        self._outputs = [output.name for output in self._session.get_outputs()]

    def effective(self) -> Effective:
        """What the session really runs on."""
        provider = self._session.get_providers()[0]
        return Effective("onnxruntime", self._version, provider, "float32", self._config.threads, self._config.is_spinning)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        results = self._session.run(self._outputs, dict(inputs))
        return {name: np.asarray(result) for name, result in zip(self._outputs, results, strict=True)}
