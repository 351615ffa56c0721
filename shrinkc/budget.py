"""Budgets: how much a model may cost, as a percentage of the original or an absolute number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shrinkc.analysis.cost import Cost
from shrinkc.errors import RecipeError

COUNT_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
SIZE_UNITS = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}

TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

_UNITS = {"size_bytes": SIZE_UNITS, "latency_s": TIME_UNITS}
_EXAMPLES = {"size_bytes": "50% or 800KB", "latency_s": "50% or 5ms"}
_LABELS = {"macs": "MACs", "parameters": "parameters", "size_bytes": "bytes"}


@dataclass(frozen=True)
class Budget:
    """Upper limit of one quantity of :class:`~shrinkc.analysis.cost.Cost`.

    Attributes
    ----------
    quantity : str
        ``macs``, ``parameters``, ``size_bytes`` or ``latency_s``.
    amount : float
        Limit; a fraction of the original's if ``is_relative``.
    is_relative : bool
    """

    quantity: str
    amount: float
    is_relative: bool

    def of(self, dense: Cost) -> Budget:
        """The same budget as an absolute number, for a model that costs ``dense``."""
        return Budget(self.quantity, self.limit(dense), is_relative=False)

    def limit(self, dense: Cost) -> float:
        """The limit as an absolute number."""
        return self.amount * float(getattr(dense, self.quantity)) if self.is_relative else self.amount

    def is_met(self, cost: Cost, dense: Cost) -> bool:
        """Whether ``cost`` stays within the limit."""
        return float(getattr(cost, self.quantity)) <= self.limit(dense)

    def show(self, cost: Cost) -> str:
        """The quantity of ``cost``, readable."""
        return self._readable(getattr(cost, self.quantity))

    def describe(self, dense: Cost) -> str:
        """The limit, readable."""
        share = f" ({self.amount:.0%} of the original)" if self.is_relative else ""
        return f"at most {self._readable(self.limit(dense))}{share}"

    def _readable(self, amount: float) -> str:
        return f"{1e3 * amount:.4g} ms" if self.quantity == "latency_s" else f"{amount:,.0f} {_LABELS[self.quantity]}"


def parse(quantity: str, text: str) -> Budget:
    """Read ``50%``, ``1.5M`` (counts), ``800KB``, ``1MiB`` (bytes) or ``5ms`` (seconds).

    Raises
    ------
    RecipeError
        The text is neither, or not positive, or a percentage of 100 or more.
    """
    found = limit(quantity, text)
    if found.is_relative and found.amount >= 1:
        raise RecipeError(f"a budget of {text} removes nothing", where=quantity, hint="0% < budget < 100%")
    return found


def limit(quantity: str, text: str) -> Budget:
    """The same of something that is judged, not made: any percentage above zero, for a result may be as large as the original.

    Raises
    ------
    RecipeError
        The text is neither, or not positive.
    """
    units = _UNITS.get(quantity, COUNT_UNITS)
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%|[A-Za-z]*)\s*", text)
    if match is None or (match[2] != "%" and match[2].lower() not in units):
        raise RecipeError(f"not a budget: {text!r}", where=quantity, hint=f"write {_EXAMPLES.get(quantity, '50% or 1.5M')}")
    number = float(match[1])
    if number <= 0:
        raise RecipeError("a budget must be positive", where=quantity)
    if match[2] == "%":
        return Budget(quantity, number / 100, is_relative=True)
    return Budget(quantity, number * units[match[2].lower()], is_relative=False)
