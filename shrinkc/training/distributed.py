"""More than one process: every one sees its share of each step's samples, and gradients are summed up.

Started by ``torchrun``; with one process nothing here does anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as torch_distributed

from shrinkc.errors import RecipeError, RuntimeUnavailable
from shrinkc.launching import is_launched


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes
    ----------
    rank, size : int
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def own(self, index: torch.Tensor, unit: int = 1) -> torch.Tensor:
        """Samples of a step that fall to this process: consecutive ones, a multiple of ``unit``."""
        return index.reshape(-1, unit).tensor_split(self.size)[self.rank].reshape(-1)

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Add up tensors over all processes, in place, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        torch_distributed.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.reshape(tensor.shape))

    def same_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the tensors of the first, in place."""
        if self.size > 1:
            for tensor in tensors:
                torch_distributed.broadcast(tensor.data, 0)

    def agreed(self, values: Sequence[float], device: str = "cpu") -> list[float]:
        """What the first process found, for all of them: decisions must not hang on the last bits of a machine."""
        if self.size == 1:
            return list(values)
        told = torch.tensor(list(values), dtype=torch.float64, device=device)
        torch_distributed.broadcast(told, 0)
        return [float(value) for value in told.cpu()]

    def check_same(self, text: str, what: str, hint: str, device: str = "cpu") -> None:
        """Refuse to go on where a text differs between the processes.

        Raises
        ------
        RecipeError
        """
        mine = [float(byte) for byte in hashlib.blake2b(text.encode(), digest_size=16).digest()]
        differs = torch.tensor([float(mine != self.agreed(mine, device))], device=device)
        self.sum_([differs])
        if differs > 0:
            raise RecipeError(what, where=f"{self.size} processes", hint=hint)


def batch_norm(
    x: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    gain: torch.Tensor,
    shift: torch.Tensor,
    share: float,
    epsilon: float,
) -> torch.Tensor:
    """Normalise by the moments of the batch over all processes; running ones follow in place, by torch's rule."""
    given, x = x.dtype, x.float()  # sums in half precision would be wrong
    axes = [axis for axis in range(x.ndim) if axis != 1]
    sizes = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    count = torch.tensor([x.numel() / x.shape[1]], dtype=x.dtype, device=x.device)
    summed = _summed(torch.cat([x.sum(axes), count]))
    of_batch, total = summed[:-1] / summed[-1], summed[-1].detach()
    centred = x - of_batch.reshape(sizes)
    spread = _summed(centred.square().sum(axes)) / total
    with torch.no_grad():
        mean.lerp_(of_batch.to(mean.dtype), share)
        variance.lerp_((spread * total / (total - 1)).to(variance.dtype), share)
    return (centred * (torch.rsqrt(spread + epsilon) * gain).reshape(sizes) + shift.reshape(sizes)).to(given)


def _summed(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over the processes; gradients are summed on the way back."""
    summed: torch.Tensor = Summed.apply(tensor)  # type: ignore[no-untyped-call]
    return summed


class Summed(torch.autograd.Function):
    """The sum of a tensor over the processes, whose losses are added up too."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        """Sum."""
        found = tensor.clone()
        torch_distributed.all_reduce(found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Sum of what reaches every process."""
        found = gradients[0].contiguous().clone()
        torch_distributed.all_reduce(found)
        return found


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The processes that were launched together, connected by gloo (nccl for ``cuda``).

    Raises
    ------
    RuntimeUnavailable
        They cannot be connected.
    """
    if not is_launched():
        yield World()
        return
    is_ours = not torch_distributed.is_initialized()
    try:
        if is_ours:
            torch_distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise RuntimeUnavailable("the processes cannot be connected", because=str(error), hint="start with torchrun") from error
    try:
        yield World(torch_distributed.get_rank(), torch_distributed.get_world_size())
    finally:
        if is_ours:
            torch_distributed.destroy_process_group()
