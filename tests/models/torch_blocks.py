"""Pieces that several families of networks are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class ConvBnRelu(nn.Sequential):
    """Convolution, batch norm, activation; ``act=None`` leaves the activation out."""

    def __init__(
        self, inputs: int, outputs: int, k: int = 3, stride: int = 1, groups: int = 1, *,
        act: type[nn.Module] | None = nn.ReLU, dilation: int = 1,
    ) -> None:  # fmt: skip
        conv = nn.Conv2d(inputs, outputs, k, stride, dilation * (k // 2), dilation, groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


class SqueezeExcite(nn.Module):
    """A gate per channel, from the mean over space."""

    def __init__(self, width: int, inner: int, act: type[nn.Module] = nn.ReLU, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.pool, self.act, self.gate = nn.AdaptiveAvgPool2d(1), act(), gate()
        self.fc1, self.fc2 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))


class StochasticDepth(nn.Module):
    """Drops whole samples of a branch, in training only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        kept = torch.empty((x.shape[0], 1, 1, 1), device=x.device).bernoulli_(0.8)
        return x * kept / 0.8


class Head(nn.Module):
    """Global pooling, dropout and a linear layer."""

    def __init__(self, inputs: int, classes: int = 5) -> None:
        super().__init__()
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))


class InvertedResidual(nn.Module):
    """Expand, depthwise, gate if asked for, project; a shortcut where widths and sizes agree."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int = 1, *, k: int = 3, squeeze: int = 0,
        act: type[nn.Module] = nn.ReLU6, gate: type[nn.Module] = nn.Sigmoid,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = [ConvBnRelu(inputs, inner, 1, act=act)] if inner != inputs else []
        layers.append(ConvBnRelu(inner, inner, k, stride, inner, act=act))
        if squeeze:
            layers.append(SqueezeExcite(inner, squeeze, act if gate is nn.Sigmoid else nn.ReLU, gate))
        layers.append(ConvBnRelu(inner, outputs, 1, act=None))
        self.body, self.depth = nn.Sequential(*layers), StochasticDepth()
        self.has_shortcut = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.depth(self.body(x)) if self.has_shortcut else self.body(x)


class Mlp(nn.Sequential):
    """Two linear layers with an activation between."""

    def __init__(self, width: int, inner: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__(nn.Linear(width, inner), act(), nn.Dropout(0.1), nn.Linear(inner, width))


def masked(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Scores plus a mask per window, for windows that lie in the batch."""
    if mask is None:
        return scores
    windows, length = mask.shape[:2]
    scores = scores.view(-1, windows, scores.shape[1], length, length) + mask.unsqueeze(1).unsqueeze(0)
    return scores.view(-1, scores.shape[2], length, length)


class SelfAttention(nn.Module):
    """Queries, keys and values from one linear layer, with dot products written out and biases if there are any."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None, mask: torch.Tensor | None = None) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = parts[0] * self.scale @ parts[1].transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        y = masked(scores, mask).softmax(-1) @ parts[2]
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Transformer block with the norms in front."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def relative_positions(side: int) -> torch.Tensor:
    """Index into a table of ``(2 side - 1) ** 2`` biases for every pair of positions of a window."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()])
    apart = places[:, :, None] - places[:, None, :] + side - 1
    return apart[0] * (2 * side - 1) + apart[1]


def stack(*parts: nn.Module | Sequence[nn.Module]) -> nn.Sequential:
    """A sequence of modules and of lists of them."""
    return nn.Sequential(*(m for part in parts for m in (part if isinstance(part, list | tuple) else [part])))
