"""Optimizers over named parameters, and their state as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from shrinkc.training.masks import MaskSet
from shrinkc.training.settings import Settings

Parameters = Mapping[str, torch.nn.Parameter]


class Optimizer:
    """A torch optimizer that knows the names of its parameters.

    Parameters
    ----------
    parameters : mapping of name to Parameter
    settings : Settings
    """

    def __init__(self, parameters: Parameters, settings: Settings) -> None:
        self.parameters = dict(parameters)
        decayed = [parameter for parameter in self.parameters.values() if parameter.ndim >= 2]
        others = [parameter for parameter in self.parameters.values() if parameter.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._torch = _built([group for group in groups if group["params"]], settings)

    def step(self, rate: float) -> None:
        """One step at a learning rate."""
        for group in self._torch.param_groups:
            group["lr"] = rate
        self._torch.step()

    def forget_gradients(self) -> None:
        """Before the next backward pass."""
        self._torch.zero_grad(set_to_none=True)

    @torch.no_grad()
    def mask(self, masks: MaskSet) -> None:
        """Set the state of weights that are masked away to zero."""
        for name in masks:
            parameter = self.parameters.get(name)
            if parameter is not None:
                like = {key: value for key, value in self._torch.state[parameter].items() if _is_like(value, parameter)}
                for value in like.values():
                    value.masked_fill_(~masks[name], 0)

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors by ``name/key``."""
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            for key, value in self._torch.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    found[f"{name}/{key}"] = value
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up from :meth:`state`."""
        for name, parameter in self.parameters.items():
            own = {path[len(name) + 1 :]: value for path, value in tensors.items() if path.rpartition("/")[0] == name}
            if own:
                self._torch.state[parameter] = {key: _placed(value, parameter) for key, value in own.items()}


def _built(groups: list[dict[str, object]], settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0)


def _is_like(value: object, parameter: torch.nn.Parameter) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == parameter.shape


def _placed(value: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """A copy beside the parameter; counters stay where torch keeps them."""
    return value.clone().to(parameter.device) if value.shape == parameter.shape else value.cpu().clone()
