"""Selection: exactly so many of the best scores, over everything or within every layer, unit or block.

Exactness is the point: thresholds with ``>`` or ``>=`` are off by one and keep all of a tie.  Ties go to the lower flat index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from shrinkc.errors import PluginError, RecipeError
from shrinkc.training.masks import MaskSet
from shrinkc.training.views import WeightView

Scores = Mapping[str, torch.Tensor]

UNIFORM_PLUS_LAST = 0.2
"""Least density of the last layer under *uniform+*."""


class Selector(Protocol):
    """Decides which weights stay."""

    def select(self, scores: Scores, masks: MaskSet, density: float) -> MaskSet:
        """Masks nested in ``masks`` that keep ``density`` of all weights under them, as exactly as whole numbers allow."""


def keep_k(scores: torch.Tensor, k: int, eligible: torch.Tensor | None = None) -> torch.Tensor:
    """Mask with exactly ``k`` true entries: the largest scores among the eligible, ties by the lower flat index.

    Parameters
    ----------
    scores : float tensor of any shape
    k : int
        At most as many as are eligible.
    eligible : bool tensor of the same shape, optional

    Raises
    ------
    PluginError
        A score that counts is not a number, or fewer than ``k`` are eligible.
    """
    flat = scores.reshape(-1)
    index = torch.arange(len(flat)) if eligible is None else eligible.reshape(-1).nonzero()[:, 0]
    candidates = flat[index]
    if torch.isnan(candidates).any():
        raise PluginError("a score is not a number", where=f"{int(torch.isnan(candidates).sum())} of {len(candidates)} scores")
    if not 0 <= k <= len(index):
        raise PluginError("more weights are to be kept than there are", because=f"{k} of {len(index)}")
    best = torch.sort(candidates, descending=True, stable=True).indices[:k]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[index[best]] = True
    return mask.reshape(scores.shape)


def kept_of(total: int, density: float) -> int:
    """How many of ``total`` stay at a density: all but ``floor((1 - density) * total)``."""
    return total - math.floor(round((1 - density) * total, 6))


def kept_after(alive: int, fraction: float) -> int:
    """How many of those alive stay when a fraction of them goes: all but ``floor(fraction * alive)``."""
    return alive - math.floor(round(fraction * alive, 6))


@dataclass(frozen=True)
class Global:
    """One ranking over all tensors."""

    def select(self, scores: Scores, masks: MaskSet, density: float) -> MaskSet:
        """See :class:`Selector`."""
        return select_k(scores, masks, kept_of(masks.total, density))


def select_k(scores: Scores, masks: MaskSet, k: int) -> MaskSet:
    """The ``k`` best of what stays so far, in one ranking over all tensors."""
    names = list(masks)
    ranked = torch.cat([scores[name].detach().reshape(-1).cpu() for name in names])
    eligible = torch.cat([masks[name].reshape(-1).cpu() for name in names])
    mask = keep_k(ranked, min(k, int(eligible.sum())), eligible)
    parts = torch.split(mask, [masks[name].numel() for name in names])
    return MaskSet(
        {name: part.reshape(masks[name].shape).to(masks[name].device) for name, part in zip(names, parts, strict=True)}
    )


@dataclass(frozen=True)
class PerLayer:
    """A ranking within every tensor, with densities from an allocation (:func:`uniform`, :func:`erk`, …).

    Attributes
    ----------
    densities : mapping of name to float, optional
        By default the same density everywhere.
    """

    densities: Mapping[str, float] | None = None

    def select(self, scores: Scores, masks: MaskSet, density: float) -> MaskSet:
        """See :class:`Selector`."""
        return MaskSet({name: self._kept(name, scores[name], mask, density) for name, mask in masks.items()})

    def _kept(self, name: str, score: torch.Tensor, mask: torch.Tensor, density: float) -> torch.Tensor:
        share = density if self.densities is None else self.densities[name]
        k = min(int(mask.sum()), kept_of(mask.numel(), share))
        return keep_k(score.detach().cpu(), k, mask.cpu()).to(mask.device)


@dataclass(frozen=True)
class PerUnit:
    """Whole rows of the matrices: units by the mean of their scores, in one ranking or within every tensor.

    Attributes
    ----------
    views : sequence of WeightView
    """

    views: tuple[WeightView, ...]

    def select(self, scores: Scores, masks: MaskSet, density: float) -> MaskSet:
        """See :class:`Selector`; the density is that of the units."""
        rows = {view.name: view.to2d(scores[view.name]).mean(1) for view in self.views}
        alive = MaskSet({view.name: view.to2d(masks[view.name]).any(1) for view in self.views})
        kept = Global().select(rows, alive, density)
        return MaskSet(
            {
                view.name: view.from2d(kept[view.name][:, None].expand(view.to2d(masks[view.name]).shape)) & masks[view.name]
                for view in self.views
            }
        )


@dataclass(frozen=True)
class NOfM:
    """``n`` of every ``m`` consecutive weights of a unit; a remainder shorter than ``m`` stays whole."""

    views: tuple[WeightView, ...]
    n: int = 2
    m: int = 4

    def select(self, scores: Scores, masks: MaskSet, density: float) -> MaskSet:
        """See :class:`Selector`; the density is given by the pattern."""
        return MaskSet({view.name: self._mask(view, scores[view.name]) & masks[view.name] for view in self.views})

    def _mask(self, view: WeightView, score: torch.Tensor) -> torch.Tensor:
        rows = view.to2d(score.detach())
        whole = rows.shape[1] - rows.shape[1] % self.m
        blocks = rows[:, :whole].reshape(len(rows), -1, self.m)
        best = torch.sort(blocks, dim=2, descending=True, stable=True).indices[..., : self.n]
        mask = torch.ones_like(rows, dtype=torch.bool)
        mask[:, :whole] = torch.zeros_like(blocks, dtype=torch.bool).scatter_(2, best, True).reshape(len(rows), whole)
        return view.from2d(mask)


def uniform(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """The same density everywhere."""
    return dict.fromkeys(shapes, density)


def uniform_plus(shapes: Mapping[str, tuple[int, ...]], density: float, first: str, last: str) -> dict[str, float]:
    """Uniform, but the first layer whole and at least a fifth of the last one; the others make up for it.

    Raises
    ------
    RecipeError
        The two ends alone hold more than the density allows.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    fixed = {first: 1.0, last: max(density, UNIFORM_PLUS_LAST)}
    left = density * sum(sizes.values()) - sum(share * sizes[name] for name, share in fixed.items())
    others = [name for name in shapes if name not in fixed]
    share = left / sum(sizes[name] for name in others) if others else 0.0
    if left < 0:
        raise RecipeError("the first and last layer alone hold more than the density allows", where=f"density {density:g}")
    return {name: fixed.get(name, min(1.0, share)) for name in shapes}


def erk(shapes: Mapping[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """Erdős-Rényi-Kernel densities: proportional to the sum of a tensor's sizes over their product.

    Evci, Gale, Menick, Castro, Elsen. Rigging the Lottery. ICML 2020, section 3.  A layer that would need more than all of its
    weights becomes dense, and the factor is solved for anew.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items() if name not in dense}
        wanted = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        factor = wanted / sum(raw[name] * sizes[name] for name in raw) if raw else 0.0
        over = {name for name, share in raw.items() if factor * share > 1}
        if not over:
            return {name: 1.0 if name in dense else max(0.0, factor * raw[name]) for name in shapes}
        dense |= over


def lamp(weight: torch.Tensor) -> torch.Tensor:
    """Scores of layer-adaptive magnitude pruning: a weight's square over the sum of all squares in the layer not below it.

    Lee, Park, Mo, Ahn, Shin. Layer-adaptive Sparsity for the Magnitude-based Pruning. ICLR 2021, eq. (4).  The largest weight
    of every layer scores one, so no layer vanishes.
    """
    squares = weight.detach().reshape(-1).double().square()
    order = torch.sort(squares, descending=True, stable=True).indices
    cumulated = squares[order].cumsum(0)
    scores = torch.empty_like(squares)
    scores[order] = squares[order] / cumulated.clamp_min(torch.finfo(torch.float64).tiny)
    return scores.reshape(weight.shape)
