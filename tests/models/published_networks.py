"""Dense networks in the shapes that papers prune, with empty weights: only widths and connections matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.builder import Net

VGG16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


class Hollow(Net):
    """A net whose weights are zeros of half precision."""

    def __init__(self) -> None:
        super().__init__(dtype=np.float16)

    def weight(self, *shape: int, name: str | None = None) -> str:
        return self.const(np.zeros(shape, np.float16), name)


def vgg16(widths: Sequence[int] = VGG16) -> Net:
    """The thirteen convolutions of VGG-16, its poolings left out."""
    net = Hollow()
    x, before = net.input("x", ["n", 3, 8, 8]), 3
    for width in widths:
        x, before = net.relu(net.conv(x, before, width)), width
    net.output(net.head(x, before))
    return net


def resnet(blocks: Sequence[int], widths: Sequence[int], stem: int = 3) -> Net:
    """Basic blocks in stages, each after the first with a 1x1 convolution in its first shortcut."""
    net = Hollow()
    x, before = net.cbr(net.input("x", ["n", 3, 8, 8]), 3, widths[0], k=stem), widths[0]
    for count, width in zip(blocks, widths, strict=True):
        for _ in range(count):
            branch = net.conv(net.cbr(x, before, width), width, width)
            x, before = net.relu(net.op("Add", branch, _shortcut(net, x, before, width))), width
    net.output(net.head(x, before))
    return net


def bottleneck_resnet(blocks: Sequence[int], widths: Sequence[int], *, is_shortcut_first: bool = False) -> Net:
    """Bottlenecks of 1x1, 3x3, 1x1 convolutions in stages; the shortcut's convolution comes last, or first."""
    net = Hollow()
    x, before = net.cbr(net.input("x", ["n", 3, 8, 8]), 3, widths[0], k=7), widths[0]
    for count, width in zip(blocks, widths, strict=True):
        for _ in range(count):
            parts: dict[str, Any] = {}
            for part in ("shortcut", "branch") if is_shortcut_first else ("branch", "shortcut"):
                parts[part] = (
                    _shortcut(net, x, before, 4 * width)
                    if part == "shortcut"
                    else net.conv(net.cbr(net.cbr(x, before, width, k=1), width, width), width, 4 * width, k=1)
                )
            x, before = net.relu(net.op("Add", parts["branch"], parts["shortcut"])), 4 * width
    net.output(net.head(x, before))
    return net


def _shortcut(net: Net, x: str, before: int, width: int) -> str:
    return x if before == width else net.bn(net.conv(x, before, width, k=1), width)
