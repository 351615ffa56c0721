"""Everything that training changes in a model, by ONNX name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir
import torch

from shrinkc import ir as shrinkc_ir


class Executor(Protocol):
    """What training needs of :class:`shrinkc.training.executor.Executor`."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def statistics(self) -> dict[str, torch.Tensor]:
        """Running means and variances by ONNX name."""

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Parameters by ONNX name."""


@dataclass(frozen=True)
class Normalization:
    """A BatchNormalization with stored statistics: names of what it reads and stores."""

    data: str
    scale: str
    bias: str
    mean: str
    variance: str


def normalizations(model: ir.Model) -> list[Normalization]:
    """All BatchNormalizations of the main graph whose statistics are stored, in its order."""
    found = []
    for node in model.graph:
        if node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx"):
            inputs = [value for value in node.inputs[:5] if value is not None]
            if len(inputs) == 5 and all(shrinkc_ir.constant_tensor(value) is not None for value in inputs[1:]):
                found.append(Normalization(*(value.name or "" for value in inputs)))
    return found


def live(executor: Executor) -> dict[str, torch.Tensor]:
    """Parameters and statistics of a model, the very tensors it computes with."""
    held = {**executor.trainable(), **executor.statistics()}
    return {name: tensor.data for name, tensor in held.items()}


def copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A snapshot."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def laid_out_as(live: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors in memory as the live ones of their names are: another layout is another kernel, and other last bits."""
    return {
        name: torch.empty_like(live[name]).copy_(tensor)
        if name in live and live[name].shape == tensor.shape and live[name].dtype == tensor.dtype
        else tensor
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def put(tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Write values into live tensors of the same names."""
    for name, value in values.items():
        tensors[name].copy_(value)
