"""onnxruntime in a process of its own: any execution provider, and a look at which one it really took."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]


def probe(request: Fields) -> Fields:
    """What can be imported here."""
    return {"version": ort.__version__, "devices": ort.get_available_providers()}


def supports(request: Fields) -> Fields:
    """What onnxruntime's own checker says of the accelerators of phones, which are not here to be tried."""
    from onnxruntime.tools.mobile_helpers import usability_checker

    lines: list[str] = []
    logger = logging.getLogger("usability")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.handlers, logger.level, logger.propagate = [handler], logging.INFO, False
    usability_checker.analyze_model(pathlib.Path(request["model"]), logger=logger)
    return {"note": "; ".join(usability(lines))}


def usability(lines: list[str]) -> list[str]:
    """Last verdict of every accelerator, with what it cannot do: ``CoreML NeuralNetwork: MAYBE (no ai.onnx:ReduceMean)``."""
    found: dict[str, str] = {}
    lacking = ""
    for line in lines:
        if "Unsupported ops:" in line:
            lacking = line.split("Unsupported ops:")[1].strip()
        if line.startswith("Model should perform well with "):
            who, verdict = line[len("Model should perform well with ") :].rsplit(": ", 1)
            name = who.replace(" as is", "").replace(" if modified to have fixed input shapes", "")
            found[name] = "{}: {}{}".format(name, verdict, " (no {})".format(lacking) if lacking else "")
            lacking = ""
    return list(found.values())


def convert(request: Fields) -> Fields:
    """Write onnxruntime's own format, and the list of operators that a build for it must have."""
    from onnxruntime.tools import convert_onnx_models_to_ort as tool

    folder = pathlib.Path(request["folder"])
    source = folder / "model.onnx"
    if source != pathlib.Path(request["model"]):
        shutil.copyfile(request["model"], source)
    styles = [tool.OptimizationStyle.Fixed]
    tool.convert_onnx_models_to_ort(source, folder, styles)
    source.unlink()
    config = next(folder.glob("*required_operators*.config"))
    operators = [line for line in config.read_text().splitlines() if line and not line.startswith("#")]
    details = {"provider": "CPUExecutionProvider", "required_operators": operators}
    return {"files": ["model.ort", config.name], "details": details}


def halve(request: Fields) -> Fields:
    """Write the model in float16, inputs and outputs as they were, with casts where an operator wants float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(request["model"])
    onnx.save(convert_float_to_float16(model, keep_io_types=True), request["target"])
    return {}


def load(request: Fields) -> Model:
    """Make a session on the provider that ``details`` names, refusing any other."""
    return Model(request)


def session(request: Fields, profile_prefix: str = "") -> Any:
    """A session, with a profile to be written if a prefix is given."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = request["threads"], 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if request["is_spinning"] else "0")
    if profile_prefix:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
    provider = request["details"]["provider"]
    settings = request["details"].get("provider_options", {})
    return ort.InferenceSession(request["files"][0], options, providers=[(provider, settings)])


def refuse_fallback(wanted: str, made: Any) -> None:
    """Refuse another provider: onnxruntime falls back to the CPU without a word."""
    found = made.get_providers()[0]
    if found != wanted:
        raise LookupError(f"{wanted} was asked for, onnxruntime fell back to {found}")


class Model:
    """A session and the arrays of its last run."""

    def __init__(self, request: Fields) -> None:
        self._request = request
        self._session = session(request)
        refuse_fallback(request["details"]["provider"], self._session)
        self._names = [output.name for output in self._session.get_outputs()]
        self._inputs: Arrays = {}
        self._outputs: list[Any] = []

    def effective(self) -> Fields:
        """Provider, version, and the type that the provider was told to compute in."""
        precision = self._request["details"].get("precision", "float32")
        return {"version": ort.__version__, "provider": self._session.get_providers()[0], "precision": precision}

    def bind(self, inputs: Arrays) -> None:
        """Arrays for the next run."""
        self._inputs = inputs

    def execute(self) -> None:
        """Run."""
        self._outputs = self._session.run(self._names, self._inputs)

    def fetch(self) -> Arrays:
        """Outputs by name."""
        return {name: np.asarray(found) for name, found in zip(self._names, self._outputs)}

    def profile(self, runs: int) -> list[Fields]:
        """Kernel times by node after fusion, the median over runs; a session of its own, for profiling slows it down."""
        profiled = session(self._request, "profile")
        for _ in range(runs + 1):
            profiled.run(self._names, self._inputs)
        file = profiled.end_profiling()
        with open(file, encoding="utf-8") as stream:
            events = json.load(stream)
        os.remove(file)
        return layers(events)


def layers(events: list[Fields]) -> list[Fields]:
    """Rows of a Chrome trace, one a node, in the order they ran; the first run warms up."""
    times: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            arguments = event["args"]
            key = (name[: -len("_kernel_time")], arguments.get("op_name", ""), arguments.get("provider", ""))
            times.setdefault(key, []).append(event["dur"] / 1e6)
    return [
        {"name": name, "op_type": op_type, "kernel": provider, "time_s": statistics.median(found[1:] or found)}
        for (name, op_type, provider), found in times.items()
    ]
