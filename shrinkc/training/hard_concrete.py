"""Gates that are drawn between zero and one, often exactly either, and that gradients flow through.

Louizos, Welling, Kingma. Learning Sparse Neural Networks through L0 Regularization. ICLR 2018, section 2.2: a concrete
variable, stretched beyond zero and one and clipped.  What a gate is when nothing is drawn is that of Wang, Wohlwend, Lei.
Structured Pruning of Large Language Models. EMNLP 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

STEEPNESS = 0.8
"""Of the sigmoid that stands for a gate where nothing is drawn; near the mean of the drawn ones at temperature 1."""

MARGIN = 1e-6
"""Least distance of the uniform draw from zero and one."""


@dataclass(frozen=True)
class HardConcrete:
    """A family of distributions; ``log_alpha``, a tensor of shape (gates,), says which one every gate has.

    Attributes
    ----------
    temperature : float
    lower, upper : float
        What the concrete variable is stretched to.
    """

    temperature: float = 1.0
    lower: float = -0.1
    upper: float = 1.1

    def open_probability(self, log_alpha: torch.Tensor) -> torch.Tensor:
        """Probability that a gate is not zero, ``(gates,)``; eq. (12) of Louizos et al."""
        return torch.sigmoid(log_alpha - self.temperature * math.log(-self.lower / self.upper))

    def drawn(self, log_alpha: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Gates for numbers drawn evenly from zero to one, ``(gates,)`` both; eq. (10) and (11)."""
        noise = torch.logit(uniform, eps=MARGIN)
        stretched = torch.sigmoid((noise + log_alpha) / self.temperature) * (self.upper - self.lower) + self.lower
        return stretched.clamp(0.0, 1.0)

    def without_zeros(self, log_alpha: torch.Tensor) -> torch.Tensor:
        """What stands for every gate where nothing is drawn, ``(gates,)``, before any is set to zero."""
        return torch.sigmoid(STEEPNESS * log_alpha / self.temperature)

    def kept(self, log_alpha: torch.Tensor) -> torch.Tensor:
        """Which gates stay open where nothing is drawn: as many as are expected to, but one at least; bool ``(gates,)``."""
        wanted = max(1, round(float(self.open_probability(log_alpha).sum())))
        chosen = torch.zeros_like(log_alpha, dtype=torch.bool)
        chosen[torch.argsort(log_alpha, descending=True, stable=True)[:wanted]] = True
        return chosen

    def settled(self, log_alpha: torch.Tensor, offset: float = 0.0) -> torch.Tensor:
        """Gates where nothing is drawn, ``(gates,)``; as many are open as would be with ``log_alpha`` higher by an offset."""
        return self.without_zeros(log_alpha) * self.kept(log_alpha + offset)
