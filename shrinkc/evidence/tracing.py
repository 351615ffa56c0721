"""Which outputs of a layer lie where in a value further on, as long as they are only moved and multiplied by numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.flow import Blocked
from shrinkc.analysis.labels import Labels, along
from shrinkc.analysis.node_moves import MOVES, run_of
from shrinkc.evidence.sites import Intercept, Site
from shrinkc.shapes import Shadow


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a value comes from.

    Attributes
    ----------
    site : Site
    outputs : ndarray of int64 of the value's shape
        Output of the site behind every entry.
    """

    site: Site
    outputs: Labels

    def heads(self, positions_axis: int) -> Labels | None:
        """Outputs by matrix and dim, ``(..., dims)``; None if they differ from position to position, or heads overlap."""
        outputs = np.moveaxis(self.outputs, positions_axis, 0)
        if self.site.groups > 1 or (outputs != outputs[0]).any():
            return None
        rows: Labels = outputs[0]
        distinct = np.unique(rows.reshape(-1, rows.shape[-1]), axis=0)
        return rows if len(np.unique(distinct)) == distinct.size else None


def origin_of(value: ir.Value, sites: Mapping[str, Site], shadow: Shadow) -> Origin | None:
    """The layer whose outputs a value is made of; None if they are more than moved, or somebody else reads them too.

    Parameters
    ----------
    value : ir.Value
        Read by one node.
    sites : mapping of output name to Site
    shadow : Shadow
        Of the graph that both belong to.
    """
    shape = shadow.shape(value)
    way = _way_to(value, sites, shadow)
    if way is None or shape is None or len(_readers(value)) != 1:
        return None
    site, steps = way
    rank = len(shadow.shape(site.output) or ())
    first = along(np.arange(site.outputs), site.channel_axis % rank, rank)
    try:
        outputs, others = _follow(site.output, first, steps, shadow, site.intercept)
    except Blocked:
        return None
    is_shared = value.is_graph_output() or np.isin(outputs, others).any()
    return None if is_shared else Origin(site, np.broadcast_to(outputs, shape))


def carried(source: ir.Value, labels: Labels, target: ir.Value, shadow: Shadow) -> Labels | None:
    """Where labels of one value lie in another one; None if it is more than moved on the way, or somebody else reads it.

    Parameters
    ----------
    source, target : ir.Value
    labels : ndarray of int64
        Can be broadcast to the shape of ``source``.
    shadow : Shadow
        Of the graph that both belong to.
    """
    steps: list[ir.Value] = []
    value = target
    while value is not source:
        node = value.producer()
        before = None if node is None else _data(node, shadow)
        if before is None:
            return None
        steps.insert(0, value)
        value = before
    shape = shadow.shape(target)
    try:
        found, others = _follow(source, labels, steps, shadow, None)
    except Blocked:
        return None
    is_shared = target.is_graph_output() or others.size > 0 or len(_readers(target)) != 1
    return None if is_shared or shape is None else np.broadcast_to(found, shape)


def obstacle_to(value: ir.Value, sites: Mapping[str, Site], shadow: Shadow) -> str:
    """What stands between a value and the layer it is made by, where that is more than moving; for reports."""
    seen = value
    while seen.name not in sites:
        node = seen.producer()
        if node is None:
            return "it is made by no layer"
        before = _data(node, shadow)
        label = f"{node.op_type} {node.name or node.outputs[0].name or ''}".strip()
        if before is None:
            return f"{label} stands in between"
        if node.op_type in ("Mul", "Div") and not any(_is_number(operand, shadow) for operand in node.inputs):
            return f"{label} multiplies by more than one number"
        if node.op_type not in _MOVING and node.op_type not in MOVES and not _adds_bias(node, sites):
            return f"{label} stands in between"
        seen = before
    return "its layer is read by others too"


_MOVING = frozenset({"Split", "Identity", "Cast", "Dropout", "Mul", "Div"})


def _adds_bias(node: ir.Node, sites: Mapping[str, Site]) -> bool:
    makers = [sites.get(value.name or "") for value in node.inputs if value is not None]
    return node.op_type == "Add" and any(
        site is not None and site.intercept is not None and site.intercept.tensor in node.inputs for site in makers
    )


def _way_to(value: ir.Value, sites: Mapping[str, Site], shadow: Shadow) -> tuple[Site, list[ir.Value]] | None:
    """The layer, and every value after its output up to the given one."""
    steps: list[ir.Value] = []
    while (site := sites.get(value.name or "")) is None:
        node = value.producer()
        before = None if node is None else _data(node, shadow)
        if before is None:
            return None
        steps.insert(0, value)
        value = before
    return site, steps


def _data(node: ir.Node, shadow: Shadow) -> ir.Value | None:
    """The one input of a node that is data, and no stored tensor, size or number."""
    if node.op_type in MOVES or node.op_type == "Split":
        return node.inputs[0]
    found = [
        value for value in node.inputs if value is not None and not _is_number(value, shadow) and not shadow[value].is_static
    ]
    return found[0] if len(found) == 1 else None


def _is_number(value: ir.Value | None, shadow: Shadow) -> bool:
    shape = shadow.shape(value)
    return shape is not None and math.prod(shape) == 1


def _follow(
    source: ir.Value, labels: Labels, steps: Sequence[ir.Value], shadow: Shadow, intercept: Intercept | None
) -> tuple[Labels, Labels]:
    """Labels of the first value in the last of some values after it, and those that others read on the way there.

    Raises
    ------
    Blocked
        They are more than moved; adding the intercept does not count.
    """
    value = source
    others = [np.empty(0, np.int64)]
    for step in steps:
        others += [read.reshape(-1) for read in _read_by_others(value, labels, step.producer(), shadow)]
        value, labels = step, _passed_on(labels, step, shadow, intercept)
    return labels, np.concatenate(others)


def _read_by_others(value: ir.Value, labels: Labels, own: ir.Node | None, shadow: Shadow) -> Iterator[Labels]:
    if value.is_graph_output():
        yield labels
    for node in _readers(value):
        if node is not own:
            is_part = node.op_type in MOVES and node.inputs[0] is value
            yield MOVES[node.op_type](shadow, node, labels) if is_part else labels


def _readers(value: ir.Value) -> list[ir.Node]:
    return [usage.node for usage in value.uses() if usage.node.op_type not in ("Shape", "Size")]


def _passed_on(labels: Labels, output: ir.Value, shadow: Shadow, intercept: Intercept | None) -> Labels:
    node = output.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        raise Blocked("it is not a standard operator")
    if node.op_type in MOVES:
        return MOVES[node.op_type](shadow, node, labels)
    if node.op_type == "Split":
        return run_of(shadow, node, output, labels)
    if node.op_type in ("Identity", "Cast", "Dropout"):
        return labels
    if node.op_type == "Mul" or (node.op_type == "Div" and not _is_number(node.inputs[0], shadow)):
        if any(_is_number(value, shadow) for value in node.inputs):
            return labels
    elif node.op_type == "Add" and intercept is not None and intercept.tensor in node.inputs:
        return labels
    raise Blocked(f"{node.op_type} does more than moving")
