"""What TensorRT and TensorRT for RTX have in common: strongly typed engines, built from ONNX with every size fixed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir
from shrinkc.runtimes.fixed_shapes import with_fixed_shapes
from shrinkc.runtimes.isolated import BACKENDS, IsolatedEngine
from shrinkc.runtimes.isolation import HERE, Child

from shrinkc.api import ConvertConfig, NodeVerdict, Signature, SupportReport
from shrinkc.errors import BuildError
from shrinkc.ir import load


class TensorRtFamily(IsolatedEngine):
    """An engine of the family.

    The precision is written into the model that is built, as strong typing wants it: float16 by onnxruntime's converter, inputs
    and outputs as they were; int8 and others by the Q and DQ nodes of the model itself.

    Attributes
    ----------
    options : mapping
        Of the builder, besides the caller's: ``timing_cache`` (path), ``workspace_bytes``, ``sparse_weights``,
        ``compute_capabilities``.
    """

    formats = ("engine",)
    backend = BACKENDS / "tensorrt_backend.py"
    options: ClassVar[dict[str, Any]] = {}

    def supports(self, model: Path) -> SupportReport:
        """What its parser says of every node.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """
        self.require()
        with self.converting_child() as child:
            arguments = {"model": child.place.bring(child, model), "module": self.modules[0]}
            answer, _ = child.request("call", {"function": "supports", "arguments": arguments})
        nodes = list(load(model).graph)
        found = tuple(_verdict(nodes, row) for row in answer["verdicts"])
        return SupportReport(f"{self.name} parser", self.version(), found, answer["note"])

    def converting_child(self) -> Child:
        """Where it will run: engines are built for the device at hand."""
        return Child(self.backend, self.place)

    def conversion(self, model: Path, folder: Path, signature: Signature, config: ConvertConfig) -> dict[str, Any]:
        """Arguments of the backend: sizes fixed, precision written in, options of the engine and the caller.

        Raises
        ------
        BuildError
            The precision cannot be written into the model.
        """
        typed = with_precision(with_fixed_shapes(model, signature, folder / "fixed.onnx"), config.precision, folder)
        options = {**self.options, **config.options, "module": self.modules[0]}
        return super().conversion(typed, folder, signature, replace(config, options=options))

    def examination(self) -> dict[str, Any]:
        """Arguments of the backend's ``probe``."""
        return {"module": self.modules[0]}


def with_precision(model: Path, precision: str, folder: Path) -> Path:
    """The model in another floating type; the model itself in float32.

    Raises
    ------
    BuildError
        There is no way to write that precision, or onnxruntime's converter fails.
    """
    if precision == "float32":
        return model
    if precision != "float16":
        raise BuildError("the precision cannot be written into the model", where=precision, because="only float16 can")
    target = folder / "float16.onnx"
    with Child(BACKENDS / "onnxruntime_backend.py", HERE) as child:
        child.request("call", {"function": "halve", "arguments": {"model": str(model.resolve()), "target": str(target)}})
    return target


def _verdict(nodes: list[ir.Node], row: dict[str, Any]) -> NodeVerdict:
    node = nodes[row["index"]] if row["index"] < len(nodes) else None
    name = "" if node is None else node.name or (node.outputs[0].name if node.outputs else "") or ""
    return NodeVerdict(name or str(row["index"]), "" if node is None else node.op_type, row["status"], row["reason"])
