"""Transformers for images, language and speech, one small network per family."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.torch_blocks import Block, ConvBnRelu, InvertedResidual, Mlp, SelfAttention, masked, relative_positions, stack
from models.torch_networks import VOCABULARY, image, network


@network("vit", image(16), 0.54, left_of_everything=0.22, is_representative=True)
class ViT(nn.Module):
    """Patches, class token, learned positions, blocks with fused queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32) * 0.1)
        self.blocks, self.norm, self.head = stack(Block(32, 4, 64), Block(32, 4, 64)), nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


@network("vit_of_torchvision", image(16), 0.57, left_of_everything=0.24)
class TorchvisionViT(nn.Module):
    """The same with nn.MultiheadAttention, as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.randn(1, 1, 32))
        self.positions, self.drop = nn.Parameter(torch.randn(1, 17, 32) * 0.1), nn.Dropout(0.1)
        self.norm1, self.attention = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True)
        self.norm2, self.mlp, self.norm, self.head = nn.LayerNorm(32), Mlp(32, 64), nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).reshape(x.shape[0], 32, 16).permute(0, 2, 1)
        x = self.drop(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions)
        y = self.norm1(x)
        x = x + self.drop(self.attention(y, y, y, need_weights=False)[0])
        return self.head(self.norm(x + self.mlp(self.norm2(x)))[:, 0])


def shift_mask(size: int, side: int, shift: int) -> torch.Tensor:
    """Windows by pairs of their positions: a large negative number where the roll brought together what is far apart."""
    areas = torch.zeros(size, size)
    cuts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
        areas[rows, columns] = number
    areas = areas.view(size // side, side, size // side, side).permute(0, 2, 1, 3).reshape(-1, side**2)
    apart = areas.unsqueeze(1) - areas.unsqueeze(2)
    return apart.masked_fill(apart != 0, -100.0)


class WindowAttention(nn.Module):
    """Windows of a rolled map, with a table of relative biases and a mask between what was not adjacent."""

    SIDE = 4

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.qkv_and_scores = SelfAttention(width, heads)
        self.table = nn.Parameter(torch.randn((2 * self.SIDE - 1) ** 2, heads) * 0.1)
        self.register_buffer("index", relative_positions(self.SIDE).flatten())
        self.register_buffer("mask", shift_mask(8, self.SIDE, shift) if shift else None)

    def attention(self, x: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return self.qkv_and_scores(x, bias, mask)

    def bias(self) -> torch.Tensor:
        length = self.SIDE**2
        return self.table[self.index].view(length, length, -1).permute(2, 0, 1).contiguous().unsqueeze(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, channels = x.shape
        side = self.SIDE
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(batch, height // side, side, width // side, side, channels)
        windows = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)
        windows = self.attention(windows, self.bias(), self.mask)
        x = windows.view(batch, height // side, width // side, side, side, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class SwinBlock(nn.Module):
    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), WindowAttention(width, heads, shift)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighbours become one; ``norm_first`` as in Swin, else as in Swin v2."""

    def __init__(self, width: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first, self.norm = norm_first, nn.LayerNorm(4 * width if norm_first else 2 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = [x[:, row::2, column::2, :] for column in (0, 1) for row in (0, 1)]
        x = torch.cat(corners, -1)
        return self.reduce(self.norm(x)) if self.norm_first else self.norm(self.reduce(x))


class Swin(nn.Module):
    def __init__(self, block: type[nn.Module], *, norm_first: bool) -> None:
        super().__init__()
        self.patches, self.norm0 = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.stage1 = stack(block(16, 4, 0), block(16, 4, 2))
        self.merge, self.stage2 = PatchMerging(16, norm_first=norm_first), block(32, 4, 0)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm0(self.patches(x).permute(0, 2, 3, 1))
        x = self.norm(self.stage2(self.merge(self.stage1(x))))
        return self.head(x.permute(0, 3, 1, 2).mean((2, 3)))


@network("swin", image(16), 0.55, left_of_everything=0.21)
def swin() -> nn.Module:
    return Swin(SwinBlock, norm_first=True)


class CosineWindowAttention(WindowAttention):
    """Swin v2: cosines of queries and keys, a temperature per head, biases computed from log-spaced positions."""

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__(width, heads, shift)
        del self.table, self.qkv_and_scores
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.log(10 * torch.rand(heads, 1, 1) + 1))
        self.positions = stack(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, heads, bias=False))
        steps = torch.arange(1.0 - self.SIDE, self.SIDE)
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1) * 8 / (self.SIDE - 1)
        self.register_buffer("grid", torch.sign(grid) * torch.log2(grid.abs() + 1) / 3)

    def bias(self) -> torch.Tensor:
        length, table = self.SIDE**2, self.positions(self.grid).view(-1, self.heads)
        bias = table[self.index].view(length, length, -1).permute(2, 0, 1).contiguous()
        return 16 * torch.sigmoid(bias).unsqueeze(0)

    def attention(self, x: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        cosines = F.normalize(parts[0], dim=-1) @ F.normalize(parts[1], dim=-1).transpose(-2, -1)
        scores = cosines * torch.clamp(self.scale, max=math.log(100.0)).exp() + bias
        return self.out((masked(scores, mask).softmax(-1) @ parts[2]).transpose(1, 2).reshape(batch, length, width))


class SwinV2Block(nn.Module):
    """The norms lie behind the branches."""

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), CosineWindowAttention(width, heads, shift)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.norm1(self.attention(x))
        return x + self.norm2(self.mlp(x))


@network("swin_v2", image(16), 0.55, left_of_everything=0.30, why="dims of cosines are only removed where heads are not")
def swin_v2() -> nn.Module:
    return Swin(SwinV2Block, norm_first=False)


class PartitionAttention(nn.Module):
    """MaxViT: attention inside windows of neighbours, or over a grid of distant pixels."""

    SIDE = 4

    def __init__(self, width: int, heads: int, *, over_grid: bool) -> None:
        super().__init__()
        self.over_grid, self.norm1, self.attention = over_grid, nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 2 * width)
        self.table = nn.Parameter(torch.randn((2 * self.SIDE - 1) ** 2, heads) * 0.1)
        self.register_buffer("index", relative_positions(self.SIDE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        side = height // self.SIDE if self.over_grid else self.SIDE
        x = x.reshape(batch, channels, height // side, side, width // side, side).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(batch, (height // side) * (width // side), side * side, channels)
        if self.over_grid:
            x = x.swapaxes(-2, -3)
        cells, length = x.shape[1:3]
        y = self.attention(self.norm1(x).reshape(-1, length, channels), self.table[self.index].permute(2, 0, 1).unsqueeze(0))
        x = x + y.reshape(batch, cells, length, channels)
        x = x + self.mlp(self.norm2(x))
        if self.over_grid:
            x = x.swapaxes(-2, -3)
        x = x.reshape(batch, height // side, width // side, side, side, channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(batch, channels, height, width)


@network("maxvit", image(16), 0.51, left_of_everything=0.25)
class MaxViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = stack(ConvBnRelu(3, 16, 3, 2, act=nn.GELU), nn.Conv2d(16, 16, 3, padding=1))
        self.mbconv = InvertedResidual(16, 48, 16, squeeze=4, act=nn.GELU)
        self.blocks = stack(PartitionAttention(16, 4, over_grid=False), PartitionAttention(16, 4, over_grid=True))
        self.head = stack(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.mbconv(self.stem(x))))


@network("mobilevit", image(16), 0.37, left_of_everything=0.24, why="most of the work is in convolutions")
class MobileViT(nn.Module):
    """Convolutions, patches unfolded so that equal places of all patches attend to each other, and folded back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.local = ConvBnRelu(3, 16, 3, 2, act=nn.SiLU), ConvBnRelu(16, 16, act=nn.SiLU)
        self.into, self.block, self.norm = nn.Conv2d(16, 24, 1, bias=False), Block(24, 4, 48), nn.LayerNorm(24)
        self.back, self.fuse = ConvBnRelu(24, 16, 1, act=nn.SiLU), ConvBnRelu(32, 16, act=nn.SiLU)
        self.last, self.head = InvertedResidual(16, 32, 24, 2, act=nn.SiLU), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.into(self.local(x))
        batch, channels, height, width = y.shape
        rows, columns = height // 2, width // 2
        y = y.reshape(batch * channels * rows, 2, columns, 2).transpose(1, 2)
        y = y.reshape(batch, channels, rows * columns, 4).transpose(1, 3).reshape(batch * 4, rows * columns, channels)
        y = self.norm(self.block(y))
        y = y.reshape(batch, 4, rows * columns, channels).transpose(1, 3)
        y = y.reshape(batch * channels * rows, columns, 2, 2).transpose(1, 2).reshape(batch, channels, height, width)
        y = self.fuse(torch.cat([x, self.back(y)], 1))
        return self.head(self.last(y).mean((2, 3)))


class ReducedAttention(nn.Module):
    """PVT and SegFormer: keys and values come from a map that a convolution with stride makes smaller."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads, self.q, self.kv = heads, nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.reduce, self.norm, self.out = nn.Conv2d(width, width, ratio, ratio), nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        batch, length, channels = x.shape
        q = self.q(x).reshape(batch, length, self.heads, channels // self.heads).permute(0, 2, 1, 3)
        small = self.reduce(x.permute(0, 2, 1).reshape(batch, channels, height, width))
        small = self.norm(small.reshape(batch, channels, -1).permute(0, 2, 1))
        kv = self.kv(small).reshape(batch, -1, 2, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ kv[0].transpose(-2, -1)) * (channels // self.heads) ** -0.5
        return self.out((scores.softmax(-1) @ kv[1]).transpose(1, 2).reshape(batch, length, channels))


class MixMlp(nn.Module):
    """A depthwise convolution between the two linear layers."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, inner), nn.Linear(inner, width)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)

    def forward(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        x = self.first(x)
        batch, _, channels = x.shape
        x = self.conv(x.transpose(1, 2).view(batch, channels, height, width)).flatten(2).transpose(1, 2)
        return self.last(F.gelu(x))


class PyramidStage(nn.Module):
    """Patches, one block with reduced attention, back to a map."""

    def __init__(self, inputs: int, width: int, ratio: int, *, mixes: bool) -> None:
        super().__init__()
        k = 3 if mixes else 2
        self.patches, self.norm0, self.mixes = (
            nn.Conv2d(inputs, width, k, 2, k // 2 if mixes else 0),
            nn.LayerNorm(width),
            mixes,
        )
        self.norm1, self.attention = nn.LayerNorm(width), ReducedAttention(width, 4, ratio)
        self.norm2, self.mlp = nn.LayerNorm(width), MixMlp(width, 2 * width) if mixes else Mlp(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x)
        batch, channels, height, width = x.shape
        x = self.norm0(x.flatten(2).transpose(1, 2))
        x = x + self.attention(self.norm1(x), height, width)
        y = self.norm2(x)
        x = x + (self.mlp(y, height, width) if self.mixes else self.mlp(y))
        return x.reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()


@network("pvt", image(16), 0.56, left_of_everything=0.23)
class Pvt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = PyramidStage(3, 16, 2, mixes=False), PyramidStage(16, 32, 2, mixes=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stage2(self.stage1(x)).flatten(2).mean(2))


@network("segformer", image(16), 0.56, left_of_everything=0.27, why="the classes of the last convolution stay")
class SegFormer(nn.Module):
    """Every stage goes through a linear layer, is resized to the first, and all are fused."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = PyramidStage(3, 16, 2, mixes=True), PyramidStage(16, 32, 2, mixes=True)
        self.linear1, self.linear2 = nn.Linear(16, 24), nn.Linear(32, 24)
        self.fuse, self.out = ConvBnRelu(48, 24, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.stage1(x)
        second = self.stage2(first)
        maps = []
        for stage, linear in ((first, self.linear1), (second, self.linear2)):
            batch, _, height, width = stage.shape
            y = linear(stage.flatten(2).transpose(1, 2)).permute(0, 2, 1).reshape(batch, -1, height, width)
            maps.append(F.interpolate(y, size=first.shape[2:], mode="bilinear", align_corners=False))
        return self.out(self.fuse(torch.cat(maps[::-1], 1)))


class BertLayer(nn.Module):
    """The norms lie behind the sums; queries, keys and values have layers of their own."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(width), nn.LayerNorm(width), Mlp(width, inner)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).permute(0, 2, 1, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask).softmax(-1)
        context = (scores @ v).permute(0, 2, 1, 3).contiguous().view(*x.shape)
        x = self.norm1(x + self.out(context))
        return self.norm2(x + self.mlp(x))


@network("bert", {"tokens": (10,), "kinds": (10,), "mask": (10,)}, 0.51, left_of_everything=0.20)
class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.kinds = (nn.Embedding(size, 32) for size in (VOCABULARY, 10, VOCABULARY))
        self.norm, self.layers = nn.LayerNorm(32), nn.ModuleList(BertLayer(32, 4, 64) for _ in range(2))
        self.pool, self.head = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, tokens: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(tokens) + self.kinds(kinds) + self.positions(torch.arange(10)))
        for layer in self.layers:
            x = layer(x, (1.0 - mask[:, None, None, :]) * -10000.0)
        return self.head(torch.tanh(self.pool(x[:, 0])))


class Conv1D(nn.Module):
    """GPT-2's linear layer, whose weight lies the other way round."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) * 0.2), nn.Parameter(torch.randn(outputs) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.bias.shape[0])


class Gpt2Block(nn.Module):
    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out, self.first, self.last = (
            Conv1D(*sizes) for sizes in ((width, 3 * width), (width, width), (width, 2 * width), (2 * width, width))
        )
        self.register_buffer("causal", torch.tril(torch.ones(length, length, dtype=torch.bool))[None, None])

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (y.view(batch, length, self.heads, -1).permute(0, 2, 1, 3) for y in self.qkv(x).split(width, dim=2))
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        scores = torch.where(self.causal[:, :, :length, :length], scores, torch.full([], -1e9))
        return self.out((scores.softmax(-1) @ v).permute(0, 2, 1, 3).contiguous().view(batch, length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attended(self.norm1(x))
        return x + self.last(F.gelu(self.first(self.norm2(x)), approximate="tanh"))


@network("gpt2", {"tokens": (10,)}, 0.56, left_of_everything=0.23, why="the outputs, one for each token, stay")
class Gpt2(nn.Module):
    """The output layer is the table of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, 32), nn.Embedding(16, 32)
        self.blocks, self.norm = nn.ModuleList(Gpt2Block(32, 4, 16) for _ in range(2)), nn.LayerNorm(32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class LlamaBlock(nn.Module):
    """Rotary positions, two query heads for each key head, a gated MLP, no biases."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads, self.dims = heads, width // heads
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.q, self.k, self.v, self.out = (
            nn.Linear(width, outputs, bias=False) for outputs in (width, width // 2, width // 2, width)
        )
        self.gate, self.up, self.down = (
            nn.Linear(*sizes, bias=False) for sizes in ((width, inner), (width, inner), (inner, width))
        )

    def rotated(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        first, second = x[..., : self.dims // 2], x[..., self.dims // 2 :]
        return x * cos + torch.cat((-second, first), -1) * sin

    def repeated(self, x: torch.Tensor) -> torch.Tensor:
        batch, heads, length, dims = x.shape
        return x[:, :, None].expand(batch, heads, 2, length, dims).reshape(batch, 2 * heads, length, dims)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        batch, length, _ = x.shape
        q, k, v = (part(y).view(batch, length, -1, self.dims).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = self.rotated(q, cos, sin), self.repeated(self.rotated(k, cos, sin))
        scores = (q @ k.transpose(2, 3) / math.sqrt(self.dims) + mask).softmax(-1)
        y = (scores @ self.repeated(v)).transpose(1, 2).contiguous().reshape(batch, length, -1)
        x = x + self.out(y)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


@network(
    "llama",
    {"tokens": (10,)},
    0.55,
    left_of_everything=0.27,
    why="the outputs, one for each token, stay",
    is_representative=True,
)
class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.norm = nn.Embedding(VOCABULARY, 32), nn.Linear(32, VOCABULARY, bias=False), RmsNorm(32)
        self.blocks = nn.ModuleList(LlamaBlock(32, 4, 64) for _ in range(2))
        self.register_buffer("frequencies", 1.0 / 10 ** torch.arange(4.0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        angles = torch.arange(length)[:, None] * self.frequencies[None]
        angles = torch.cat((angles, angles), -1)
        mask = torch.triu(torch.full((length, length), -1e9), 1)
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin(), mask)
        return self.head(self.norm(x))


class WhisperAttention(nn.Module):
    """Self or cross attention by scaled_dot_product_attention; keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.key = heads, nn.Linear(width, width, bias=False)
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None, *, is_causal: bool = False) -> torch.Tensor:
        source = x if other is None else other
        q, k, v = (
            y.view(*y.shape[:2], self.heads, -1).permute(0, 2, 1, 3)
            for y in (self.query(x), self.key(source), self.value(source))
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        return self.out(y.permute(0, 2, 1, 3).flatten(start_dim=2))


class WhisperBlock(nn.Module):
    def __init__(self, width: int, heads: int, *, crosses: bool) -> None:
        super().__init__()
        self.norm1, self.attention, self.is_causal = nn.LayerNorm(width), WhisperAttention(width, heads), crosses
        self.norm2, self.cross = (nn.LayerNorm(width), WhisperAttention(width, heads)) if crosses else (None, None)
        self.norm3, self.mlp = nn.LayerNorm(width), Mlp(width, 2 * width)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), is_causal=self.is_causal)
        if self.norm2 is not None and self.cross is not None:
            x = x + self.cross(self.norm2(x), other)
        return x + self.mlp(self.norm3(x))


@network("whisper", {"x": (8, 24), "tokens": (6,)}, 0.53, left_of_everything=0.23)
class Whisper(nn.Module):
    """Convolutions over time, an encoder, and a decoder that attends to it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(8, 32, 3, padding=1), nn.Conv1d(32, 32, 3, stride=2, padding=1)
        self.register_buffer("sinusoids", torch.randn(12, 32) * 0.1)
        self.encoder, self.norm1 = WhisperBlock(32, 4, crosses=False), nn.LayerNorm(32)
        self.embed, self.positions = nn.Embedding(VOCABULARY, 32), nn.Parameter(torch.randn(16, 32) * 0.1)
        self.decoder, self.norm2 = WhisperBlock(32, 4, crosses=True), nn.LayerNorm(32)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).permute(0, 2, 1)
        heard = self.norm1(self.encoder(x + self.sinusoids))
        y = self.embed(tokens) + self.positions[: tokens.shape[-1]]
        y = self.norm2(self.decoder(y, heard))
        return y @ self.embed.weight.transpose(0, 1)


class DetrLayer(nn.Module):
    """Positions are added to queries and keys only; attention as torch.nn has it, length first."""

    def __init__(self, width: int, *, crosses: bool) -> None:
        super().__init__()
        self.attention, self.norm1 = nn.MultiheadAttention(width, 4), nn.LayerNorm(width)
        self.cross, self.norm2 = (nn.MultiheadAttention(width, 4), nn.LayerNorm(width)) if crosses else (None, None)
        self.mlp, self.norm3 = Mlp(width, 2 * width, nn.ReLU), nn.LayerNorm(width)

    def forward(
        self, x: torch.Tensor, places: torch.Tensor, other: torch.Tensor | None = None, other_places: torch.Tensor | None = None
    ) -> torch.Tensor:
        q = x + places
        x = self.norm1(x + self.attention(q, q, x)[0])
        if self.cross is not None and self.norm2 is not None:
            x = self.norm2(x + self.cross(x + places, other + other_places, other)[0])
        return self.norm3(x + self.mlp(x))


@network("detr", image(32), 0.47, left_of_everything=0.22)
class Detr(nn.Module):
    """Convolutions, an encoder over the cells, a decoder over learned queries, classes and boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = stack(ConvBnRelu(3, 12, stride=4), ConvBnRelu(12, 24, stride=2))
        self.project = nn.Conv2d(24, 32, 1)
        self.rows, self.columns = nn.Parameter(torch.rand(4, 16)), nn.Parameter(torch.rand(4, 16))
        self.encoder, self.decoder = DetrLayer(32, crosses=False), DetrLayer(32, crosses=True)
        self.queries, self.norm, self.classes = nn.Embedding(5, 32), nn.LayerNorm(32), nn.Linear(32, 4)
        self.boxes = stack(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.project(self.backbone(x))
        batch, _, height, width = x.shape
        places = torch.cat(
            [self.columns[:width].unsqueeze(0).repeat(height, 1, 1), self.rows[:height].unsqueeze(1).repeat(1, width, 1)], -1
        )
        places = places.flatten(0, 1).unsqueeze(1)
        seen = self.encoder(x.flatten(2).permute(2, 0, 1), places)
        queries = self.queries.weight.unsqueeze(1).repeat(1, batch, 1)
        y = self.norm(self.decoder(torch.zeros_like(queries), queries, seen, places)).transpose(0, 1)
        return self.classes(y), self.boxes(y).sigmoid()


@network(
    "mlp_mixer",
    image(16),
    0.72,
    left_of_everything=0.36,
    why="hidden units over the patches stay: their values carry the channels of the stream already",
)
class MlpMixer(nn.Module):
    """Linear layers over the patches and over the channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm1, self.norm2 = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32), nn.LayerNorm(32)
        self.over_patches, self.over_channels = Mlp(16, 24), Mlp(32, 64)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.over_patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.over_channels(self.norm2(x))
        return self.head(self.norm(x).mean(1))
