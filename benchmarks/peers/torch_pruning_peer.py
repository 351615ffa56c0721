"""Torch-Pruning on a model of the benchmark: one method, one budget, no training.  Runs in an environment of its own.

The torch network of ``tools/benchmark_networks.py`` gets the weights of the ONNX file; the ratio that removes the share of
MACs asked for is found by bisection.  ``taylor`` needs a loss: it alone is given the labels of the calibration images.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
import torch_pruning as tp
from onnx import numpy_helper
from search import Search, answer, arguments
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from benchmark_networks import NETWORKS

METHODS: dict[str, tuple[Callable[[], tp.importance.Importance], bool]] = {
    "l2-local": (lambda: tp.importance.GroupMagnitudeImportance(p=2), False),
    "l2-global": (lambda: tp.importance.GroupMagnitudeImportance(p=2), True),
    "taylor-local": (tp.importance.GroupTaylorImportance, False),
    "taylor-global": (tp.importance.GroupTaylorImportance, True),
}
"""Importance with the settings Torch-Pruning has by default, and whether all layers are ranked together."""

EXAMPLE = torch.zeros(1, 1, 28, 28)


def stored_weights(path: Path) -> dict[str, torch.Tensor]:
    """Initializers by torch's own names; an exporter that stores equal tensors once leaves Identity nodes for the others."""
    graph = onnx.load(str(path)).graph
    weights = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return weights


def load(path: Path) -> nn.Module:
    """The network of that name with the weights of the file."""
    network, weights = NETWORKS[path.stem](), stored_weights(path)
    wanted = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    network.load_state_dict({name: weights[name] for name in wanted}, strict=False)
    return network.eval()


def count_macs(network: nn.Module) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image."""
    counts: list[int] = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(EXAMPLE)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def gradients(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> list[torch.Tensor | None]:
    """Gradient of the loss on the calibration images, parameter by parameter."""
    network.zero_grad()
    nn.functional.cross_entropy(network(torch.from_numpy(images)), torch.from_numpy(labels)).backward()
    return [parameter.grad for parameter in network.parameters()]


def pruned(network: nn.Module, grads: list[torch.Tensor | None], method: str, ratio: float) -> tuple[nn.Module, int]:
    """A pruned copy of the network and its MACs."""
    importance, is_global = METHODS[method]
    smaller = copy.deepcopy(network)
    for parameter, grad in zip(smaller.parameters(), grads, strict=True):
        parameter.grad = None if grad is None else grad.clone()
    tp.pruner.BasePruner(
        smaller, EXAMPLE, importance(), global_pruning=is_global, pruning_ratio=ratio, ignored_layers=[smaller.fc], round_to=1
    ).step()
    return smaller, count_macs(smaller)


def export(network: nn.Module, path: Path) -> None:
    """Write the model, batch free."""
    torch.onnx.export(
        network.eval(), (EXAMPLE,), str(path), input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip


def main() -> None:
    """Prune to the budget, export, answer."""
    args = arguments(sorted(METHODS), __doc__)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def work() -> dict[str, object]:
        network = load(args.model)
        grads: list[torch.Tensor | None] = [None] * len(list(network.parameters()))
        if args.method.startswith("taylor"):
            grads = gradients(network, np.load(args.calibration)["image"], np.load(args.labels)["labels"])
        budget = count_macs(network) * (1 - args.remove)
        macs, ratio, smaller = Search(lambda ratio: pruned(network, grads, args.method, ratio), budget).run()
        export(smaller, args.output)
        return {"ratio": ratio, "macs": macs, "version": version("torch-pruning")}

    answer(work)


if __name__ == "__main__":
    main()
