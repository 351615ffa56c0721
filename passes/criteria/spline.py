"""Redundant boundaries: units whose hyperplanes nearly coincide.

After You, Balestriero and others. Max-Affine Spline Insights Into Deep Network Pruning. TMLR 2022.  A unit ``w x + b`` in front
of a ReLU cuts the input space along a hyperplane; two with nearly the same one cut it no finer than one.  The distance of a
pair is ``1 - |cos(w, w')| + BIAS |b/|w| - b'/|w'||``; again and again, of the closest pair the unit with the smaller norm goes.

Biases are those of the producing layer, with a BatchNormalization or an addition right behind it folded in.  Differs: several
producers of a group are one layer with their inputs side by side and their biases added, as for a sum; the
formula is this project's reading of the paper, whose code does not hold it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from scipy.spatial.distance import cdist

from shrinkc.api import Evidence, FloatArray, Group, Member, Role, Weights
from shrinkc.evidence.ordering import Removals
from shrinkc.evidence.producers import producers, reader_of, slices

BIAS = 0.1
"""Weight of the distance of biases."""

EPSILON = 1e-5
"""Of a BatchNormalization that names none."""


class Spline:
    """Distance of the pair that costs a position its place; compared within a group only."""

    name = "spline"
    needs_evidence = False
    is_comparable = False

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        rows, biases = boundaries(group, weights)
        return merged(distances(rows, biases), np.linalg.norm(rows, axis=1)).scores()


def boundaries(group: Group, weights: Weights) -> tuple[FloatArray, FloatArray]:
    """Normals and offsets of a group's units.

    Returns
    -------
    rows : ndarray of shape (width, inputs), float64
    biases : ndarray of shape (width, channels per position), float64
    """
    layers = [_folded(member, group, weights) for member in producers(group)]
    biases = np.zeros((group.width, max(bias.shape[1] for _, bias in layers)))
    for _, bias in layers:
        biases[:, : bias.shape[1]] += bias
    return np.concatenate([rows.reshape(group.width, -1) for rows, _ in layers], axis=1), biases


def distances(rows: FloatArray, biases: FloatArray) -> FloatArray:
    """Distances of the boundaries of all pairs of units, shape ``(width, width)``: symmetric, infinite on the diagonal.

    A unit without weights cuts nothing: it lies at no distance from any other.
    """
    norms = np.linalg.norm(rows, axis=1)[:, None]
    is_dead = norms[:, 0] <= np.finfo(np.float32).eps * norms.max(initial=0.0)
    safe = np.where(is_dead[:, None], 1.0, norms)
    cosines = np.abs((rows / safe) @ (rows / safe).T)
    result: FloatArray = np.maximum(1 - cosines, 0.0) + BIAS * cdist(biases / safe, biases / safe)
    result[is_dead] = 0
    result[:, is_dead] = 0
    np.fill_diagonal(result, np.inf)
    return result


def merged(distance: FloatArray, norms: FloatArray) -> Removals:
    """Take the smaller unit of the closest pair away, again and again.

    Parameters
    ----------
    distance : ndarray of shape (width, width)
        See :func:`distances`.
    norms : ndarray of shape (width,)

    Returns
    -------
    Removals
        Each costs the distance of its pair; the last one, which has no pair, as much as the one before.
    """
    left = distance.copy()
    nearest = left.argmin(1)
    order, costs = [], []
    for _ in range(len(norms) - 1):
        least = left[np.arange(len(norms)), nearest]
        one = int(least.argmin())
        other = int(nearest[one])
        gone = one if norms[one] <= norms[other] else other
        order.append(gone)
        costs.append(float(least[one]))
        left[gone] = left[:, gone] = np.inf
        orphans = np.flatnonzero(nearest == gone)
        nearest[orphans] = left[orphans].argmin(1)
    last = np.setdiff1d(np.arange(len(norms)), order)
    return Removals(np.append(order, last).astype(np.int64), np.asarray([*costs, costs[-1] if costs else 1.0]))


def _folded(member: Member, group: Group, weights: Weights) -> tuple[FloatArray, FloatArray]:
    """Slices of a producer, ``(width, channels per position, weights)``, and their biases, with what follows folded in."""
    node, _ = reader_of(member)
    rows = slices(member, group.width, weights)
    has_bias = node.op_type in ("Conv", "ConvTranspose", "Gemm")
    bias = _vector(group, node, 2, rows.shape[1], weights) if has_bias else np.zeros(rows.shape[:2])
    follower = _only_reader(node)
    if follower is None:
        return rows, bias
    if follower.op_type == "BatchNormalization":
        return _normalised(rows, bias, group, follower, weights)
    if follower.op_type == "Add":
        bias = bias + _vector(group, follower, 0, rows.shape[1], weights) + _vector(group, follower, 1, rows.shape[1], weights)
    return rows, bias


def _normalised(
    rows: FloatArray, bias: FloatArray, group: Group, node: ir.Node, weights: Weights
) -> tuple[FloatArray, FloatArray]:
    scale, shift, mean, variance = (_vector(group, node, index, rows.shape[1], weights) for index in (1, 2, 3, 4))
    epsilon = node.attributes.get("epsilon")
    factor = scale / np.sqrt(variance + (EPSILON if epsilon is None else epsilon.as_float()))
    return rows * factor[:, :, None], (bias - mean) * factor + shift


def _vector(group: Group, node: ir.Node, index: int, channels: int, weights: Weights) -> FloatArray:
    """A stored vector that a node reads at an input, shape ``(width, channels)``; zeros if it reads none that follows."""
    for member in group.members:
        if member.role is not Role.PRODUCES and reader_of(member) == (node, index):
            found = slices(member, group.width, weights)
            if found.shape[1:] == (channels, 1):
                return found[:, :, 0]
    return np.zeros((group.width, channels))


def _only_reader(node: ir.Node) -> ir.Node | None:
    users = list(node.outputs[0].uses())
    return users[0].node if len(users) == 1 else None
