"""i-SpaSP: channels that pull at the residual, thinned out by how active they are.

Wolfe, Kyrillidis. i-SpaSP: Structured Neural Pruning via Sparse Signal Recovery. L4DC 2022.  For a width ``s``, again and
again: take the ``2s`` channels with the largest gradient of half the squared residual, join them to the active ones, keep the
``s`` with the largest mean value.

The layers that read the group are linear, so gradients follow from means alone.  Differs: biases are left out of the
residual; where a channel's mean is negative its gradient counts with the opposite sign, and its activity is the mean
absolute value (for what a ReLU gives, both are the paper's); sets of two widths need not be nested, and then the channel
that goes from one to the next is the least active one that the method would not keep.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shrinkc.api import Consumer, Evidence, FloatArray, Group, Weights
from shrinkc.evidence.activities import mean_abs_by_position
from shrinkc.evidence.contributions import by_position
from shrinkc.evidence.ordering import Removals

ITERATIONS = 20
"""Of one width, as in the official code; most sets repeat after two or three."""


class ISpaSP:
    """Activity, in the order of removal that the sets of all widths give; a group without evidence has scores of one."""

    name = "ispasp"
    needs_evidence = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        consumers = () if evidence is None else evidence.consumers.get(group.name, ())
        if not consumers:
            return np.ones(group.width)
        activity = mean_abs_by_position(consumers, group.width)
        order = removal_order(pulls(consumers, group.width), activity)
        return Removals(order, activity[order]).scores()


def pulls(consumers: Sequence[Consumer], width: int) -> FloatArray:
    """Gradients that the contributions of channels cause at channels.

    Blocks of a layer too wide for one matrix of moments count as much as their share of its energy.

    Parameters
    ----------
    consumers : sequence of Consumer
    width : int
        Positions of the group.

    Returns
    -------
    ndarray of shape (width, width), float64.  Entry ``(j, c)`` is the derivative of half the squared residual by the value
    of channel ``j``, a mean over rows, if ``c`` alone is missing; each consumer counts relative to the energy of its output.
    """
    total = np.zeros((width, width))
    for consumer in consumers:
        summing = by_position(consumer, width)
        means = summing @ (consumer.weight * consumer.mean).T  # what each channel adds to each output, on average
        sign = np.where(summing @ consumer.mean < 0, -1.0, 1.0)
        total += (
            sign[:, None] * ((summing @ consumer.weight.T) @ means.T) * (consumer.share.energy / (_energy(consumer) or 1.0))
        )
    return total


def _energy(consumer: Consumer) -> float:
    return float(np.einsum("oc,oc->", consumer.weight @ consumer.gram, consumer.weight))


def removal_order(pull: FloatArray, activity: FloatArray) -> NDArray[np.int64]:
    """Order in which positions go from the widest set to the narrowest.

    Parameters
    ----------
    pull : ndarray of shape (width, width)
        See :func:`pulls`.
    activity : ndarray of shape (width,)
    """
    kept = np.ones(len(pull), bool)
    order = []
    for width in range(len(pull) - 1, -1, -1):
        unwanted = kept & ~chosen(pull, activity, width)
        order.append(int(np.argmin(np.where(unwanted, activity, np.inf))))
        kept[order[-1]] = False
    return np.asarray(order, np.int64)


def chosen(pull: FloatArray, activity: FloatArray, width: int) -> NDArray[np.bool_]:
    """The method's set of one width, as a mask."""
    active = np.zeros(len(pull), bool)
    for _ in range(ITERATIONS):
        gradient = pull @ ~active
        candidates = active | _largest(gradient, 2 * width, np.ones(len(pull), bool))
        after = _largest(activity, width, candidates)
        if (after == active).all():
            break
        active = after
    return active


def _largest(values: FloatArray, count: int, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    places = np.flatnonzero(among)
    result = np.zeros(len(values), bool)
    result[places[np.argsort(-values[places], kind="stable")[:count]]] = True
    return result
