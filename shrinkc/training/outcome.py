"""What recovery did, for the report; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recovery:
    """Training of a cut model with its original as the teacher.

    Attributes
    ----------
    budget : str
        That was given.
    steps : int
    seconds : float
        Of training, evaluation included.
    samples, held_out : int
        Trained on, and judged by to keep the best; the same ones if ``is_shared``.
    is_shared : bool
    is_synthetic : bool
        They were made up from the model.
    loss_before, loss_after : float
        On the held-out samples.
    agreement_before, agreement_after : float or None
        With the original's largest class, there.
    accuracy_before, accuracy_after : float or None
        There, with labels.
    stopped : str
        Why training ended.
    settings : mapping
        As resolved.
    processes : int
    """

    budget: str
    steps: int
    seconds: float
    samples: int
    held_out: int
    is_shared: bool
    is_synthetic: bool
    loss_before: float
    loss_after: float
    agreement_before: float | None
    agreement_after: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    stopped: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
