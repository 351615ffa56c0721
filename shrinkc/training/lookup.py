"""Finding an operator's builder: in the tables of the entry points ``shrinkc.torch_ops``, by opset version."""

from __future__ import annotations

from functools import cache

import onnx_ir as ir

from shrinkc import registry
from shrinkc.errors import PluginError
from shrinkc.training.ops.call import Builder, OpTable


@cache
def operators() -> OpTable:
    """Every operator's builders, third parties' included.

    Raises
    ------
    PluginError
        Two plug-ins bring the same operator.
    """
    found: OpTable = {}
    for name in registry.names("torch_ops"):
        table: OpTable = registry.load("torch_ops", name)
        for key in table.keys() & found.keys():
            raise PluginError("two plug-ins bring one operator", where=f"{key[0] or 'ai.onnx'}::{key[1]}", because=name)
        found.update(table)
    return found


def domain_of(node: ir.Node) -> str:
    """Domain of a node; the default one is empty."""
    return "" if node.domain == "ai.onnx" else node.domain


def builder_of(node: ir.Node, version: int) -> Builder | None:
    """Builder for a node at an opset version: the newest that is not newer; None if there is none."""
    by_version = operators().get((domain_of(node), node.op_type), {})
    held = [since for since in by_version if since <= version]
    return by_version[max(held)] if held else None
