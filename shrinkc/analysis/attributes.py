"""Typed reading of node attributes, with the operator's defaults."""

from __future__ import annotations

import onnx_ir as ir


def int_of(node: ir.Node, name: str, default: int) -> int:
    """Integer attribute or ``default``."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def ints_of(node: ir.Node, name: str) -> list[int] | None:
    """List-of-integers attribute, None if absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else [int(item) for item in attribute.as_ints()]


def string_of(node: ir.Node, name: str, default: str) -> str:
    """String attribute or ``default``."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index`` of a node, None if it is absent or empty."""
    return node.inputs[index] if index < len(node.inputs) else None
