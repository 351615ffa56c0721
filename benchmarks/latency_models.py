"""Untrained networks of 50 million multiply-accumulates or more: for time only widths and connections matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from compile_time import Graph
from onnx import TensorProto, helper

SIZE = 96


class Sized(Graph):
    """A graph whose input has a fixed size, with depthwise convolutions and a classifier."""

    def depthwise(self, x: str, channels: int, stride: int) -> str:
        """3x3, a filter for every channel."""
        weight = self.tensor(self.random.standard_normal((channels, 1, 3, 3), np.float32))
        bias = self.tensor(np.zeros(channels, np.float32))
        shape = {"pads": [1] * 4, "strides": [stride] * 2, "kernel_shape": [3, 3]}
        return self.node("Conv", x, weight, bias, group=channels, **shape)

    def relu_conv(self, x: str, inputs: int, outputs: int, k: int = 3, stride: int = 1) -> str:
        """Convolution and ReLU."""
        return self.node("Relu", self.conv(x, inputs, outputs, k, stride))

    def classified(self, x: str, channels: int, path: Path) -> Path:
        """End in 10 classes and write the file."""
        pooled = self.node("Flatten", self.node("GlobalAveragePool", x))
        head = self.tensor(self.random.standard_normal((10, channels), np.float32))
        output = self.node("Gemm", pooled, head, self.tensor(np.zeros(10, np.float32)), transB=1)
        ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])]
        ends = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "benchmark", ports, ends, self.tensors)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
        return path


def resnet18(path: Path) -> Path:
    """Basic blocks with the widths of He et al. 2016."""
    g = Sized()
    x, width = g.relu_conv("x", 3, 64, 7, 2), 64
    for outputs in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and outputs != 64 else 1
            y = g.conv(g.relu_conv(x, width, outputs, 3, stride), outputs, outputs, 3)
            short = x if width == outputs else g.conv(x, width, outputs, 1, stride)
            x, width = g.node("Relu", g.node("Add", y, short)), outputs
    return g.classified(x, 512, path)


def vgg11(path: Path) -> Path:
    """Eight convolutions with the widths of Simonyan and Zisserman 2015, and their poolings."""
    g = Sized()
    x, width = "x", 3
    for outputs, pools in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1), (512, 0), (512, 1)):
        x, width = g.relu_conv(x, width, outputs), outputs
        x = g.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]) if pools else x
    return g.classified(x, 512, path)


def mobilenet_v2(path: Path) -> Path:
    """Inverted residuals with the widths of Sandler et al. 2018, the first stride left out."""
    g = Sized()
    x, width = g.relu_conv("x", 3, 32), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for factor, outputs, blocks, first_stride in stages:
        for block in range(blocks):
            stride, inner = first_stride if block == 0 else 1, factor * width
            y = g.relu_conv(x, width, inner, 1) if factor > 1 else x
            y = g.conv(g.node("Relu", g.depthwise(y, inner, stride)), inner, outputs, 1)
            x, width = g.node("Add", x, y) if stride == 1 and width == outputs else y, outputs
    return g.classified(g.relu_conv(x, width, 1280, 1), 1280, path)


MODELS = {"resnet18": resnet18, "vgg11": vgg11, "mobilenet_v2": mobilenet_v2}
