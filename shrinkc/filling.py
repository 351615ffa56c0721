"""What a plan left of its budget, spent: steps are added back where they save most error for their price.

One pressure for all groups ends on the first admissible widths below a budget.  Where the target likes multiples of 16, or a
stream runs through a whole stage, the last step may save far more than was still needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from shrinkc.analysis.forming import Group
from shrinkc.api import Problem


class Keeping(Protocol):
    """An allocation of channels."""

    @property
    def keep(self) -> dict[str, tuple[int, ...]]:
        """Positions that stay, by group."""


Found = TypeVar("Found", bound=Keeping)


def filled(
    found: Found, problem: Problem, widened: Callable[[Found, Group, int], Found], fits: Callable[[Found], bool]
) -> Found:
    """An allocation to which no group's next step can be added any more; its predicted error is never larger.

    Parameters
    ----------
    found : allocation
    problem : Problem
    widened : callable of (allocation, group, width) to allocation
        The same with a group at another width.
    fits : callable of allocation to bool
        Whether it meets the budgets.
    """
    waiting = [group for group in problem.groups if _gain(found, problem, group) > 0]
    while waiting:
        best = max(waiting, key=_worth_now(found, problem))
        trial = widened(found, best, _next(found, problem, best))
        if fits(trial) and _is_wider(trial, found):
            found = trial
            waiting = [group for group in waiting if _gain(found, problem, group) > 0]
        else:  # What is too much now is too much later, as prices of steps only grow; what repairs take back, they take again.
            waiting.remove(best)
    return found


def _is_wider(trial: Keeping, found: Keeping) -> bool:
    """Whether anything was added: limits of a group, or balances among groups, may undo a step."""
    return sum(map(len, trial.keep.values())) > sum(map(len, found.keep.values()))


def _next(found: Keeping, problem: Problem, group: Group) -> int:
    return min(group.width, len(found.keep[group.name]) + problem.step(group))


def _gain(found: Keeping, problem: Problem, group: Group) -> float:
    """Error that a group's next step saves; 0 where there is none."""
    errors = problem.errors(group)
    return float(errors[len(found.keep[group.name])] - errors[_next(found, problem, group)])


def _worth_now(found: Keeping, problem: Problem) -> Callable[[Group], tuple[float, float]]:
    """Error that a group's next step saves per price, then error saved; a trial of each would take far longer."""
    widths = {name: len(kept) for name, kept in found.keep.items()}
    before = problem.price(widths)

    def worth(group: Group) -> tuple[float, float]:
        gain = _gain(found, problem, group)
        after = problem.price({**widths, group.name: _next(found, problem, group)})
        return (gain / (after - before) if after > before else np.inf), gain

    return worth
