"""Which nodes of the ONNX model an engine's layer comes from, by its name: engines keep names, and add to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from shrinkc.api import LayerTime
from shrinkc.ir import load


def node_names(model: Path) -> dict[str, str]:
    """Name of the node (of its first output, if it has none) by that name and by the names of its outputs."""
    names: dict[str, str] = {}
    for node in load(model).graph:
        outputs = [value.name for value in node.outputs if value.name]
        name = node.name or (outputs[0] if outputs else "")
        names.update({key: name for key in (name, *outputs) if key})
    return names


def with_sources(layers: Sequence[LayerTime], names: Mapping[str, str]) -> tuple[LayerTime, ...]:
    """Layers with the node each is named after; those whose engine told its nodes itself stay as they are."""
    return tuple(layer if layer.sources else replace(layer, sources=source_of(layer.name, names)) for layer in layers)


def source_of(layer: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """The node whose name, or the name of whose output, the layer's starts with; nothing if there is none.

    Fused layers carry the name of one of their nodes only (onnxruntime: the last, OpenVINO: the first), so one is all that can
    be told.

    Examples
    --------
    >>> source_of("/a/Relu_output_0_nchwc", {"/a/Conv": "/a/Conv", "/a/Relu_output_0": "/a/Relu"})
    ('/a/Relu',)
    >>> source_of("conv10", {"conv1": "conv1"})
    ()
    """
    if layer in names:
        return (names[layer],)
    begun = [key for key in names if layer.startswith(key) and not layer[len(key)].isalnum()]
    return (names[max(begun, key=len)],) if begun else ()
