"""Units: outputs of a layer with the affine map behind it, up to an activation that a positive factor passes through.

A unit is its incoming weights and its bias; a BatchNormalization and stored factors and summands behind the layer count as
part of both.  If one unit's numbers are ``c > 0`` times another's, so is what it gives, and what every average or maximum over
positions makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.flow import Blocked
from shrinkc.analysis.labels import Labels, along
from shrinkc.analysis.node_moves import MOVES
from shrinkc.api import FloatArray
from shrinkc.evidence.sites import Site
from shrinkc.shapes import Shadow

HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "Identity", "Dropout", "PRelu"})
"""Element by element, with f(c x) = c f(x) for c > 0."""

POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"})

REARRANGEMENTS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})


@dataclass(frozen=True, eq=False)
class Units:
    """The units behind the channels of a value.

    Attributes
    ----------
    numbers : ndarray of shape (units, columns + 1), float64
        Incoming weights, then the bias.
    kind : ndarray of shape (units,), int64
        Only units of a kind can stand for each other: those that read the same inputs and are activated alike.
    of_channel : ndarray of shape (channels,), int64
        Unit behind every channel of the value.
    """

    numbers: FloatArray
    kind: Labels
    of_channel: Labels


class _Growing:
    """What is known of the units while the way from the layer is followed."""

    def __init__(self, site: Site, shadow: Shadow) -> None:
        self._shadow = shadow
        self._axis, self._rank = site.channel_axis, len(shadow.shape(site.output) or ())
        self.weight = site.matrix().reshape(site.outputs, -1)
        self.bias = site.bias().reshape(-1)
        self.slope: FloatArray = np.zeros(site.outputs)
        self.group = np.repeat(np.arange(site.groups), site.outputs // site.groups)
        self.labels = along(np.arange(site.outputs), self._axis % self._rank, self._rank)
        self._is_affine, self._is_moved = True, False

    def follow(self, node: ir.Node, value: ir.Value) -> None:
        """Go through a node that reads ``value``.

        Raises
        ------
        Blocked
            A positive factor does not pass through it.
        """
        if node.domain not in ("", "ai.onnx"):
            raise Blocked("it is not a standard operator")
        if self._is_affine and node.op_type in ("BatchNormalization", "Add", "Mul"):
            self._scale_and_shift(node, value)
            return
        self._is_affine = self._is_affine and node.op_type in ("Identity", "Dropout")
        if node.op_type == "PRelu":
            self.slope = self._across(node.inputs[1])
        if node.op_type in REARRANGEMENTS:
            self.labels, self._is_moved = MOVES[node.op_type](self._shadow, node, self.labels), True
        elif node.op_type not in HOMOGENEOUS | POOLS:
            raise Blocked(f"a factor does not pass through {node.op_type}")

    def _scale_and_shift(self, node: ir.Node, value: ir.Value) -> None:
        if node.op_type == "BatchNormalization":
            gain, shift = self._normalization(node)
        else:
            other = self._across(node.inputs[1 if node.inputs[0] is value else 0])
            gain, shift = (other, np.zeros(1)) if node.op_type == "Mul" else (np.ones(1), other)
        self.weight, self.bias = self.weight * gain[:, None], self.bias * gain + shift

    def _normalization(self, node: ir.Node) -> tuple[FloatArray, FloatArray]:
        scale, shift, mean, variance = (_stored(value) for value in node.inputs[1:5])
        epsilon = node.attributes.get("epsilon")
        gain = scale / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
        return gain, shift - mean * gain

    def _across(self, value: ir.Value | None) -> FloatArray:
        """A stored tensor that meets the layer's output, as one number a unit."""
        stored = _stored(value)
        sizes = [1] * (self._rank - stored.ndim) + list(stored.shape)
        if self._is_moved or stored.size not in (1, sizes[self._axis]):
            raise Blocked("it is not one number a unit")
        return np.broadcast_to(stored.reshape(-1), self.bias.shape)


def _stored(value: ir.Value | None) -> FloatArray:
    if value is None or shrinkc_ir.constant_tensor(value) is None:
        raise Blocked("it is not stored")
    array: FloatArray = shrinkc_ir.stored_array(value).astype(np.float64)
    return array


def units_of(value: ir.Value, axis: int, sites: Mapping[str, Site], shadow: Shadow) -> Units | None:
    """Units behind the channels of a value; None where something else lies between the layer and it.

    Parameters
    ----------
    value : ir.Value
    axis : int
        Its channels' axis.
    sites : mapping of output name to Site
    shadow : Shadow
        Of the value's graph.
    """
    steps: list[tuple[ir.Node, ir.Value]] = []
    end = value
    while (site := sites.get(value.name or "")) is None:
        node = value.producer()
        before = (
            None if node is None else next((own for own in node.inputs if own is not None and not shadow[own].is_static), None)
        )
        if node is None or before is None:
            return None
        steps.insert(0, (node, before))
        value = before
    growing = _Growing(site, shadow)
    try:
        for node, before in steps:
            growing.follow(node, before)
    except Blocked:
        return None
    return _units(growing, end, axis, shadow)


def _units(grown: _Growing, value: ir.Value, axis: int, shadow: Shadow) -> Units | None:
    shape = shadow.shape(value) or ()
    rows = np.moveaxis(grown.labels, axis, -1).reshape(-1, grown.labels.shape[axis])
    if (rows != rows[0]).any() or math.prod(shape) == 0:
        return None
    numbers = np.concatenate([grown.weight, grown.bias[:, None]], 1)
    _, kind = np.unique(np.stack([grown.group, grown.slope], 1), axis=0, return_inverse=True)
    return Units(numbers, kind.reshape(-1), np.broadcast_to(rows[0], (shape[axis],)))
