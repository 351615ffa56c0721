"""Values that everything flows through: where a cut network can be compared with its original from the inside."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.evidence.matching import kept_channels
from shrinkc.shapes import Shadow
from shrinkc.training.distill import Feature

ACTIVATIONS = frozenset({"Relu", "Clip", "HardSwish", "Sigmoid", "LeakyRelu", "PRelu", "Gelu", "Elu", "Add", "Mul"})


def waypoints(graph: ir.Graph, shadow: Shadow) -> list[ir.Value]:
    """Computed values without which no later one is known: at their place in the order nothing else is alive.

    Inputs of the graph that are read again later do not count against a value only if there are none.
    """
    nodes = list(graph)
    last_use = {value: number for number, node in enumerate(nodes) for value in node.inputs if value is not None}
    found: list[ir.Value] = []
    alive: set[ir.Value] = {value for value in graph.inputs if value in last_use and not _is_stored(value)}
    for number, node in enumerate(nodes):
        alive = {value for value in alive if last_use[value] > number}
        alive |= {value for value in node.outputs if value in last_use and not _is_static(value, shadow)}
        if len(alive) == 1:
            found += [value for value in alive if value in node.outputs]
    return found


def _is_stored(value: ir.Value) -> bool:
    return value.is_initializer()


def _is_static(value: ir.Value, shadow: Shadow) -> bool:
    return bool(shadow[value].is_static)


def features_for(analysis: Analysis, is_kept: BoolArray, student: ir.Model, most: int, axis: int = 1) -> list[Feature]:
    """At most ``most`` values behind activations or joins, spread over the depth, with the channels that are left.

    They are the last of their stages, before the number of channels or positions changes; evenly spread if those are too many.
    """
    names = {value.name for node in student.graph for value in node.outputs}
    found = [
        (feature, analysis.shadow.shape(value))
        for value in waypoints(analysis.model.graph, analysis.shadow)
        if value.name in names and (feature := _feature(analysis, is_kept, value, axis)) is not None
    ]
    ends = [
        feature for number, (feature, shape) in enumerate(found) if number + 1 == len(found) or found[number + 1][1] != shape
    ]
    return _spread(ends, most)


def _feature(analysis: Analysis, is_kept: BoolArray, value: ir.Value, axis: int) -> Feature | None:
    shape, producer = analysis.shadow.shape(value), value.producer()
    if shape is None or len(shape) <= axis or producer is None or producer.op_type not in ACTIVATIONS:
        return None
    kept = kept_channels(analysis, is_kept, value, axis)
    if kept is None or not len(kept):
        return None
    return Feature(value.name or "", axis, None if len(kept) == shape[axis] else tuple(kept.tolist()))


def _spread(features: Sequence[Feature], most: int) -> list[Feature]:
    """The last one, and others evenly before it."""
    if len(features) <= most:
        return list(features)
    return [features[len(features) - 1 - number * len(features) // most] for number in reversed(range(most))]
