"""Dense prediction, detection and recurrence: networks whose outputs are maps, boxes or sequences."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from models.torch_blocks import ConvBnRelu, Head, stack
from models.torch_networks import image, network


@network("unet", image(16), 0.27, is_representative=True)
class UNet(nn.Module):
    """Encoder and decoder with a transposed convolution, an interpolation to a measured size, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = ConvBnRelu(3, 12), ConvBnRelu(12, 24, stride=2), ConvBnRelu(24, 32, stride=2)
        self.up = nn.ConvTranspose2d(32, 24, 2, 2)
        self.d, self.e = ConvBnRelu(48, 16), ConvBnRelu(28, 12)
        self.mask, self.edge = nn.Conv2d(12, 3, 1), nn.Conv2d(16, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.a(x)
        b = self.b(a)
        d = self.d(torch.cat([self.up(self.c(b)), b], 1))
        wide = F.interpolate(d, size=a.shape[2:], mode="bilinear", align_corners=False)
        return self.mask(self.e(torch.cat([wide, a], 1))), self.edge(d)


@network("csp", image(12), 0.27)
class Csp(nn.Module):
    """Chunk, bottleneck, many-way concat, pooling pyramid, PReLU, flatten to a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.merge = ConvBnRelu(3, 16, 1), ConvBnRelu(8, 8), ConvBnRelu(24, 16, 1)
        self.act = nn.PReLU(16)
        self.out = ConvBnRelu(48, 8, 1)
        self.fc = nn.Linear(8 * 6 * 6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.stem(x).chunk(2, 1)
        y = self.act(self.merge(torch.cat([a, b, b + self.inner(b)], 1)))
        p = F.max_pool2d(y, 5, 1, 2)
        y = self.out(torch.cat([y, p, F.max_pool2d(p, 5, 1, 2)], 1))
        return self.fc(torch.flatten(F.max_pool2d(y, 2), 1))


class C2f(nn.Module):
    """Chunk, a chain of bottlenecks, and everything on the way concatenated."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, adds: bool) -> None:
        super().__init__()
        self.half, self.adds = outputs // 2, adds
        self.first = ConvBnRelu(inputs, outputs, 1, act=nn.SiLU)
        self.last = ConvBnRelu((2 + depth) * self.half, outputs, 1, act=nn.SiLU)
        self.blocks = nn.ModuleList(
            stack(ConvBnRelu(self.half, self.half, act=nn.SiLU), ConvBnRelu(self.half, self.half, act=nn.SiLU))
            for _ in range(depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]) if self.adds else block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Sppf(nn.Module):
    """One pooling applied again and again, every step concatenated."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first, self.last = ConvBnRelu(inputs, inputs // 2, 1, act=nn.SiLU), ConvBnRelu(inputs * 2, inputs, 1, act=nn.SiLU)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Detect(nn.Module):
    """Boxes as distributions over ``BINS`` distances and class scores for every cell, decoded."""

    BINS, CLASSES = 8, 3

    def __init__(self, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        self.box = nn.ModuleList(stack(ConvBnRelu(w, 16, act=nn.SiLU), nn.Conv2d(16, 4 * self.BINS, 1)) for w in widths)
        self.score = nn.ModuleList(stack(ConvBnRelu(w, 16, act=nn.SiLU), nn.Conv2d(16, self.CLASSES, 1)) for w in widths)
        self.expected = nn.Conv2d(self.BINS, 1, 1, bias=False)
        self.expected.weight.data = torch.arange(self.BINS, dtype=torch.float32).view(1, self.BINS, 1, 1)

    def anchors(self, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        points, strides = [], []
        for x, stride in zip(maps, self.strides, strict=True):
            height, width = x.shape[2:]
            rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            points.append(torch.stack((columns, rows), -1).view(-1, 2))
            strides.append(torch.full((height * width, 1), float(stride)))
        return torch.cat(points).transpose(0, 1), torch.cat(strides).transpose(0, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        raw = [torch.cat([box(x), score(x)], 1) for x, box, score in zip(maps, self.box, self.score, strict=True)]
        flat = torch.cat([x.view(x.shape[0], 4 * self.BINS + self.CLASSES, -1) for x in raw], 2)
        box, score = flat.split((4 * self.BINS, self.CLASSES), 1)
        batch, _, cells = box.shape
        distances = self.expected(box.view(batch, 4, self.BINS, cells).transpose(2, 1).softmax(1)).view(batch, 4, cells)
        points, strides = self.anchors(maps)
        near, far = distances.chunk(2, 1)
        first, last = points.unsqueeze(0) - near, points.unsqueeze(0) + far
        boxes = torch.cat([(first + last) / 2, last - first], 1) * strides
        return torch.cat([boxes, score.sigmoid()], 1)


@network("yolo", image(32), 0.28, is_representative=True)
class Yolo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine = (
            ConvBnRelu(3, 8, 3, 2, act=nn.SiLU),
            stack(ConvBnRelu(8, 16, 3, 2, act=nn.SiLU), C2f(16, 16, 2, adds=True)),
        )
        self.coarse = stack(ConvBnRelu(16, 24, 3, 2, act=nn.SiLU), C2f(24, 24, 1, adds=True), Sppf(24))
        self.up, self.merge_fine = nn.Upsample(scale_factor=2, mode="nearest"), C2f(40, 16, 1, adds=False)
        self.down, self.merge_coarse = ConvBnRelu(16, 16, 3, 2, act=nn.SiLU), C2f(40, 24, 1, adds=False)
        self.detect = Detect((16, 24), (4, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        fine = self.merge_fine(torch.cat([self.up(coarse), fine], 1))
        coarse = self.merge_coarse(torch.cat([self.down(fine), coarse], 1))
        return self.detect([fine, coarse])


class Aspp(nn.Module):
    """Dilated branches and the mean of the whole image, spread again to the size of the map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [ConvBnRelu(inputs, outputs, 1), *(ConvBnRelu(inputs, outputs, dilation=d) for d in (2, 3))]
        )
        self.pooled = stack(nn.AdaptiveAvgPool2d(1), ConvBnRelu(inputs, outputs, 1))
        self.project = stack(ConvBnRelu(4 * outputs, outputs, 1), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], 1))


@network("deeplab", image(32), 0.29)
class DeepLab(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = stack(ConvBnRelu(3, 12, stride=2), ConvBnRelu(12, 16, stride=2)), ConvBnRelu(16, 24, stride=2)
        self.aspp, self.reduce = Aspp(24, 16), ConvBnRelu(16, 8, 1)
        self.merge, self.out = ConvBnRelu(24, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.low(x)
        high = F.interpolate(self.aspp(self.high(low)), size=low.shape[-2:], mode="bilinear", align_corners=False)
        y = self.out(self.merge(torch.cat([self.reduce(low), high], 1)))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


@network("ssd", image(32), 0.46, why="boxes and scores are outputs: the heads, most of the work, are halved once")
class Ssd(nn.Module):
    """Several maps, each with boxes and scores for three anchors a cell; the first map is normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = ConvBnRelu(3, 16, stride=4), ConvBnRelu(16, 24, stride=2), ConvBnRelu(24, 24, stride=2)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 3 * 4, 3, padding=1) for width in (16, 24, 24))
        self.scores = nn.ModuleList(nn.Conv2d(width, 3 * 5, 3, padding=1) for width in (16, 24, 24))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.a(x)
        b = self.b(a)
        maps = [self.scale.view(1, -1, 1, 1) * F.normalize(a), b, self.c(b)]
        boxes = [self.rows(head(y), 4) for head, y in zip(self.boxes, maps, strict=True)]
        scores = [self.rows(head(y), 5) for head, y in zip(self.scores, maps, strict=True)]
        return torch.cat(boxes, 1), torch.cat(scores, 1).softmax(-1)

    def rows(self, x: torch.Tensor, columns: int) -> torch.Tensor:
        batch, _, height, width = x.shape
        x = x.view(batch, -1, columns, height, width).permute(0, 3, 4, 1, 2)
        return x.reshape(batch, -1, columns)


class Fuse(nn.Module):
    """HRNet: every resolution becomes the sum of all, brought to its size."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.fine, self.coarse = ConvBnRelu(fine, fine), ConvBnRelu(coarse, coarse)
        self.up = stack(ConvBnRelu(coarse, fine, 1, act=None), nn.Upsample(scale_factor=2, mode="nearest"))
        self.down = ConvBnRelu(fine, coarse, 3, 2, act=None)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine, coarse = fine + self.fine(fine), coarse + self.coarse(coarse)
        return F.relu(fine + self.up(coarse)), F.relu(coarse + self.down(fine))


@network("hrnet", image(16), 0.27)
class HrNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBnRelu(3, 12, stride=2)
        self.fine, self.coarse = ConvBnRelu(12, 8), ConvBnRelu(12, 16, stride=2)
        self.fuses = nn.ModuleList(Fuse(8, 16) for _ in range(2))
        self.last = stack(ConvBnRelu(24, 16, 1), nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        fine, coarse = self.fine(x), self.coarse(x)
        for fuse in self.fuses:
            fine, coarse = fuse(fine, coarse)
        wide = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.last(torch.cat([fine, wide], 1))


@network("feature_pyramid", image(32), 0.30)
class FeaturePyramid(nn.Module):
    """Lateral convolutions, upsampled sums, and one head shared by all levels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = ConvBnRelu(3, 12, stride=2), ConvBnRelu(12, 16, stride=2), ConvBnRelu(16, 24, stride=2)
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in (12, 16, 24))
        self.smooth = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.head = stack(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 6, 3, padding=1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        a = self.a(x)
        b = self.b(a)
        maps = [lateral(y) for lateral, y in zip(self.lateral, (a, b, self.c(b)), strict=True)]
        for level in (1, 0):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], size=maps[level].shape[-2:], mode="nearest")
        return [self.head(smooth(y)) for smooth, y in zip(self.smooth, maps, strict=True)]


@network("crnn", {"x": (1, 16, 48)}, 0.30, is_representative=True)
class Crnn(nn.Module):
    """Convolutions, columns as steps, two bidirectional LSTMs, a character per step."""

    def __init__(self) -> None:
        super().__init__()
        self.features = stack(
            ConvBnRelu(1, 12), nn.MaxPool2d(2), ConvBnRelu(12, 16), nn.MaxPool2d((4, 2)), nn.Conv2d(16, 24, (2, 1)), nn.ReLU()
        )
        self.first, self.second = (nn.LSTM(width, 16, bidirectional=True) for width in (24, 16))
        self.between, self.out = nn.Linear(32, 16), nn.Linear(32, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = self.features(x).squeeze(2).permute(2, 0, 1)
        steps = self.between(self.first(steps)[0])
        return self.out(self.second(steps)[0]).log_softmax(2)


@network("gru_tagger", {"x": (12, 8)}, 0.30)
class GruTagger(nn.Module):
    """Convolution over time, a GRU, the last state gates every step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(8, 16, 3, padding=1), nn.GRU(16, 20, batch_first=True)
        self.gate, self.out = nn.Linear(20, 20), nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, last = self.gru(F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        return self.out(steps * torch.sigmoid(self.gate(last[-1])).unsqueeze(1))


@network("super_resolution", image(12), 0.28)
class SuperResolution(nn.Module):
    """Residual trunk and a pixel shuffle; the image itself is added at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body = nn.Conv2d(3, 16, 3, padding=1), stack(ConvBnRelu(16, 24), ConvBnRelu(24, 16, act=None))
        self.up, self.last = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = F.pixel_shuffle(self.up(y + self.body(y)), 2)
        return self.last(F.relu(y)) + F.interpolate(x, scale_factor=2.0, mode="nearest")


@network("gated_mixture", image(12), 0.28)
class GatedMixture(nn.Module):
    """Selective kernels: a softmax over the branches, per channel, weighs two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = ConvBnRelu(3, 16, stride=2), ConvBnRelu(16, 16), ConvBnRelu(16, 16, dilation=2)
        self.reduce, self.expand, self.head = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 32, 1), Head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        branches = torch.stack([self.a(x), self.b(x)], 1)
        gate = self.expand(F.relu(self.reduce(branches.sum(1).mean((2, 3), keepdim=True))))
        weights = gate.view(gate.shape[0], 2, 16, 1, 1).softmax(1)
        return self.head((branches * weights).sum(1))
