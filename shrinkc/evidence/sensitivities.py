"""How the loss changes, to first order, when channels go: from gradients by stored tensors."""

from __future__ import annotations

import numpy as np

from shrinkc.api import UNTOUCHED, Evidence, FloatArray, Group, Member, Weights
from shrinkc.errors import RecipeError
from shrinkc.evidence.producers import producers

HINT = (
    "give --data (with labels, if there are any), or --gradients FILE.npz: "
    "arrays under the names of the weights, one sample along the first axis"
)


def first_order(group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
    """Sum over the weights that produce a position of weight times gradient.

    Parameters
    ----------
    group : Group
    weights : callable of ir.Value to ndarray
    evidence : Evidence or None
        With gradients of every tensor that produces the group, each with one sample along its first axis.

    Returns
    -------
    ndarray of shape (samples, width), float64

    Raises
    ------
    RecipeError
        There are no gradients, one is missing, or one does not fit its tensor.
    """
    if evidence is None or not evidence.gradients:
        raise RecipeError("the criterion needs gradients of the loss", hint=HINT)
    parts = [_of_member(member, group.width, weights, evidence) for member in producers(group)]
    if len({len(part) for part in parts}) > 1:
        raise RecipeError("gradients have different numbers of samples", where=group.name, hint=HINT)
    total: FloatArray = np.sum(parts, axis=0)
    return total


def _of_member(member: Member, width: int, weights: Weights, evidence: Evidence) -> FloatArray:
    weight = weights(member.use.tensor)
    gradient = _gradient(member.use.tensor.name or "", weight.shape, evidence)
    slices = np.moveaxis(weight, member.axis, 0).reshape(weight.shape[member.axis], -1)
    covered = member.index != UNTOUCHED
    result = np.zeros((len(gradient), width))
    for row, sample in zip(result, gradient, strict=True):
        own = np.moveaxis(sample, member.axis, 0).reshape(slices.shape)
        products = np.einsum("ij,ij->i", slices, own, dtype=np.float64)
        np.add.at(row, member.index[covered], products[covered])
    return result


def _gradient(name: str, shape: tuple[int, ...], evidence: Evidence) -> FloatArray:
    gradient = evidence.gradients.get(name)
    if gradient is None:
        raise RecipeError("a gradient is missing", where=name, hint=HINT)
    if gradient.shape[1:] != shape or not len(gradient):
        raise RecipeError(
            "a gradient does not fit its tensor",
            where=name,
            because=f"expected [samples, {', '.join(map(str, shape))}], found {list(gradient.shape)}",
            hint=HINT,
        )
    return gradient
