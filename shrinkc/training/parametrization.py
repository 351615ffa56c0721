"""Which weights the model computes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Masked:
    """Weights that are zero where the mask is; what reaches the gradient is dense all the same."""

    is_dense: bool = False

    def effective(self, name: str, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See :class:`shrinkc.training.interfaces.Parametrization`."""
        return weight


@dataclass(frozen=True)
class Projected:
    """Dense weights, masked when they are used; the gradient is that of the masked ones, for all of them.

    Lin, Stich, Barba, Dmitriev, Jaggi. Dynamic Model Pruning with Feedback. ICLR 2020, eq. (DPF).
    """

    is_dense: bool = True

    def effective(self, name: str, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See :class:`shrinkc.training.interfaces.Parametrization`."""
        return StraightThrough.apply(weight, mask)  # type: ignore[no-any-return, no-untyped-call]


class StraightThrough(torch.autograd.Function):
    """Masks on the way forward, nothing on the way back."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The masked weight."""
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        """The gradient as it is."""
        return gradients[0], None
