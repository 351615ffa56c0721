"""Masks: which weights of every tensor take part.

The mask is the truth, never ``W != 0``: a live weight may cross zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch

from shrinkc.errors import PluginError


class MaskSet(Mapping[str, torch.Tensor]):
    """Boolean tensors by the name of the weight, true where it stays.

    Parameters
    ----------
    masks : mapping of name to bool tensor
        Laid out as the weights are stored.
    """

    def __init__(self, masks: Mapping[str, torch.Tensor]) -> None:
        wrong = [name for name, mask in masks.items() if mask.dtype != torch.bool]
        if wrong:
            raise PluginError("a mask must be boolean", where=", ".join(wrong))
        self._masks = dict(masks)

    @classmethod
    def dense(cls, weights: Mapping[str, torch.Tensor]) -> MaskSet:
        """Masks that keep everything."""
        return cls({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def total(self) -> int:
        """Weights under the masks."""
        return sum(mask.numel() for mask in self._masks.values())

    @property
    def alive(self) -> int:
        """Weights that stay."""
        return sum(int(mask.sum()) for mask in self._masks.values())

    def density(self) -> float:
        """Share of the weights that stays; 1 where there are none."""
        return self.alive / self.total if self.total else 1.0

    def densities(self) -> dict[str, float]:
        """Share that stays of every tensor."""
        return {name: float(mask.float().mean()) for name, mask in self._masks.items()}

    def hash(self) -> str:
        """Hash of names and masks, the same on every machine."""
        digest = hashlib.sha256()
        for name in sorted(self._masks):
            digest.update(name.encode() + b"\0")
            digest.update(self._masks[name].cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def nested_in(self, other: MaskSet) -> bool:
        """Whether nothing stays that does not stay in the other masks."""
        return all(bool((~self[name] | other[name]).all()) for name in self)

    @torch.no_grad()
    def apply(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set to zero, in place, what does not stay; tensors without a mask are left alone."""
        for name, tensor in tensors.items():
            mask = self._masks.get(name)
            if mask is not None:
                tensor.masked_fill_(~mask, 0)
