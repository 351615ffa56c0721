"""What numbers a setting may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shrinkc.errors import RecipeError


@dataclass(frozen=True)
class Range:
    """Some numbers.

    Attributes
    ----------
    said : str
        Which, after "must be".
    holds : callable of number to bool
        False of one that is not a number.
    """

    said: str
    holds: Callable[[float], bool]


SHARE = Range("0 or more, and less than 1", lambda value: 0 <= value < 1)
WEIGHT = Range("between 0 and 1", lambda value: 0 <= value <= 1)
INSIDE = Range("more than 0, and less than 1", lambda value: 0 < value < 1)
POSITIVE = Range("more than 0", lambda value: value > 0)
NOT_NEGATIVE = Range("0 or more", lambda value: value >= 0)
COUNT = Range("1 or more", lambda value: value >= 1)


def check_ranges(holder: object, **allowed: Range) -> None:
    """Check fields by their names.

    Raises
    ------
    RecipeError
        Names the first that is out of its range, and the range.
    """
    for name, numbers in allowed.items():
        value = getattr(holder, name)
        if not numbers.holds(value):
            raise RecipeError("a setting out of its range", where=f"{name} = {value}", hint=f"it must be {numbers.said}")
