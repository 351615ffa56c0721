"""The stored tensors of a group by what they do: filters that produce its channels, scales of BatchNormalizations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.labels import Labels
from shrinkc.api import UNTOUCHED, FloatArray, Group, Member, Role, Weights
from shrinkc.errors import RecipeError

MOVEMENT = frozenset({"Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Cast"})


def producers(group: Group) -> list[Member]:
    """Members whose slices make the channels."""
    return [member for member in group.members if member.role is Role.PRODUCES]


def batch_normalization_scales(group: Group) -> list[Member]:
    """Members that are the scale of a BatchNormalization; other normalisations have scales too, which say less."""
    return [member for member in group.members if member.role is Role.SCALES and _reader_type(member) == "BatchNormalization"]


def require_batch_normalization(groups: Sequence[Group], criterion: str) -> None:
    """Refuse a model that offers nothing to a criterion that reads gammas.

    Raises
    ------
    RecipeError
        No group has a BatchNormalization.
    """
    if not any(batch_normalization_scales(group) for group in groups):
        raise RecipeError(
            "no channel that could go has a BatchNormalization",
            where=f"--criterion {criterion}",
            because="the model was exported with them folded into the layers before, or never had any",
            hint="take l2 or geometric-median; with data, obs",
        )


def reader_of(member: Member) -> tuple[ir.Node, int]:
    """Node that uses a stored tensor, and at which input, past nodes that only lay it out differently."""
    node, index = member.use.node, member.use.input_index
    while node.op_type in MOVEMENT and index == 0 and node.outputs[0].uses():
        usage = next(iter(node.outputs[0].uses()))
        node, index = usage.node, usage.idx
    return node, index


def filters(member: Member, width: int, weights: Weights) -> FloatArray:
    """Weights of a member with one row a position, shape ``(width, weights per position)``; see :func:`slices`."""
    return slices(member, width, weights).reshape(width, -1)


def slices(member: Member, width: int, weights: Weights) -> FloatArray:
    """Weights of a member by position.

    Returns
    -------
    ndarray of shape (width, slices per position, weights per slice), float64
        A position has several slices where several channels go with it; those with fewer than others are padded with zeros.
    """
    array = np.moveaxis(weights(member.use.tensor), member.axis, 0)
    flat = array.reshape(len(array), -1)
    indices = np.flatnonzero(member.index != UNTOUCHED)
    position = member.index[indices]
    turn = _turns(position, width)
    result = np.zeros((width, int(turn.max(initial=0)) + 1, flat.shape[1]))
    result[position, turn] = flat[indices]
    return result


def _turns(position: Labels, width: int) -> Labels:
    """How often the same position came before, for every entry."""
    order = np.argsort(position, kind="stable")
    first = np.searchsorted(position[order], np.arange(width))
    turn = np.empty(len(position), np.int64)
    turn[order] = np.arange(len(position)) - first[position[order]]
    return turn


def _reader_type(member: Member) -> str:
    return reader_of(member)[0].op_type


def norms(member: Member, width: int, weights: Weights) -> FloatArray:
    """Euclidean norm of every position's weights in a member, shape ``(width,)``."""
    result: FloatArray = np.linalg.norm(filters(member, width, weights), axis=1)
    return result


def relative(parts: Iterator[FloatArray], width: int) -> FloatArray:
    """Mean of arrays of shape ``(width,)``, each divided by its own mean; ones if there are none."""
    scaled = [part / mean if (mean := float(part.mean())) > 0 else np.ones(width) for part in parts]
    return np.mean(scaled, axis=0) if scaled else np.ones(width)
