"""Train the bundled demo model: a small ResNet with projection shortcuts on Fashion-MNIST.

    python tools/train_demo_model.py --data /usr/share/datasets/fashion-mnist --out examples

Writes ``fashion_resnet.onnx`` and the calibration and evaluation arrays beside it, and prints the accuracy on all
10,000 test images.  The data is Debian's package ``dataset-fashion-mnist`` (MIT).  Needs torch and onnxscript.

The training adds a group-lasso penalty on the BatchNorm scales that share a channel (one term per channel of a stage's
spine, one per inner channel of a block), so whole channels end near zero.  That makes this model kinder to magnitude
pruning than one trained without it; examples/README.md says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from fashion_mnist import FOLDER, Penalty, accuracy, load_split, train
from torch import nn
from torch.nn import functional as F

STAGES = ((24, 1), (48, 2), (80, 2))
BLOCKS_PER_STAGE = 2
CALIBRATION_SAMPLES, EVALUATION_SAMPLES = 256, 2000


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.projection = None
        if stride != 1 or inputs != outputs:
            self.projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the shortcut, then clip."""
        shortcut = x if self.projection is None else self.projection(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class FashionResNet(nn.Module):
    """Stem, three stages of two blocks, global average pool, linear."""

    def __init__(self) -> None:
        super().__init__()
        width = STAGES[0][0]
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks = []
        for outputs, stride in STAGES:
            for index in range(BLOCKS_PER_STAGE):
                blocks.append(Block(width, outputs, stride if index == 0 else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))

    def coupled_scales(self) -> list[list[torch.Tensor]]:
        """Return lists of BatchNorm scales whose i-th entries belong to one channel."""
        inner = [[block.bn1.weight] for block in self.blocks]
        spines: list[list[torch.Tensor]] = [[self.stem[1].weight]]
        for block in self.blocks:
            if block.projection is not None:
                spines.append([block.projection[1].weight])
            spines[-1].append(block.bn2.weight)
        return inner + spines

    def group_lasso(self) -> torch.Tensor:
        """Sum over channels of the norm of all scales of the channel (Yuan and Lin 2006, group lasso)."""
        terms = [torch.stack(scales).square().sum(0).add(1e-12).sqrt().sum() for scales in self.coupled_scales()]
        return torch.stack(terms).sum()


def group_lasso(model: FashionResNet, weight: float) -> Penalty:
    """Group lasso that is off in the last fifth of the training, so that the survivors settle."""

    def penalty(progress: float) -> torch.Tensor | float:
        return weight * model.group_lasso() if progress < 0.8 else 0.0

    return penalty


def export(model: nn.Module, path: Path) -> None:
    """Write the model in inference form (BatchNorm folded by the exporter), batch free."""
    model.eval().to(memory_format=torch.contiguous_format)
    torch.onnx.export(
        model, (torch.zeros(1, 1, 28, 28),), str(path), input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip


def main() -> None:
    """Train, measure, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=Path("examples"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--penalty", type=float, default=1e-3, help="weight of the group lasso")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    x, y = load_split(args.data, "train")
    test_x, test_y = load_split(args.data, "t10k")
    model = FashionResNet().to(memory_format=torch.channels_last)
    train(model, x, y, args.epochs, group_lasso(model, args.penalty))
    print(f"test accuracy on 10,000 images: {accuracy(model, test_x, test_y):.4f}")
    args.out.mkdir(parents=True, exist_ok=True)
    export(model, args.out / "fashion_resnet.onnx")
    np.savez_compressed(args.out / "fashion_calibration.npz", image=x[:CALIBRATION_SAMPLES].numpy())
    np.savez_compressed(
        args.out / "fashion_eval.npz", image=test_x[:EVALUATION_SAMPLES].numpy(), labels=test_y[:EVALUATION_SAMPLES].numpy()
    )


if __name__ == "__main__":
    main()
