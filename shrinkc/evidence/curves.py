"""Error curves of groups: what keeping so many channels costs, by the best refit of their consumers."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from shrinkc.api import Consumer, Evidence, FloatArray, Group
from shrinkc.evidence.elimination import Elimination, greedily, in_order

_GREEDY: WeakKeyDictionary[Consumer, Elimination] = WeakKeyDictionary()
"""Greedy eliminations by a group's first consumer: criterion, sensitivity and allocator all ask for them."""

_ORDERED: WeakKeyDictionary[Consumer, dict[bytes, FloatArray]] = WeakKeyDictionary()
"""Errors by a group's first consumer and the order of elimination: plans are made more than once."""


def greedy_elimination(evidence: Evidence, group: Group) -> Elimination | None:
    """Structured OBS of a group; None where no consumer could be looked at."""
    consumers = evidence.consumers.get(group.name, ())
    if not consumers:
        return None
    if consumers[0] not in _GREEDY:
        _GREEDY[consumers[0]] = greedily(consumers, group.width)
    return _GREEDY[consumers[0]]


def errors_by_width(evidence: Evidence | None, group: Group, scores: FloatArray) -> FloatArray:
    """Error of keeping the best ``k`` positions by score, shape ``(width + 1,)``, as a share of the consumers' energy.

    Where the group's sensitivity is known it is multiplied by that, and so an estimate of the error of the outputs.

    Without anything known of the consumers it is the share of the squared scores that goes: the error if channels were
    independent and of one variance.
    """
    order = np.argsort(scores, kind="stable")
    consumers = () if evidence is None else evidence.consumers.get(group.name, ())
    if evidence is None or not consumers:
        lost = np.concatenate([[0.0], np.cumsum(np.square(scores[order], dtype=np.float64))])
        return (lost / (lost[-1] or 1.0))[::-1]
    return shown_errors(evidence, group, _errors(consumers, order))[::-1]


def shown_errors(evidence: Evidence, group: Group, errors: FloatArray) -> FloatArray:
    """What errors at a group's consumers, by number of removals, do to the outputs; as they are where it was not probed."""
    sensitivity = evidence.sensitivity.get(group.name)
    return errors if sensitivity is None else sensitivity.of(errors)


def _errors(consumers: Sequence[Consumer], order: NDArray[np.intp]) -> FloatArray:
    """Error after every step of an elimination in a given order."""
    greedy = _GREEDY.get(consumers[0])
    if greedy is not None and np.array_equal(greedy.order, order):
        return greedy.errors
    known = _ORDERED.setdefault(consumers[0], {})
    key = order.tobytes()
    if key not in known:
        known[key] = in_order(consumers, order.tolist()).errors
    return known[key]
