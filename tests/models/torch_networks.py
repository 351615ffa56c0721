"""The registry of torch networks, and how one becomes an ONNX file.

Each network is small but has the true couplings of its family: splits, merges, shuffles, gates, windows, heads.

What may be left at ratio 0.5 is measured and rounded up, and follows from the structure.  A layer halved on both sides keeps a
quarter.  Halved once are the first layer, whose inputs stay, the last, whose outputs stay, and depthwise work: small networks
of convolutions keep a quarter to two fifths.  A transformer whose stream stays keeps half of what reads or feeds the stream.
With its dims and heads and stream halved too, less than a quarter: heads and dims in them together shrink the projections to
a quarter on that side alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

VOCABULARY = 64

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """How to build a network, and what is known about it.

    ``left`` is the share of the MACs that may be left at ratio 0.5 with the default kinds; ``left_of_everything`` the same
    with heads, dims inside them and the stream, for exports by dynamo.  ``why`` says why more is left than is usual for the
    family.  Both exporters write every network; one that fails on a network would have to be named here with its reason.
    """

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Shape]
    left: float
    left_of_everything: float | None = None
    why: str = ""
    is_representative: bool = False


NETWORKS: dict[str, Network] = {}


def network(name: str, inputs: Mapping[str, Shape], left: float, **facts: Any) -> Callable[[Callable[[], nn.Module]], Any]:
    """Register a class or a function that builds a network; shapes of the inputs are without the batch."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in NETWORKS
        NETWORKS[name] = Network(build, inputs, left, **facts)
        return build

    return register


def image(size: int, channels: int = 3) -> dict[str, Shape]:
    return {"x": (channels, size, size)}


def build(name: str) -> nn.Module:
    """The network with random weights and random statistics: fresh ones would make every channel alike."""
    torch.manual_seed(0)
    module = NETWORKS[name].build().eval()
    for part in module.modules():
        if isinstance(part, nn.MultiheadAttention):  # all start with the same biases, which an exporter stores once
            nn.init.normal_(part.in_proj_bias, std=0.1)
            nn.init.normal_(part.out_proj.bias, std=0.1)
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module


def example(inputs: Mapping[str, Shape]) -> tuple[torch.Tensor, ...]:
    """A batch of two; inputs called tokens hold indices, masks ones."""
    made = []
    for name, shape in inputs.items():
        if name in ("tokens", "kinds"):
            made.append(torch.randint(0, VOCABULARY, (2, *shape)))
        elif name == "mask":
            made.append(torch.ones(2, *shape))
        else:
            made.append(torch.randn(2, *shape))
    return tuple(made)


def export(name: str, exporter: str, path: Path) -> Path:
    """Write the network with a free batch, as ``legacy`` (TorchScript, opset 17) or ``dynamo`` (opset 18)."""
    inputs = NETWORKS[name].inputs
    module, options = build(name), dict[str, Any]()
    if exporter == "dynamo":
        batch = torch.export.Dim("batch")
        options.update(opset_version=18, external_data=False, dynamic_shapes=tuple({0: batch} for _ in inputs))
    else:
        options.update(opset_version=17, dynamic_axes={key: {0: "batch"} for key in inputs})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, example(inputs), str(path), input_names=list(inputs), dynamo=exporter == "dynamo", verbose=False, **options
        )
    return path
