"""What TensorRT's parser says of every node, for the engines of that family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
from shrinkc.runtimes.isolated import IsolatedEngine
from shrinkc.runtimes.isolation import HERE, Child

from shrinkc.api import NodeVerdict, SupportReport
from shrinkc.ir import load


def verdicts(engine: IsolatedEngine, model: Path) -> SupportReport:
    """Ask the parser in a process of its own.

    Raises
    ------
    RuntimeUnavailable, BuildError
    """
    with Child(engine.backend, HERE) as child:
        answer, _ = child.request("call", {"function": "supports", "arguments": {"model": str(model.resolve())}})
    nodes = list(load(model).graph)
    found = tuple(_verdict(nodes, row) for row in answer["verdicts"])
    return SupportReport(answer["checker"], engine.version(), found, answer["note"])


def _verdict(nodes: list[ir.Node], row: dict[str, Any]) -> NodeVerdict:
    node = nodes[row["index"]] if row["index"] < len(nodes) else None
    name = "" if node is None else node.name or (node.outputs[0].name if node.outputs else "") or ""
    return NodeVerdict(name or str(row["index"]), "" if node is None else node.op_type, row["status"], row["reason"])
