"""What both exporters of torch really write: small networks of the common families, pruned and proved."""

from __future__ import annotations

import warnings
from pathlib import Path

import judge
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import shrinkc


class ConvBnRelu(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, k: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class Bottleneck(nn.Module):
    """ResNeXt bottleneck with projection and squeeze-and-excitation."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvBnRelu(inputs, width, 1), ConvBnRelu(width, width, 3, stride, groups))
        self.reduce, self.expand = nn.Conv2d(width, 8, 1), nn.Conv2d(8, width, 1)
        self.last = nn.Sequential(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return F.relu(self.last(y * gate) + self.short(x))


class ResNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(ConvBnRelu(3, 16), Bottleneck(16, 16, 32, 2, 4), Bottleneck(32, 24, 48, 2, 3))
        self.fc = nn.Linear(48, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class ShuffleNet(nn.Module):
    """ShuffleNetV2 units with torch's chunk and view-based shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBnRelu(3, 16)
        self.branches = nn.ModuleList(
            nn.Sequential(
                ConvBnRelu(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), ConvBnRelu(8, 8, 1)
            )
            for _ in range(3)
        )
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for branch in self.branches:
            kept, worked = x.chunk(2, dim=1)
            x = torch.cat((kept, branch(worked)), 1)
            batch, channels, height, width = x.size()
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, channels, height, width)
        return self.fc(x.mean([2, 3]))


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


class Csp(nn.Module):
    """YOLO-like: chunk, bottleneck, many-way concat, pooling pyramid, PReLU, flatten to a linear layer."""

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


NETWORKS = {"resnext": (ResNeXt, 16), "shufflenet": (ShuffleNet, 12), "unet": (UNet, 16), "csp": (Csp, 12)}
MOST_LEFT = {"resnext": 0.35, "shufflenet": 0.5, "unet": 0.3, "csp": 0.4}


def exported(name: str, dynamo: bool, path: Path) -> Path:
    torch.manual_seed(0)
    build, size = NETWORKS[name]
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics would make every channel alike
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    example = torch.randn(2, 3, size, size)
    options: dict[str, object] = {"opset_version": 18, "external_data": False} if dynamo else {"opset_version": 17}
    if dynamo:
        options["dynamic_shapes"] = {"x": {0: torch.export.Dim("batch")}}
    else:
        options["dynamic_axes"] = {"x": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (example,), str(path), input_names=["x"], dynamo=dynamo, verbose=False, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_exports_of_both_exporters_are_halved_and_both_judges_agree(name: str, dynamo: bool, tmp_path: Path) -> None:
    original, output, plan = exported(name, dynamo, tmp_path / "in.onnx"), tmp_path / "out.onnx", tmp_path / "plan.json"
    report = shrinkc.compress(
        original, output=output, save_plan=plan, prune_ratio=0.5, round_to=1, optimize=False, measure_latency=False
    )
    assert report.proof is not None
    assert report.after.parameters < MOST_LEFT[name] * report.before.parameters
    assert judge.independent_verdict(original, output, plan) == "pass"
    cleaned = tmp_path / "cleaned.onnx"
    shrinkc.compress(original, output=cleaned, prune_ratio=0.5, round_to=1, measure_latency=False)
    scopes = [len(node.metadata_props) for node in onnx.load(str(cleaned)).graph.node]
    if dynamo:
        assert any(scopes), "name scopes survive"
    assert b"stack_trace" not in cleaned.read_bytes()
