"""Convolutional classifiers, one small network per family."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from models.torch_blocks import ConvBnRelu, Head, InvertedResidual, SqueezeExcite, StochasticDepth, stack
from models.torch_networks import image, network


@network("alexnet", image(32), 0.36, why="the first convolution, a sixth of the work, is halved once")
class AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = stack(
            nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.classifier = stack(nn.Dropout(), nn.Linear(24 * 9, 48), nn.ReLU(True), nn.Dropout(), nn.Linear(48, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


@network("vgg", image(16), 0.28)
def vgg() -> nn.Module:
    widths, layers = [(3, 16), (16, 16), (16, 24), (24, 32)], list[nn.Module]()
    for number, (inputs, outputs) in enumerate(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True)]
        layers += [nn.MaxPool2d(2, 2)] if number % 2 else []
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 5)]
    return stack(layers, head)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = stack(ConvBnRelu(inputs, outputs, 3, stride), ConvBnRelu(outputs, outputs, act=None))
        self.short = ConvBnRelu(inputs, outputs, 1, stride, act=None) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.short(x))


class Bottleneck(nn.Module):
    """Bottleneck with grouped convolution, and a gate if asked for; projects where the width changes."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1, groups: int = 1, squeeze: int = 0) -> None:
        super().__init__()
        self.body = stack(
            ConvBnRelu(inputs, width, 1), ConvBnRelu(width, width, 3, stride, groups),
            [SqueezeExcite(width, squeeze)] if squeeze else [], ConvBnRelu(width, outputs, 1, act=None),
        )  # fmt: skip
        is_same = inputs == outputs and stride == 1
        self.short = nn.Identity() if is_same else ConvBnRelu(inputs, outputs, 1, stride, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.short(x))


@network("resnet", image(16), 0.39, why="the wide first convolution, a third of the work, is halved once")
def resnet() -> nn.Module:
    stem = [ConvBnRelu(3, 12, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return stack(
        stem, BasicBlock(12, 12, 1), BasicBlock(12, 24, 2), Bottleneck(24, 12, 32, 1), Bottleneck(32, 12, 32), Head(32)
    )


@network("wide_resnet", image(16), 0.26)
def wide_resnet() -> nn.Module:
    return stack(
        ConvBnRelu(3, 12, 3, 2), Bottleneck(12, 24, 24, 1), Bottleneck(24, 32, 32, 2), Bottleneck(32, 32, 32), Head(32)
    )


@network("resnext", image(16), 0.32, is_representative=True)
def resnext() -> nn.Module:
    return stack(
        ConvBnRelu(3, 16), Bottleneck(16, 16, 32, 2, 4, squeeze=8), Bottleneck(32, 24, 48, 2, 3, squeeze=8),
        Bottleneck(48, 24, 48, 1, 3), Head(48, 7),
    )  # fmt: skip


@network("regnet_x", image(16), 0.30)
def regnet_x() -> nn.Module:
    return stack(ConvBnRelu(3, 16, 3, 2), Bottleneck(16, 24, 24, 2, 3), Bottleneck(24, 24, 24, 1, 3), Head(24))


@network("regnet_y", image(16), 0.30)
def regnet_y() -> nn.Module:
    blocks = [Bottleneck(16, 24, 24, 2, 3, squeeze=4), Bottleneck(24, 24, 24, 1, 3, squeeze=6)]
    return stack(ConvBnRelu(3, 16, 3, 2), blocks, Head(24))


class Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1, self.expand3 = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1(x)), F.relu(self.expand3(x))], 1)


@network("squeezenet", image(16), 0.38, why="the first convolution is halved once, and so is the last, which gives the classes")
def squeezenet() -> nn.Module:
    features = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16, 8, 12), Fire(24, 8, 16)]
    return stack(features, nn.Dropout(), nn.Conv2d(32, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        inner = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(inner)))


class DenseBlock(nn.Module):
    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + number * growth, growth) for number in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


@network("densenet", image(16), 0.27)
def densenet() -> nn.Module:
    transition = [nn.BatchNorm2d(36), nn.ReLU(), nn.Conv2d(36, 18, 1, bias=False), nn.AvgPool2d(2, 2)]
    last = [nn.BatchNorm2d(34), nn.ReLU()]
    return stack(ConvBnRelu(3, 12, 3, 2), DenseBlock(12, 8, 3), transition, DenseBlock(18, 8, 2), last, Head(34))


class Inception(nn.Module):
    """Four branches, one of them behind a pooling."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.branch1, self.branch2 = ConvBnRelu(inputs, a, 1), stack(ConvBnRelu(inputs, b, 1), ConvBnRelu(b, b))
        self.branch3 = stack(ConvBnRelu(inputs, c, 1), ConvBnRelu(c, c))
        self.branch4 = stack(nn.MaxPool2d(3, 1, 1, ceil_mode=True), ConvBnRelu(inputs, d, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Normalised(nn.Module):
    """Rescales each colour of the image, as GoogLeNet and Inception do with weights trained elsewhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, number : number + 1] * (0.45 + 0.01 * number) - 0.03 * number for number in range(3)]
        return torch.cat(parts, 1)


@network("googlenet", image(16), 0.29)
def googlenet() -> nn.Module:
    blocks = [Inception(16, (8, 12, 4, 6)), nn.MaxPool2d(3, 2, ceil_mode=True), Inception(30, (8, 12, 6, 6))]
    return stack(Normalised(), ConvBnRelu(3, 16, 3, 2), blocks, Head(32))


class FactorisedInception(nn.Module):
    """Convolutions of one row and one column, two of them concatenated inside a branch."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first = ConvBnRelu(inputs, 8, 1)
        self.row, self.column = nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), nn.Conv2d(8, 8, (3, 1), padding=(1, 0))
        self.pool, self.deep = (
            ConvBnRelu(inputs, 8, 1),
            stack(
                nn.Conv2d(inputs, 8, (1, 7), padding=(0, 3)),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 12, (7, 1), padding=(3, 0)),
            ),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        wide = torch.cat([self.row(first), self.column(first)], 1)
        return torch.cat([F.relu(wide), self.deep(x), self.pool(F.avg_pool2d(x, 3, 1, 1))], 1)


@network("inception_v3", image(16), 0.27)
def inception_v3() -> nn.Module:
    return stack(Normalised(), ConvBnRelu(3, 16, 3, 2), FactorisedInception(16), FactorisedInception(36), Head(36))


@network("mobilenet_v2", image(16), 0.33)
def mobilenet_v2() -> nn.Module:
    blocks = [InvertedResidual(8, 8, 8), InvertedResidual(8, 32, 16, 2), InvertedResidual(16, 48, 16)]
    return stack(ConvBnRelu(3, 8, 3, 2, act=nn.ReLU6), blocks, ConvBnRelu(16, 48, 1, act=nn.ReLU6), Head(48))


@network("mobilenet_v3", image(16), 0.36)
def mobilenet_v3() -> nn.Module:
    settings = {"act": nn.Hardswish, "gate": nn.Hardsigmoid, "squeeze": 8, "k": 5}
    blocks = [InvertedResidual(8, 24, 16, 2, **settings), InvertedResidual(16, 40, 16, **settings)]  # type: ignore[arg-type]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 32), nn.Hardswish(), nn.Dropout(), nn.Linear(32, 5)]
    return stack(ConvBnRelu(3, 8, 3, 2, act=nn.Hardswish), blocks, ConvBnRelu(16, 40, 1, act=nn.Hardswish), head)


@network("mnasnet", image(16), 0.37)
def mnasnet() -> nn.Module:
    blocks = [InvertedResidual(8, 24, 12, 2, act=nn.ReLU), InvertedResidual(12, 36, 12, k=5, act=nn.ReLU)]
    return stack(ConvBnRelu(3, 8, 3, 2), blocks, ConvBnRelu(12, 36, 1), Head(36))


@network("efficientnet", image(16), 0.35, why="depthwise work, with kernels of five, and the first convolution are halved once")
def efficientnet() -> nn.Module:
    settings = {"act": nn.SiLU, "squeeze": 4}
    blocks = [InvertedResidual(8, 32, 16, 2, **settings), InvertedResidual(16, 48, 16, k=5, **settings)]  # type: ignore[arg-type]
    return stack(ConvBnRelu(3, 8, 3, 2, act=nn.SiLU), blocks, ConvBnRelu(16, 48, 1, act=nn.SiLU), Head(48))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2: half of the channels pass by (or both halves are made anew), then a shuffle by views."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        half = width // 2
        self.stride, inputs = stride, half if stride == 1 else width // 2
        self.short = stack(ConvBnRelu(inputs, inputs, 3, stride, inputs, act=None), ConvBnRelu(inputs, half, 1))
        self.body = stack(
            ConvBnRelu(inputs, half, 1), ConvBnRelu(half, half, 3, stride, half, act=None), ConvBnRelu(half, half, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, worked = x.chunk(2, dim=1) if self.stride == 1 else (self.short(x), x)
        x = torch.cat((kept, self.body(worked)), 1)
        batch, channels, height, width = x.size()
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, channels, height, width)


@network(
    "shufflenet_v2",
    image(12),
    0.38,
    why="of the first unit's two branches each reads all channels; depthwise work is halved once",
    is_representative=True,
)
def shufflenet_v2() -> nn.Module:
    return stack(ConvBnRelu(3, 12), ShuffleUnit(24, 2), ShuffleUnit(24, 1), ShuffleUnit(24, 1), ConvBnRelu(24, 32, 1), Head(32))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_scale, self.depth = nn.Parameter(torch.rand(width, 1, 1) + 0.5), StochasticDepth()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.project(F.gelu(self.expand(y))).permute(0, 3, 1, 2)
        return x + self.depth(self.layer_scale * y)


@network(
    "convnext",
    image(16),
    0.71,
    left_of_everything=0.44,
    why="the stream stays; dynamo writes the pooling behind a permute as a gather by strides, which freezes the last stage",
    is_representative=True,
)
def convnext() -> nn.Module:
    stem, down = [nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16)], [LayerNorm2d(16), nn.Conv2d(16, 24, 2, 2)]
    return stack(stem, ConvNeXtBlock(16), down, ConvNeXtBlock(24), nn.AdaptiveAvgPool2d(1), LayerNorm2d(24), Head(24))


class DualPath(nn.Module):
    """DPN: the first part of every result is added, the rest is concatenated."""

    def __init__(self, inputs: int, added: int, grown: int, *, projects: bool) -> None:
        super().__init__()
        self.added = added
        self.short = ConvBnRelu(inputs, added + 2 * grown, 1) if projects else None
        self.body = stack(ConvBnRelu(inputs, 16, 1), ConvBnRelu(16, 16, 3, 1, 4), ConvBnRelu(16, added + grown, 1))

    def forward(self, paths: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat(paths, 1)
        residual, dense = paths
        if self.short is not None:
            short = self.short(x)
            residual, dense = short[:, : self.added], short[:, self.added :]
        y = self.body(x)
        return residual + y[:, : self.added], torch.cat([dense, y[:, self.added :]], 1)


@network("dpn", image(12), 0.27)
class Dpn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = ConvBnRelu(3, 12, 3, 2), Head(16 + 20)
        self.first, self.second = DualPath(24, 16, 4, projects=True), DualPath(28, 16, 4, projects=False)
        self.third = DualPath(32, 16, 4, projects=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        paths = self.third(self.second(self.first((x, x))))
        return self.head(torch.cat(paths, 1))


class Res2Net(nn.Module):
    """Splits into scales, each of which adds the one before."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = ConvBnRelu(inputs, 24, 1), ConvBnRelu(24, outputs, 1, act=None)
        self.scales = nn.ModuleList(ConvBnRelu(8, 8) for _ in range(2))
        self.short = ConvBnRelu(inputs, outputs, 1, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(self.first(x), 8, 1)
        second = self.scales[0](parts[1])
        third = self.scales[1](parts[2] + second)
        return F.relu(self.last(torch.cat([parts[0], second, third], 1)) + self.short(x))


@network("res2net", image(12), 0.27)
def res2net() -> nn.Module:
    return stack(ConvBnRelu(3, 12, 3, 2), Res2Net(12, 24), Res2Net(24, 24), Head(24))


class Ghost(nn.Module):
    """Half of the channels are made by a cheap depthwise convolution of the other half."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.primary, self.cheap = (
            ConvBnRelu(inputs, outputs // 2, 1),
            ConvBnRelu(outputs // 2, outputs // 2, 3, 1, outputs // 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


@network("ghostnet", image(12), 0.38, why="depthwise work and the first convolution are halved once")
def ghostnet() -> nn.Module:
    return stack(ConvBnRelu(3, 12, 3, 2), Ghost(12, 32), SqueezeExcite(32, 8), Ghost(32, 24), Head(24))
