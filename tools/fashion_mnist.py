"""Fashion-MNIST for the tools that train models: reading, augmenting, measuring, and one way of training.

The data is Debian's package ``dataset-fashion-mnist`` (MIT).
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

FOLDER = Path("/usr/share/datasets/fashion-mnist")

Penalty = Callable[[float], "torch.Tensor | float"]
"""Term added to the loss, given how much of the training is done."""


def read_idx(path: Path) -> np.ndarray:
    """Read one gzip-compressed idx file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    dims = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(dims)).reshape(dims)


def load_split(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as float32 (N, 1, 28, 28) in [0, 1], labels as int64 (N,)."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz").astype(np.float32) / 255
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz").astype(np.int64)
    return torch.from_numpy(images[:, None]), torch.from_numpy(labels)


def augment(x: torch.Tensor) -> torch.Tensor:
    """Random shift by up to two pixels for the batch, random horizontal flip per image."""
    dy, dx = torch.randint(0, 5, (2,)).tolist()
    x = F.pad(x, (2, 2, 2, 2))[:, :, dy : dy + 28, dx : dx + 28]
    flip = torch.rand(len(x)) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(3), x)


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Top-1 accuracy in [0, 1]."""
    model.eval()
    hits = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    return hits / len(y)


def no_penalty(progress: float) -> float:
    """Plain training."""
    return 0.0


def train(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, penalty: Penalty = no_penalty, batch: int = 128
) -> None:
    """Train by SGD with a one-cycle learning rate, in bfloat16."""
    per_epoch = len(x) // batch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, epochs * per_epoch, pct_start=0.2)
    for epoch in range(epochs):
        model.train()
        started, total = time.time(), 0.0
        for number, index in enumerate(torch.randperm(len(x)).split(batch)[:per_epoch]):
            inputs = augment(x[index]).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), y[index]) + penalty((epoch + number / per_epoch) / epochs)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / per_epoch:.4f}, {time.time() - started:.0f} s", flush=True)
