"""What the scripts of the peers share: how a budget of MACs is met by tools that only know ratios, and how they answer.

Nothing of shrinkc is imported here: the scripts run in the peers' own environments.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Pruned = TypeVar("Pruned")

STEPS = 9
"""Halvings of the ratio, to 1/512: finer than a channel of the widest layer."""

LARGEST_RATIO = 0.99


class OutOfReachError(Exception):
    """The peer cannot remove as much as is asked."""


class Search(Generic[Pruned]):
    """Bisection over the ratio; keeps the largest model that meets the budget."""

    def __init__(self, prune: Callable[[float], tuple[Pruned, int]], budget: float) -> None:
        self.prune, self.budget = prune, budget
        self.best: tuple[int, float, Pruned] | None = None
        self.least: int | None = None

    def try_ratio(self, ratio: float) -> bool:
        """Prune, remember, and say whether the budget is met."""
        pruned, macs = self.prune(ratio)
        self.least = macs if self.least is None else min(self.least, macs)
        is_met = macs <= self.budget
        if is_met and (self.best is None or macs > self.best[0]):
            self.best = macs, ratio, pruned
        return is_met

    def run(self) -> tuple[int, float, Pruned]:
        """MACs, ratio and model.

        Raises
        ------
        OutOfReachError
            Not even the largest ratio meets the budget.
        """
        low, high = 0.0, LARGEST_RATIO
        self.try_ratio(high)
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.try_ratio(middle) else (middle, high)
        if self.best is None:
            raise OutOfReachError(f"at ratio {LARGEST_RATIO} {self.least} MACs are left, {self.budget:.0f} are asked for")
        return self.best


def arguments(methods: list[str], description: str | None) -> argparse.Namespace:
    """Options every peer understands."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--method", choices=methods, required=True)
    parser.add_argument("--remove", type=float, required=True, help="share of the MACs to remove")
    parser.add_argument("--calibration", type=Path, required=True, help=".npz with the key image")
    parser.add_argument("--labels", type=Path, required=True, help=".npz with the key labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def answer(work: Callable[[], dict[str, object]]) -> None:
    """Print the result as one line of JSON; a failure is a result, with its reason."""
    try:
        print(json.dumps(work()))
    except Exception as error:
        print(json.dumps({"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}))
