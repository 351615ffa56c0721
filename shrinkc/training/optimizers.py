"""Optimizers over named parameters, and their state as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from shrinkc.training.masks import MaskSet
from shrinkc.training.settings import Settings

Parameters = Mapping[str, torch.nn.Parameter]

PRECISE = "precise"
"""Key of a copy in float32 in the state."""


class Optimizer:
    """A torch optimizer that knows the names of its parameters.

    Parameters of half precision are trained as copies in float32, and rounded after every step: small steps, and squares of
    small gradients, would be nothing in theirs.

    Parameters
    ----------
    parameters : mapping of name to Parameter
    settings : Settings
    """

    def __init__(self, parameters: Parameters, settings: Settings) -> None:
        self.parameters = dict(parameters)
        self._trained = {name: _precise(parameter) for name, parameter in self.parameters.items()}
        decayed = [parameter for parameter in self._trained.values() if parameter.ndim >= 2]
        others = [parameter for parameter in self._trained.values() if parameter.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._torch = _built([group for group in groups if group["params"]], settings)

    def step(self, rate: float) -> None:
        """One step at a learning rate."""
        for group in self._torch.param_groups:
            group["lr"] = rate
        copies = [(self.parameters[name], copy) for name, copy in self._trained.items() if copy is not self.parameters[name]]
        for parameter, copy in copies:
            _follow(copy, parameter)
        self._torch.step()
        for parameter, copy in copies:
            parameter.data.copy_(copy.data)

    def forget_gradients(self) -> None:
        """Before the next backward pass."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def mask(self, masks: MaskSet) -> None:
        """Set the state of weights that are masked away to zero."""
        for name in masks:
            parameter = self._trained.get(name)
            if parameter is not None:
                like = {key: value for key, value in self._torch.state[parameter].items() if _is_like(value, parameter)}
                for value in like.values():
                    value.masked_fill_(~masks[name], 0)

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors by ``name/key``."""
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self._trained.items():
            held = self._torch.state.get(parameter, {})
            found |= {f"{name}/{key}": value for key, value in held.items() if isinstance(value, torch.Tensor)}
            if parameter is not self.parameters[name]:
                found[f"{name}/{PRECISE}"] = parameter.data
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up from :meth:`state`."""
        for name, parameter in self._trained.items():
            own = {path[len(name) + 1 :]: value for path, value in tensors.items() if path.rpartition("/")[0] == name}
            if PRECISE in own:
                parameter.data.copy_(own.pop(PRECISE))
            if own:
                self._torch.state[parameter] = {key: _placed(value, parameter) for key, value in own.items()}


def _precise(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """The parameter, or a copy in float32 of one of half precision."""
    if parameter.dtype not in (torch.float16, torch.bfloat16):
        return parameter
    return torch.nn.Parameter(parameter.detach().float())


@torch.no_grad()
def _follow(copy: torch.nn.Parameter, parameter: torch.nn.Parameter) -> None:
    """Take over the gradient, and what somebody else wrote into the parameter since its last step."""
    copy.data = torch.where(copy.to(parameter.dtype) == parameter, copy, parameter.float())
    copy.grad = None if parameter.grad is None else parameter.grad.float()


def _built(groups: list[dict[str, object]], settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0)


def _is_like(value: object, parameter: torch.nn.Parameter) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == parameter.shape


def _placed(value: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """A copy beside the parameter; counters stay where torch keeps them."""
    return value.clone().to(parameter.device) if value.shape == parameter.shape else value.cpu().clone()
