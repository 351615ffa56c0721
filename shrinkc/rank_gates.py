"""Gates on the components of open layers, and what a model is expected to cost under them.

See :mod:`shrinkc.passes.training.flop`, which is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from shrinkc.factors import Work
from shrinkc.open_factors import OpenLayer
from shrinkc.training import streams
from shrinkc.training.context import Context
from shrinkc.training.hard_concrete import HardConcrete
from shrinkc.training.masks import MaskSet

DEVIATION = 0.01
"""Of what ``log_alpha`` begins with."""


FARTHEST, HALVINGS = 30.0, 40
"""How far an offset is looked for, and in how many steps."""


@dataclass(frozen=True)
class Size:
    """What a model with open layers costs, as a share of the original.

    Attributes
    ----------
    layers : sequence of OpenLayer
    quantity : str
        ``macs`` or ``parameters``.
    total : int
        Of the original.
    """

    layers: Sequence[OpenLayer]
    quantity: str
    total: int

    @property
    def rest(self) -> int:
        """What other layers cost."""
        return self.total - sum(self._of(layer.whole) for layer in self.layers)

    @property
    def least(self) -> float:
        """With one component a layer."""
        return (self.rest + sum(self._of(layer.work(1)) for layer in self.layers)) / self.total

    def _of(self, work: Work) -> int:
        return work.macs if self.quantity == "macs" else work.parameters

    def expected(self, components: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Share for expected numbers of components by layer: scalar, differentiable."""
        costs = []
        for layer in self.layers:
            cost, whole = components[layer.name] * float(self._of(layer.component)), float(self._of(layer.whole))
            costs.append(cost + (cost.clamp(max=whole) - cost).detach())
        return (self.rest + torch.stack(costs).sum()) / self.total


class Gates:
    """The gates of all layers; also the parametrization that puts them on second factors.

    Parameters
    ----------
    layers : sequence of OpenLayer
    family : HardConcrete
    mean : float
        Of ``log_alpha`` at first.
    seed : int
    device : str
    """

    is_dense = True

    def __init__(self, layers: Sequence[OpenLayer], family: HardConcrete, mean: float, seed: int, device: str) -> None:
        self.layers, self.family, self._seed = layers, family, seed
        self.log_alpha: dict[str, torch.nn.Parameter] = {}
        for number, layer in enumerate(layers):
            normal = torch.randn(layer.rank, generator=streams.generator(seed, "gates", number))
            first = mean + DEVIATION * normal.sort(descending=True).values
            self.log_alpha[layer.name] = torch.nn.Parameter(first.to(device))
        self._by_weight = {layer.second: layer for layer in layers}
        self._unit = float(family.without_zeros(torch.tensor(mean)))
        self._uniform: dict[str, torch.Tensor] = {}
        self.offset = 0.0
        """Added to ``log_alpha`` where it is decided how many gates are open."""

    def draw(self, cycle: int, step: int) -> None:
        """Draw the gates of one step; they are the same in all its parts and for all processes."""
        for number, layer in enumerate(self.layers):
            source = streams.generator(self._seed, "gate noise", cycle, step, number)
            device = self.log_alpha[layer.name].device
            self._uniform[layer.name] = torch.rand(layer.rank, generator=source).to(device)

    def settle(self) -> None:
        """Nothing is drawn until :meth:`draw`."""
        self._uniform = {}

    def of(self, name: str) -> torch.Tensor:
        """What the components of a layer are multiplied by, ``(rank,)``; 1 is what a gate begins with on average."""
        log_alpha = self.log_alpha[name]
        if name in self._uniform:
            return self.family.drawn(log_alpha, self._uniform[name]) / self._unit
        return self.family.settled(log_alpha.detach(), self.offset) / self._unit

    def components(self, offset: float = 0.0) -> dict[str, torch.Tensor]:
        """Expected number of open gates by layer, in closed form; with ``log_alpha`` higher by an offset."""
        return {name: self.family.open_probability(log_alpha + offset).sum() for name, log_alpha in self.log_alpha.items()}

    @torch.no_grad()
    def close_in(self, size: Size, target: float) -> None:
        """Find the offset at which the expected size is the target: what a training too short has left between them."""
        low, high = -FARTHEST, FARTHEST
        for _ in range(HALVINGS):
            self.offset = (low + high) / 2
            if float(size.expected(self.components(self.offset))) > target:
                high = self.offset
            else:
                low = self.offset

    def effective(self, name: str, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See :class:`shrinkc.training.interfaces.Parametrization`."""
        layer = self._by_weight.get(name)
        return weight if layer is None else weight * self.along(layer, self.of(layer.name), weight).to(weight.dtype)

    def along(self, layer: OpenLayer, components: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """One number a component, shaped to be broadcast against the second factor."""
        return components.reshape([-1 if axis == layer.second_axis else 1 for axis in range(second.ndim)])

    @torch.no_grad()
    def fold(self, context: Context) -> None:
        """Put the settled gates into the second factors, and masks on the components that they leave."""
        masks: dict[str, torch.Tensor] = {}
        for layer in self.layers:
            kept = self.family.kept(self.log_alpha[layer.name] + self.offset)
            first, second = context.tensors[layer.first], context.tensors[layer.second]
            second.mul_(self.along(layer, self.of(layer.name), second))
            masks[layer.second] = self.along(layer, kept, second).expand_as(second).clone()
            rows = kept.repeat(layer.groups)
            shape = [-1 if axis == layer.first_axis else 1 for axis in range(first.ndim)]
            masks[layer.first] = rows.reshape(shape).expand_as(first).clone()
        context.masks = MaskSet(masks)
