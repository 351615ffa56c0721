"""Predicted latency of a graph: the sum of its layers' times, as a function of the channels that stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from shrinkc.analysis.cost import Part, weight_axes
from shrinkc.analysis.flow import Work
from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.analysis.labels import Labels
from shrinkc.latency.layers import Layer, LayerSpec, layer_of
from shrinkc.latency.table import Rates

FREE = frozenset(
    {"BatchNormalization", "Cast", "Constant", "Dropout", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
)
"""Nodes that move nothing, or that engines fold into the layer before them."""

FUSED = frozenset({"Add", "Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"})
"""Nodes that engines carry out while the layer before them writes."""

FLOAT_BYTES = 4


class LayerTimes(Protocol):
    """Where seconds come from: a table, or a roofline."""

    @property
    def rates(self) -> Rates:
        """Seconds of work that no layer stands for."""

    def seconds(self, spec: LayerSpec, widths: tuple[int, ...]) -> float:
        """Seconds of a layer at some widths."""


@dataclass(frozen=True)
class Forecast:
    """Predicted latency of a graph.

    Attributes
    ----------
    parts : tuple of Part
        Seconds of every layer as a function of the classes that stay.
    by_node : mapping of ir.Node to int
        Number of the part a node has.
    times : LayerTimes
        Where the seconds of its layers come from.
    factor : float
        What they are multiplied by.
    """

    parts: tuple[Part, ...]
    by_node: Mapping[ir.Node, int]
    times: LayerTimes
    factor: float = 1.0

    def of(self, is_kept: BoolArray) -> float:
        """Seconds under one choice of kept classes."""
        return sum(part.under(is_kept) for part in self.parts)

    def scaled(self, factor: float) -> Forecast:
        """All times multiplied: what single layers add up to is not what a whole model takes."""
        parts = tuple(Part(part.classes, _times(part.under, factor)) for part in self.parts)
        return Forecast(parts, self.by_node, self.times, factor * self.factor)


def _times(seconds: Callable[[BoolArray], float], factor: float) -> Callable[[BoolArray], float]:
    return lambda is_kept: factor * seconds(is_kept)


def layers_of(analysis: Analysis) -> list[Layer]:
    """Layers of a graph that a table can know."""
    found = [layer_of(work.node, work.weight_index, analysis.shadow) for work in analysis.flow.work]
    return [layer for layer in found if layer is not None]


def forecast(analysis: Analysis, times: LayerTimes) -> Forecast:
    """Predicted latency of a graph from the times of its layers."""
    axes = weight_axes(analysis)
    parts: dict[ir.Node, Part] = {}
    for work in analysis.flow.work:
        layer = layer_of(work.node, work.weight_index, analysis.shadow)
        own = {} if work.weight_index is None else axes.get((work.node, work.weight_index), {})
        parts[work.node] = _work_part(analysis, work, own, times.rates) if layer is None else _layer_part(layer, own, times)
    for node in analysis.model.graph:
        if node not in parts and node.op_type not in FREE | FUSED:
            parts[node] = _traffic_part(analysis, node, times.rates)
    return Forecast(tuple(parts.values()), {node: number for number, node in enumerate(parts)}, times)


def _layer_part(layer: Layer, axes: Mapping[int, Labels], times: LayerTimes) -> Part:
    spec, whole = layer.spec, layer.widths
    labels = [axes.get(axis) for axis in _width_axes(spec)]
    known: dict[tuple[int, ...], float] = {}

    def seconds(is_kept: BoolArray) -> float:
        widths = tuple(
            width if own is None else round(width * int(is_kept[own].sum()) / len(own))
            for width, own in zip(whole, labels, strict=True)
        )
        if widths not in known:
            known[widths] = times.seconds(spec, widths)
        return known[widths]

    return Part(tuple(own for own in labels if own is not None), seconds)


def _width_axes(spec: LayerSpec) -> tuple[int, ...]:
    """Axes of the weight along which the widths lie, inputs first."""
    if spec.is_depthwise:
        return (0,)
    is_inputs_first = spec.op_type == "ConvTranspose" or (
        spec.op_type in ("Gemm", "MatMul") and not dict(spec.attributes).get("transB", 0)
    )
    return (0, 1) if is_inputs_first else (1, 0)


def _work_part(analysis: Analysis, work: Work, axes: Mapping[int, Labels], rates: Rates) -> Part:
    """Work of a kind that tables do not know, at the rate of a matrix product."""
    labels = (*axes.values(), *(analysis.classes[operand] for operand in work.operands))

    def seconds(is_kept: BoolArray) -> float:
        return rates.per_mac * work.macs * math.prod(float(is_kept[own].mean()) for own in labels)

    return Part(labels, seconds)


def _traffic_part(analysis: Analysis, node: ir.Node, rates: Rates) -> Part:
    """What a node reads and writes, at the rate of memory."""
    sizes = []
    for value in (*node.inputs, *node.outputs):
        shape = None if value is None else analysis.shadow.shape(value)
        if value is not None and shape is not None and not analysis.shadow[value].is_static:
            sizes.append((FLOAT_BYTES * math.prod(shape), analysis.classes_of(value)))

    def seconds(is_kept: BoolArray) -> float:
        return rates.per_byte * sum(size * (1.0 if own is None else float(is_kept[own].mean())) for size, own in sizes)

    return Part(tuple(own for _, own in sizes if own is not None), seconds)
