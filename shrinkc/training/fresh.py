"""A network with the weights that it would start its training with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
import torch

from shrinkc.training import streams
from shrinkc.training.context import Context
from shrinkc.training.roles import readers

NORMALISATIONS = frozenset(
    {"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"}
)
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
SLOPE = 0.25
"""Of a PRelu."""


@dataclass(frozen=True)
class StartAfresh:
    """Forget what was learned: every weight is drawn anew, normalisations change nothing, biases are zero.

    Weights of convolutions and matrix products are normal with variance ``2 / fan_in`` (He, Zhang, Ren, Sun. Delving deep into
    rectifiers. ICCV 2015, eq. 10), those of recurrent layers uniform within ``1 / sqrt(hidden)``, embeddings standard normal.
    Tensors that nothing here knows the role of keep what they hold; the record names them.
    """

    @torch.no_grad()
    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        kept = []
        for number, (name, tensor) in enumerate(sorted(context.tensors.items())):
            draw = streams.generator(context.settings.seed, "fresh", number)
            found = _fresh(context, name, tensor, draw)
            if found is None:
                kept.append(name)
            else:
                tensor.copy_(found)
        context.world.same_(list(context.tensors.values()))
        context.records.append({"phase": "fresh weights", "kept": kept})


def _fresh(context: Context, name: str, tensor: torch.Tensor, draw: torch.Generator) -> torch.Tensor | None:
    drawn: torch.Tensor | None = None
    view = next((view for view in context.views if view.name == name), None)
    if view is not None:
        return torch.randn(tensor.shape, generator=draw) * math.sqrt(2 * view.units / tensor.numel())
    constant = next((value for use in _uses(context.model, name) if (value := _at_rest(*use, tensor.ndim)) is not None), None)
    if constant is not None:
        return torch.full(tensor.shape, constant)
    kinds = {node.op_type for node, _ in _uses(context.model, name)}
    if kinds and kinds <= RECURRENT:
        drawn = (2 * torch.rand(tensor.shape, generator=draw) - 1) / math.sqrt(_hidden(context.model, name))
    elif kinds == {"Gather"}:
        drawn = torch.randn(tensor.shape, generator=draw)
    return drawn


def _uses(model: ir.Model, name: str) -> Iterator[tuple[ir.Node, int]]:
    value = model.graph.initializers.get(name)
    return iter(()) if value is None else readers(value)


def _at_rest(node: ir.Node, index: int, ndim: int) -> float | None:
    """What a tensor that a node reads starts with; None for what is drawn, or unknown."""
    if node.op_type in NORMALISATIONS:
        return {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0}.get(index)
    is_bias = node.op_type in ("Conv", "ConvTranspose", "Gemm") and index == 2
    if is_bias or (node.op_type == "Add" and ndim == 1):
        return 0.0
    return SLOPE if node.op_type == "PRelu" and index == 1 else None


def _hidden(model: ir.Model, name: str) -> int:
    node, _ = next(_uses(model, name))
    return int(node.attributes["hidden_size"].as_int())
