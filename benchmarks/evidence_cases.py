"""A ResNet-50-shaped network whose normalisations fit its inputs, and inputs for it: for benchmarks that run on data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from compile_time import Graph, resnet50
from shrinkc.passes.compensation.batch_norm import BatchNorm

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.analysis.groups import analyse
from shrinkc.api import Repair
from shrinkc.shapes import input_shapes

BRANCH_GAIN = 0.5
"""Of the last normalisation of a branch: trained networks keep their branches smaller than their shortcuts."""


class Normalized(Graph):
    """Convolutions without bias, a BatchNormalization behind each."""

    def conv(self, x: str, inputs: int, outputs: int, k: int, stride: int = 1) -> str:
        """Convolution and BatchNormalization."""
        spread = np.float32(np.sqrt(2 / (inputs * k * k)))
        weight = self.tensor(self.random.standard_normal((outputs, inputs, k, k), np.float32) * spread)
        y = self.node("Conv", x, weight, pads=[k // 2] * 4, strides=[stride] * 2, kernel_shape=[k, k])
        gain = BRANCH_GAIN if outputs > inputs and k == 1 else 1.0
        scale = self.random.uniform(0.5 * gain, 1.5 * gain, outputs).astype(np.float32)
        shift = self.random.normal(0, 0.3, outputs).astype(np.float32)
        return self.node(
            "BatchNormalization",
            y,
            *map(self.tensor, (scale, shift, np.zeros(outputs, np.float32), np.ones(outputs, np.float32))),
        )


def write_images(path: Path, samples: int, side: int = 224, seed: int = 0) -> None:
    """Write smooth coloured noise with sharp blobs as ``x``, float32 (samples, 3, side, side), about standardised."""
    generator, parts = np.random.default_rng(seed), []
    for _ in range(samples):
        image = np.zeros((3, side, side), np.float32)
        for cells in (2, 7, 28, 112):
            coarse = generator.standard_normal((3, cells, cells), np.float32)
            image += coarse.repeat(side // cells, 1).repeat(side // cells, 2)[:, :side, :side] / 2
        parts.append(image)
    np.savez(path, x=np.stack(parts))


def write_resnet50(path: Path, samples: int = 8) -> int:
    """Write ResNet-50's shape with random weights and the statistics of what it reads on images; returns its bytes."""
    resnet50(path, Normalized())
    model, images = shrinkc_ir.load(path), path.with_suffix(".statistics.npz")
    write_images(images, samples, seed=1)
    with np.load(images) as archive:
        batches = [{"x": archive["x"]}]
    shapes = input_shapes(model)
    analysis = analyse(model, shapes, registry.operator_rules())
    keep = analysis.keep_mask({group.name: range(group.width) for group in analysis.groups})
    copy: ir.Model = model.clone()
    BatchNorm().apply(Repair(analysis, keep, copy, shapes, batches, registry.load("runtimes", "onnxruntime-cpu")()))
    images.unlink()
    return shrinkc_ir.save(copy, path)
