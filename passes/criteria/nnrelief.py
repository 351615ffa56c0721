"""NNrelief: channels without a connection that carries its share of the signal.

Dekhovich, Tax, Sluiter, Bessa. Neural network relief: a pruning algorithm based on neural activity. 2021 (arXiv 2109.10795).
A connection from channel ``c`` to output ``k`` carries ``s_kc``, the norm over positions of the absolute kernel applied to the
mean absolute input.  An output keeps its strongest connections up to a share ``alpha`` of their sum; a channel none of whose
connections is kept can go.

The score is one less the ``alpha`` from which on a channel stays; ties (the strongest connection of some output stays at any
``alpha``) go by the sum of its shares.  Differs: the paper prunes connections and then what has none left, in rounds with
training in between; biases are no connections here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shrinkc.api import Consumer, Evidence, FloatArray, Group, Weights, Windows
from shrinkc.evidence.activities import channel_positions
from shrinkc.evidence.ordering import Removals
from shrinkc.evidence.patches import windows_over


class NnRelief:
    """One less the coverage that needs a position; a group without evidence has scores of one."""

    name = "nnrelief"
    needs_evidence = True
    is_comparable = True

    def scores(self, group: Group, weights: Weights, evidence: Evidence | None) -> FloatArray:
        """See :class:`shrinkc.api.Criterion`."""
        consumers = () if evidence is None else evidence.consumers.get(group.name, ())
        if not consumers:
            return np.ones(group.width)
        need, share = coverage(consumers, group.width)
        order = np.lexsort((share, -need))
        return Removals(order, 1 - need[order]).scores()


def coverage(consumers: Sequence[Consumer], width: int) -> tuple[FloatArray, FloatArray]:
    """When a position is needed, and how much it carries.

    Returns
    -------
    need : ndarray of shape (width,), float64
        A position has a connection that is kept for every ``alpha`` above this; one if it carries nothing.
    share : ndarray of shape (width,), float64
        Sum over outputs of its share of what the output gets.
    """
    need, share = np.ones(width), np.zeros(width)
    for consumer in consumers:
        position = channel_positions(consumer)
        is_own = position >= 0
        shares = _shares(strengths(consumer))
        np.minimum.at(need, position[is_own], _stronger(shares).min(0)[is_own])
        np.add.at(share, position[is_own], shares.sum(0)[is_own])
    return need, share


def strengths(consumer: Consumer) -> FloatArray:
    """What every connection carries, ``s_kc``, shape ``(outputs, channels)``."""
    kernels = np.abs(consumer.weight).reshape(len(consumer.weight), -1, consumer.taps)
    spread = _tap_moments(consumer)
    # The squared norm over positions of a sum over taps is a quadratic form of the kernel: no map is made.
    carried: FloatArray = np.sqrt(np.maximum(np.einsum("kci,cij,kcj->kc", kernels, spread, kernels, optimize=True), 0.0))
    return carried


def _tap_moments(consumer: Consumer) -> FloatArray:
    """Sum over positions of products of the mean absolute inputs under two taps, shape ``(channels, taps, taps)``."""
    maps = consumer.activity.mean_abs
    if consumer.windows is None or maps.ndim == 1:
        flat = maps.reshape(len(maps), -1)
        return np.broadcast_to(np.square(flat).sum(1)[:, None, None], (len(maps), consumer.taps, consumer.taps))
    return _products_of_windows(maps, consumer.windows)


def _products_of_windows(maps: FloatArray, windows: Windows) -> FloatArray:
    rank = len(windows.kernel)
    seen = windows_over(maps[None], windows)[0]
    rows = seen.reshape(len(maps), int(np.prod(seen.shape[1 : 1 + rank])), -1)
    product: FloatArray = rows.transpose(0, 2, 1) @ rows
    return product


def _shares(carried: FloatArray) -> FloatArray:
    total = carried.sum(1, keepdims=True)
    shares: FloatArray = np.divide(carried, total, out=np.zeros_like(carried), where=total > 0)
    return shares


def _stronger(shares: FloatArray) -> FloatArray:
    """Share of an output's connections that are stronger than each one; one for those that carry nothing."""
    order = np.argsort(-shares, axis=1, kind="stable")
    ranked = np.take_along_axis(shares, order, 1)
    before = np.minimum(np.cumsum(ranked, axis=1) - ranked, np.nextafter(1.0, 0.0))
    result = np.empty_like(shares)
    np.put_along_axis(result, order, np.where(ranked > 0, before, 1.0), 1)
    return result
