"""How long to train: a number of epochs, of steps, or a time."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from shrinkc.errors import RecipeError

UNITS = {
    "epochs": "epochs",
    "epoch": "epochs",
    "steps": "steps",
    "step": "steps",
    "s": "seconds",
    "sec": "seconds",
    "seconds": "seconds",
    "m": "minutes",
    "min": "minutes",
    "minute": "minutes",
    "minutes": "minutes",
    "h": "hours",
    "hour": "hours",
    "hours": "hours",
    "cpumin": "CPU minutes",
}
SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "CPU minutes": 60.0}

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


@dataclass(frozen=True)
class Budget:
    """An amount of training.

    Attributes
    ----------
    amount : float
    unit : str
        ``epochs``, ``steps``, ``seconds``, ``minutes``, ``hours`` or ``CPU minutes``: of all threads of the process together,
        which other programs on the machine hardly change.
    """

    amount: float
    unit: str

    @property
    def seconds(self) -> float | None:
        """Time it allows, None if it counts steps."""
        return self.amount * SECONDS[self.unit] if self.unit in SECONDS else None

    def clock(self) -> float:
        """Seconds since some moment, of the kind that the budget counts."""
        return time.process_time() if self.unit == "CPU minutes" else time.perf_counter()

    def steps(self, per_epoch: int) -> int | None:
        """Optimizer steps it allows, at least one; None if it is a time."""
        if self.seconds is not None:
            return None
        return max(1, round(self.amount * (per_epoch if self.unit == "epochs" else 1)))

    def split(self, share: float, per_epoch: int) -> tuple[Budget, Budget]:
        """Two budgets that make up this one, the first with a share of it."""
        steps = self.steps(per_epoch)
        if steps is None:
            return Budget(share * self.amount, self.unit), Budget((1 - share) * self.amount, self.unit)
        first = min(max(1, round(share * steps)), max(1, steps - 1))
        return Budget(first, "steps"), Budget(max(1, steps - first), "steps")


def parse(text: str, where: str = "budget") -> Budget:
    """Read ``5epochs``, ``2000steps``, ``90s``, ``3min``, ``1.5h`` or ``3cpumin``.

    Raises
    ------
    RecipeError
        The text is none of these, or nothing is left of it.
    """
    match = _TEXT.fullmatch(text.lower())
    if match is None or match[2] not in UNITS or float(match[1]) <= 0:
        raise RecipeError(
            "not an amount of training", where=f"{where} {text}", hint="write 5epochs, 2000steps, 3min or 3cpumin"
        )
    unit = UNITS[match[2]]
    if unit == "steps" and not float(match[1]).is_integer():
        raise RecipeError("steps come in whole numbers", where=f"{where} {text}")
    return Budget(float(match[1]), unit)
