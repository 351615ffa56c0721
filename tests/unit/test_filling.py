"""What a budget leaves is spent: on what saves most for its price, as far as it goes, and never for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from shrinkc.analysis.forming import Group
from shrinkc.api import Problem
from shrinkc.filling import filled

Widths = dict[str, int]


@dataclass(frozen=True)
class Kept:
    """An allocation."""

    keep: dict[str, tuple[int, ...]]

    @property
    def widths(self) -> Widths:
        return {name: len(kept) for name, kept in self.keep.items()}


def kept(**widths: int) -> Kept:
    return Kept({name: tuple(range(width)) for name, width in widths.items()})


def problem(prices: dict[str, float], errors: dict[str, list[float]]) -> Problem:
    """A channel of every group costs so much; errors are by width."""
    groups = [SimpleNamespace(name=name, width=len(errors[name]) - 1) for name in errors]
    return Problem(
        groups=groups,  # type: ignore[arg-type]
        scores={},
        is_comparable=True,
        errors=lambda group: np.asarray(errors[group.name]),
        price=lambda widths: sum(prices[name] * width for name, width in widths.items()),
        step=lambda group: 1,
    )


def stepping(undone: str = "") -> Callable[[Kept, Group, int], Kept]:
    """Steps as they are asked for; those of one group are taken back."""
    return lambda found, group, width: found if group.name == undone else kept(**{**found.widths, group.name: width})


def test_steps_that_save_most_for_their_price_come_first_until_nothing_more_fits() -> None:
    curves = {"steep": [9.0, 5.0, 2.0, 0.0], "flat": [2.0, 1.0, 0.5, 0.0], "dear": [9.0, 1.0, 0.0, 0.0]}
    given = problem({"steep": 1.0, "flat": 1.0, "dear": 10.0}, curves)
    spent: list[float] = []

    def fits(found: Kept) -> bool:
        spent.append(given.price(found.widths))
        return spent[-1] <= 5

    found = filled(kept(steep=1, flat=0, dear=0), given, stepping(), fits)
    assert found.widths == {"steep": 3, "flat": 2, "dear": 0}
    assert len(spent) <= 4 + 3, "a trial is made of what is taken, and once of what is too much"


def test_a_step_that_repairs_take_back_is_not_tried_for_ever() -> None:
    given = problem({"a": 1.0, "b": 1.0}, {"a": [9.0, 5.0, 0.0], "b": [1.0, 0.5, 0.0]})
    found = filled(kept(a=0, b=0), given, stepping(undone="a"), lambda found: True)
    assert found.widths == {"a": 0, "b": 2}
