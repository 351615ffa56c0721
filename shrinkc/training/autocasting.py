"""Arithmetic in bfloat16 where the device is faster with it; weights, statistics and losses stay in float32."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from shrinkc.training.executor import Executor
from shrinkc.training.feeding import moved
from shrinkc.training.objective import Objective
from shrinkc.training.samples import Batch
from shrinkc.training.settings import Settings

MOST_OFF = 0.1
"""Most that the loss of a batch may differ, relative to it; bfloat16 keeps 8 bits, and training is noisier than that."""


def computes_in_bfloat16(device: str) -> bool:
    """Whether a device has instructions for bfloat16; where it has none torch emulates them, slowly."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
    return any(name.endswith("bf16") and bool(found) for name, found in capabilities.items())


def autocast(settings: Settings) -> AbstractContextManager[object]:
    """Context in which the model is run in training."""
    return torch.autocast(settings.device, torch.bfloat16) if settings.precision == "bfloat16" else nullcontext()


def settled(settings: Settings, executor: Executor, objective: Objective, batch: Batch) -> Settings:
    """Settings whose precision is no longer ``auto``: bfloat16 if the device has it and hardly changes a batch's loss."""
    if settings.precision != "auto":
        return settings
    fits = computes_in_bfloat16(settings.device) and _is_near(settings, executor, objective, moved(batch, settings.device))
    return replace(settings, precision="bfloat16" if fits else "float32")


def _is_near(settings: Settings, executor: Executor, objective: Objective, batch: Batch) -> bool:
    executor.eval()
    exact = _loss(settings, executor, objective, batch)
    try:
        rounded = _loss(replace(settings, precision="bfloat16"), executor, objective, batch)
    except RuntimeError:  # an operator that torch does not have in bfloat16, or whose inputs no longer agree
        return False
    return math.isfinite(rounded) and abs(rounded - exact) <= MOST_OFF * abs(exact)


def _loss(settings: Settings, executor: Executor, objective: Objective, batch: Batch) -> float:
    """Of a batch, with its gradients, which are forgotten."""
    with autocast(settings):
        values = executor(batch.inputs, also=objective.inside)
    loss = objective(values, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in executor.parameters():
        parameter.grad = None
    return float(loss.detach())
