"""Train the models of the accuracy benchmark on Fashion-MNIST: ResNet-20, a VGG-16-BN of half width, a MobileNetV2-like net.

    python tools/train_benchmark_models.py resnet20 --out benchmarks/models

Writes ``NAME.onnx`` with BatchNormalization unfolded and weights under torch's own names, so that other tools can load
the very same weights, and prints the accuracy on all 10,000 test images.  Needs torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from benchmark_networks import NETWORKS
from fashion_mnist import FOLDER, accuracy, load_split, train
from torch import nn


def export(model: nn.Module, path: Path) -> None:
    """Write the model in inference form, batch free."""
    model.eval().to(memory_format=torch.contiguous_format)
    torch.onnx.export(
        model, (torch.zeros(1, 1, 28, 28),), str(path), input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}}, opset_version=17, dynamo=False,
        do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip


def main() -> None:
    """Train, measure, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/models"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    x, y = load_split(args.data, "train")
    test_x, test_y = load_split(args.data, "t10k")
    model = NETWORKS[args.network]().to(memory_format=torch.channels_last)
    train(model, x[:-5000], y[:-5000], args.epochs)  # the last 5,000 stay for calibration and held-out checks
    print(f"test accuracy on 10,000 images: {accuracy(model, test_x, test_y):.4f}")
    args.out.mkdir(parents=True, exist_ok=True)
    export(model, args.out / f"{args.network}.onnx")


if __name__ == "__main__":
    main()
