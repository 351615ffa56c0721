"""TensorRT for RTX in a process of its own: it builds engines, and judges graphs, on machines without a graphics card."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import tensorrt_rtx as trt

if TYPE_CHECKING:
    Fields = dict[str, Any]

FILE = "model.engine"


def probe(request: Fields) -> Fields:
    """What can be imported here."""
    return {"version": trt.__version__}


class Log(trt.ILogger):  # type: ignore[misc]
    """Prints what the builder says, and keeps what is worse than a warning."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(message)
        elif severity == trt.ILogger.WARNING:
            self.warnings.append(message)


def supports(request: Fields) -> Fields:
    """What the parser says of every node.  It is one parser family, not a proof for TensorRT itself on another device."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    with open(request["model"], "rb") as stream:
        is_supported = parser.supports_model_v2(stream.read(), request["model"])
    refused = {row["index"]: row for row in _errors(parser)}
    return {
        "checker": "TensorRT-RTX parser",
        "verdicts": [*refused.values(), *(row for row in _partition(parser) if row["index"] not in refused)],
        "note": "" if is_supported else "nodes beside a refused one are not imported, so nothing more is known of them",
    }


def _errors(parser: Any) -> list[Fields]:
    return [_error(parser.get_error(index)) for index in range(parser.num_errors)]


def _error(error: Any) -> Fields:
    code = str(error.code()).rpartition(".")[2]
    return {"index": int(error.node()), "status": "unsupported", "reason": "{}: {}".format(code, error.desc())}


def _partition(parser: Any) -> list[Fields]:
    rows = []
    for index in range(parser.num_subgraphs):
        status = "supported" if parser.is_subgraph_supported(index) else "unknown"
        rows += [{"index": int(node), "status": status, "reason": ""} for node in parser.get_subgraph_nodes(index)]
    return rows


def convert(request: Fields) -> Fields:
    """Parse and build; a failure is a missing result, so the log says why."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["model"]):
        errors = [_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise NotImplementedError(
            "; ".join("{op_type} {node}: {reason}".format(**row) for row in errors) or "; ".join(log.errors)
        )
    config = builder.create_builder_config()
    wanted = request["options"].get("compute_capabilities", ("SM86", "SM89"))
    config.num_compute_capabilities = len(wanted)
    for index, name in enumerate(wanted):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise RuntimeError("the builder gave no engine: " + "; ".join(log.errors))
    with open(os.path.join(request["folder"], FILE), "wb") as stream:
        stream.write(blob)
    return {"files": [FILE], "warnings": log.warnings[:20], "details": {"compute_capabilities": list(wanted)}}


def load(request: Fields) -> Any:
    """Needs a driver, which deserialising asks for first."""
    log = Log()
    with open(request["files"][0], "rb") as stream:
        engine = trt.Runtime(log).deserialize_cuda_engine(stream.read())
    if engine is None:
        raise LookupError("the engine cannot be loaded: " + "; ".join(log.errors))
    raise NotImplementedError("running TensorRT-RTX engines is not written yet; build and verdict only")
