"""Limits that a compressed model is held against: from flags, and from a TOML file that lies beside the pipeline's own."""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from shrinkc import budget
from shrinkc.budget import Budget
from shrinkc.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Limits:
    """What a result may cost and what it must give; None and empty where nothing is asked.

    Attributes
    ----------
    max_drop : float or None
        Points that may be lost: of accuracy where there are labels, else of agreement on the largest class, else of cosine.
    min_accuracy, min_agreement : float or None
        Shares of samples, in [0, 1].
    max_macs, max_params, max_size : Budget or None
        Of the file, absolute or as a share of the original's.
    min_speedup : float or None
        Time of the original over that of the result, measured.
    runtimes : tuple of str
        Engines that must load the result and compute the same; ``auto`` for every one that is here.
    """

    max_drop: float | None = None
    min_accuracy: float | None = None
    min_agreement: float | None = None
    max_macs: Budget | None = None
    max_params: Budget | None = None
    max_size: Budget | None = None
    min_speedup: float | None = None
    runtimes: tuple[str, ...] = ()

    @property
    def are_of_quality(self) -> bool:
        """Whether any can be told from data only."""
        return any(found is not None for found in (self.max_drop, self.min_accuracy, self.min_agreement))

    @property
    def are_of_cost(self) -> bool:
        """Whether any can be told from the files alone."""
        return any(found is not None for found in (self.max_macs, self.max_params, self.max_size))

    def count(self) -> int:
        """How many there are."""
        return sum(getattr(self, field.name) not in (None, ()) for field in fields(self))


def resolve(file: str | os.PathLike[str] | None = None, **flags: Any) -> Limits:
    """Limits of a file, with those given by name in their place.

    Parameters
    ----------
    file : path, optional
        TOML whose keys are the names of limits.
    **flags
        Fields of :class:`Limits` as text or number (``max_macs="50%"``); None means "not given".

    Raises
    ------
    RecipeError
        A limit is unknown, or its value makes no sense.
    """
    stored = {} if file is None else _stored(Path(file))
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    known = {name: (f"--{name.replace('_', '-')}", value) for name, value in given.items()}
    return Limits(**{name: _parsed(name, *entry) for name, entry in {**stored, **known}.items()})


def _stored(path: Path) -> dict[str, tuple[str, Any]]:
    """Values by name, with where they stand."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError("the limits cannot be read", where=str(path), because=str(error)) from error
    return {name: (f"{path}:{name}", value) for name, value in data.items()}


def _parsed(name: str, where: str, value: Any) -> Any:
    if name not in READERS:
        nearest = difflib.get_close_matches(name, READERS, 1, 0)
        raise RecipeError("no such limit", where=where, hint=f"the nearest one is {nearest[0]}")
    try:
        return READERS[name](value)
    except RecipeError as error:
        raise RecipeError(error.message, where=where, because=error.because, hint=error.hint) from error


def _points(value: Any) -> float:
    number = _number(value)
    if not 0 <= number <= 100:
        raise RecipeError("a drop is in points from 0 to 100", because=repr(value))
    return number


def _factor(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise RecipeError("a speed-up is a factor above 0", because=repr(value))
    return number


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError("not a number", because=repr(value))
    return number


def _share(value: Any) -> float:
    """``91%`` or 0.91; a bare 91 is refused, as nobody could tell which was meant of a 1."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", value) if isinstance(value, str) else None
    number = float(match[1]) / 100 if match is not None else _number(value)
    if not 0 < number <= 1:
        raise RecipeError("a share of samples lies above 0 and at most at 100 %", because=repr(value), hint="write 91% or 0.91")
    return number


def _amount(quantity: str) -> Callable[[Any], Budget]:
    def read(value: Any) -> Budget:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise RecipeError("not a budget", because=repr(value), hint="write 50% or 1.5M")
        return budget.limit(quantity, str(value))

    return read


def _names(value: Any) -> tuple[str, ...]:
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise RecipeError("not a list of names", because=repr(value))
    names = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not names:
        raise RecipeError("names no runtime", hint="auto is every one that is here")
    return names


READERS: Mapping[str, Callable[[Any], Any]] = {
    "max_drop": _points,
    "min_accuracy": _share,
    "min_agreement": _share,
    "max_macs": _amount("macs"),
    "max_params": _amount("parameters"),
    "max_size": _amount("size_bytes"),
    "min_speedup": _factor,
    "runtimes": _names,
}
"""What reads the value of a limit, by its name."""
