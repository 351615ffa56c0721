"""What happens to a layer's output next: scales and shifts, a shortcut added, a rectifier."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at
from shrinkc.api import FloatArray
from shrinkc.evidence.sites import Site
from shrinkc.shapes import Shadow

SMALLEST_GAIN = 1e-3
"""Share of the largest gain below which a layer cannot make up for a shortcut's error."""


@dataclass(frozen=True, eq=False)
class Ending:
    """From a layer's output ``z`` to ``clip(gain * z + shift + other, low, high)``.

    Attributes
    ----------
    gain, shift : ndarray of shape (outputs,), float64
    other : str or None
        Value that is added, a shortcut.
    low, high : float or None
        What a rectifier cuts off; None where nothing is.
    """

    gain: FloatArray
    shift: FloatArray
    other: str | None = None
    low: float | None = None
    high: float | None = None

    @property
    def inverse_gain(self) -> FloatArray:
        """``1 / gain``; zero where the gain is too small for the layer to make up for anything behind it."""
        sizes = np.abs(self.gain)
        is_usable = sizes > SMALLEST_GAIN * sizes.max(initial=0)
        return np.where(is_usable, 1, 0) / np.where(is_usable, self.gain, 1)

    def cuts(self, other: FloatArray | float, axis: int, rank: int) -> tuple[FloatArray, FloatArray]:
        """Outputs below and above which everything is cut off, broadcastable to the output; infinite where nothing is.

        Parameters
        ----------
        other : ndarray of the output's shape, or 0
            The shortcut that is added.
        axis, rank : int
            Where the channels lie in the output.
        """
        along = [1] * rank
        along[axis] = len(self.gain)
        inverse, shift = self.inverse_gain.reshape(along), self.shift.reshape(along)
        low, high = (
            np.full_like(shift, edge) if limit is None else (limit - shift - other) * inverse
            for limit, edge in ((self.low, -np.inf), (self.high, np.inf))
        )
        low_edge, high_edge = (-np.inf if self.high is None else high), (np.inf if self.low is None else low)
        below = np.where(inverse > 0, low, np.where(inverse < 0, low_edge, -np.inf))
        above = np.where(inverse > 0, high, np.where(inverse < 0, high_edge, np.inf))
        return below, above

    @property
    def is_rectified(self) -> bool:
        """Whether a rectifier follows."""
        return self.low is not None or self.high is not None


def ending_of(site: Site, shadow: Shadow) -> Ending:
    """Follow a layer's output as long as it has one reader."""
    ending = Ending(np.ones(site.outputs), np.zeros(site.outputs))
    value = site.output
    while len(users := list(value.uses())) == 1 and not value.is_graph_output():
        node, index = users[0].node, users[0].idx
        following = _after(ending, node, index, site, shadow)
        if following is None:
            return ending
        ending, value = following, node.outputs[0]
        if ending.is_rectified:
            return ending
    return ending


def _after(ending: Ending, node: ir.Node, index: int, site: Site, shadow: Shadow) -> Ending | None:
    """The ending with one more node in it; None if the node is something else."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Identity", "Dropout"):
        return ending
    if node.op_type == "Relu":
        return replace(ending, low=0.0)
    if node.op_type == "Clip":
        return _clipped(ending, node, shadow)
    if node.op_type == "BatchNormalization" and index == 0:
        return _normalised(ending, node)
    if node.op_type not in ("Add", "Mul"):
        return None
    other = node.inputs[1 - index]
    if node.op_type == "Add" and other is not None and not shadow[other].is_static:
        return replace(ending, other=other.name) if ending.other is None else None
    constant = _per_channel(other, site)
    if constant is None or (node.op_type == "Mul" and ending.other is not None):
        return None
    if node.op_type == "Add":
        return replace(ending, shift=ending.shift + constant)
    return replace(ending, gain=ending.gain * constant, shift=ending.shift * constant)


def _clipped(ending: Ending, node: ir.Node, shadow: Shadow) -> Ending | None:
    limits = []
    for place, name in ((1, "min"), (2, "max")):
        attribute, known = node.attributes.get(name), shadow[input_at(node, place)].value
        limits.append(float(known) if known is not None else None if attribute is None else attribute.as_float())
    return replace(ending, low=limits[0], high=limits[1])


def _normalised(ending: Ending, node: ir.Node) -> Ending | None:
    stored = [None if value is None else shrinkc_ir.constant_tensor(value) for value in node.inputs[1:5]]
    if ending.other is not None or any(tensor is None for tensor in stored):
        return None
    scale, shift, mean, variance = (shrinkc_ir.contents(tensor).astype(np.float64) for tensor in stored if tensor is not None)
    epsilon = node.attributes.get("epsilon")
    factor = scale / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    return replace(ending, gain=ending.gain * factor, shift=(ending.shift - mean) * factor + shift)


def _per_channel(value: ir.Value | None, site: Site) -> FloatArray | None:
    tensor = None if value is None else shrinkc_ir.constant_tensor(value)
    if tensor is None or tensor.size not in (1, site.outputs):
        return None
    return np.broadcast_to(shrinkc_ir.contents(tensor).astype(np.float64).reshape(-1), (site.outputs,))
