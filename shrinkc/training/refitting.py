"""Least squares for what a mask leaves: every layer computes again, as nearly as it can, what it did before.

With inputs X of the network as it is now, outputs Y of the network as it was, and support K of an output unit, its weights are
``(X X^T)_KK^-1 (X Y^T)_K``; a layer's own bias is one more weight, of an input that is 1.  Layers follow the order of the
graph, so that each makes up for what those before it lost as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training import state
from shrinkc.training.context import Context
from shrinkc.training.ops.call import Call
from shrinkc.training.ops.windows import Windows, for_torch
from shrinkc.training.views import WeightView

DAMPING = 1e-8
"""Of the mean of the diagonal: inputs that are always zero have no weight to find."""

LEAST_DAMPING = 1e-200

MOST_EXACT = 1024
"""Inputs of a unit up to which its equations are solved; beyond, as many steps of conjugate gradients for all units at once."""

CONJUGATE_STEPS = 50
MOST_INPUTS = 8192
"""Inputs of a unit beyond which a layer is left alone: its second moments alone would take more than half a gigabyte."""

CHUNK_BYTES = 1 << 26
"""Of a layer's inputs as a matrix, float64, at a time."""


@dataclass(frozen=True)
class RefitLSQ:
    """Refit all masked layers; kept, all or none, only if the model is better for it on the held-out samples.

    Convolutions of any number of axes and products with a stored matrix.  What stays: weights and biases that two nodes
    read, biases that are not one entry a unit, products with factors (``alpha``, ``beta``), transposed convolutions, layers of
    more than :data:`MOST_INPUTS` inputs a unit.  An interrupt takes the whole refit back.

    Attributes
    ----------
    dense : str
        Snapshot of the weights before the mask.
    samples : int
    """

    dense: str
    samples: int = 256

    @torch.no_grad()
    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        before, found = state.copied(context.tensors), context.evaluate()
        errors = self._errors(context)
        context.world.same_(list(context.tensors.values()))
        after = context.evaluate()
        is_better = after.is_better_than(found, found) and not context.stopped
        if not is_better:
            context.put(before)
        told = {"before": asdict(found), "after": asdict(after), "is_kept": is_better}
        context.records.append({"phase": "refit", "errors": errors, **told})

    def _errors(self, context: Context) -> dict[str, list[float]]:
        """Refit one layer after the other; errors of each before and after."""
        layers, errors = list(refittable(context)), {}
        with context.progress.counting("fitting what the mask left") as say:
            for layer in layers:
                if _is_interrupted(context):
                    break
                errors[layer.view.name] = _refit(context, layer, self)
                say(len(errors) / len(layers), layer.view.name)
        return errors


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose weights can be fitted.

    Attributes
    ----------
    view : WeightView
    node : ir.Node
    bias : str
        Name of a bias that is its own, empty where there is none.
    group : int
    """

    view: WeightView
    node: ir.Node
    bias: str
    group: int

    @property
    def reads(self) -> str:
        """Name of what it reads."""
        value = self.node.inputs[0]
        assert value is not None
        return value.name or ""


@dataclass(eq=False)
class Sums:
    """Second moments of a layer's inputs and of what it shall give.

    Attributes
    ----------
    inputs : float64 tensor of shape (group, inputs, inputs)
    outputs : float64 tensor of shape (group, units, inputs)
    total : float
        Sum of the squares of what it shall give.
    """

    inputs: Tensor
    outputs: Tensor
    total: float = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: ``x`` of shape (group, rows, inputs), ``y`` of shape (group, rows, units)."""
        self.inputs += x.mT @ x
        self.outputs += y.mT @ x
        self.total += float(y.square().sum())

    def error(self, weights: Tensor) -> float:
        """Share of the squares that weights of shape (group, units, inputs) leave."""
        explained = (weights @ self.inputs * weights).sum() - 2 * (weights * self.outputs).sum()
        return max(0.0, float(explained) / self.total + 1) if self.total else 0.0


def _is_interrupted(context: Context) -> bool:
    """Whether somebody wants to end it, on any process; says so to what comes after."""
    asked = torch.tensor([float(context.interrupts.requested)], device=context.settings.device)
    if context.world.size > 1:
        context.world.sum_([asked])
    if asked > 0 and not context.stopped:
        context.stopped = "interrupted"
    return bool(asked > 0)


def refittable(context: Context) -> Iterator[Layer]:
    """Layers under a mask that can be fitted, in the order of the graph."""
    views = {view.name: view for view in context.views if view.name in context.masks}
    for node in context.model.graph:
        weight = node.inputs[1] if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if weight is None or weight.name not in views or len(weight.uses()) > 1:
            continue
        if context.tensors[weight.name].numel() <= MOST_INPUTS * views[weight.name].units and _is_plain(node, weight, context):
            group = node.attributes["group"].as_int() if "group" in node.attributes else 1
            yield Layer(views[weight.name], node, _bias(node), int(group))


def _is_plain(node: ir.Node, weight: ir.Value, context: Context) -> bool:
    """Whether the layer is its weight times its input, plus a bias of its own if any."""
    if node.op_type == "MatMul":
        return len(context.tensors[weight.name or ""].shape) == 2
    scales = [node.attributes[name].as_float() for name in ("alpha", "beta") if name in node.attributes]
    is_turned = "transA" in node.attributes and node.attributes["transA"].as_int() == 1
    return not is_turned and all(scale == 1 for scale in scales) and _has_own_bias(node, context)


def _has_own_bias(node: ir.Node, context: Context) -> bool:
    """Whether the bias is a stored vector that nothing else reads, or there is none."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return True
    stored = context.tensors.get(value.name or "")
    units = next((view.units for view in context.views if view.node == node.outputs[0].name), 0)
    return stored is not None and len(value.uses()) == 1 and tuple(stored.shape) == (units,)


def _bias(node: ir.Node) -> str:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return "" if value is None else value.name or ""


def _refit(context: Context, layer: Layer, how: RefitLSQ) -> list[float]:
    """Error before and after, as shares of the squares of what the layer shall give."""
    view, mask = layer.view, context.masks[layer.view.name]
    old = _matrix(layer, context.tensors[view.name], context.tensors.get(layer.bias))
    support = _matrix(layer, mask, None if not layer.bias else torch.ones(view.units, device=mask.device)) != 0
    sums = _gathered(context, layer, how, old)
    new = torch.stack([fitted(*parts) for parts in zip(sums.inputs, sums.outputs, old, support, strict=True)])
    weights = new[..., :-1] if layer.bias else new
    context.tensors[view.name].copy_(view.from2d(weights.reshape(view.units, -1)))
    if layer.bias:
        context.tensors[layer.bias].copy_(new[..., -1].reshape(-1))
    return [sums.error(old), sums.error(new)]


def _matrix(layer: Layer, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Float64 of shape (group, units of a group, inputs), the bias the last input."""
    rows = layer.view.to2d(weight).double().reshape(layer.group, layer.view.units // layer.group, -1)
    if bias is None:
        return rows
    return torch.cat([rows, bias.double().reshape(layer.group, -1, 1)], 2)


def _gathered(context: Context, layer: Layer, how: RefitLSQ, like: Tensor) -> Sums:
    group, units, inputs = like.shape
    sums = Sums(like.new_zeros(group, inputs, inputs), like.new_zeros(group, units, inputs))
    few = context.few(how.samples)
    executor = context.executor.eval()
    for part in few.parts(context.feeder.unit or min(context.evaluation_batch, 32)):
        given = {name: tensor.to(context.settings.device) for name, tensor in part.inputs.items()}
        x = executor(given, also=(layer.reads,))[layer.reads]
        y = executor(given, weights=context.snapshots[how.dense], also=(layer.view.node,))[layer.view.node]
        for rows, wanted in _rows(layer, x, y, inputs):
            sums.add(rows, wanted)
    return sums


def _rows(layer: Layer, x: Tensor, y: Tensor, inputs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Float64 matrices of shape (group, rows, inputs) and (group, rows, units) of a few samples at a time."""
    if layer.node.op_type != "Conv":
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    positions = y[0].numel() // layer.view.units if layer.node.op_type == "Conv" else 1
    size = max(1, CHUNK_BYTES // (8 * positions * inputs * layer.group))
    for some, wanted in zip(torch.split(x, size), torch.split(y, size), strict=True):
        rows = patches(layer, some.double()) if layer.node.op_type == "Conv" else some.double()[None]
        if layer.bias:
            rows = torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], 2)
        yield rows, _by_group(layer, wanted.double())


def _by_group(layer: Layer, y: Tensor) -> Tensor:
    last = y if y.ndim == 2 else y.movedim(1, -1)
    return last.reshape(-1, layer.group, layer.view.units // layer.group).movedim(1, 0)


def patches(layer: Layer, x: Tensor) -> Tensor:
    """What a convolution multiplies its weights with, of shape (group, samples times positions, inputs of a group)."""
    kernel = layer.view.shape[2:]
    windows = Windows.of(Call(layer.node, layer.node.version or 1), kernel)
    x = F.pad(x, for_torch(windows.paddings(x.shape[2:])))
    for axis, (span, stride, dilation) in enumerate(zip(windows.spans, windows.strides, windows.dilations, strict=True)):
        x = x.unfold(2 + axis, span, stride)[..., ::dilation]
    n = len(kernel)
    x = x.reshape(x.shape[0], layer.group, -1, *x.shape[2:])  # (samples, group, channels, positions..., kernel...)
    order = (1, 0, *range(3, 3 + n), 2, *range(3 + n, 3 + 2 * n))
    return x.permute(order).reshape(layer.group, x.shape[0] * _count(x.shape[3 : 3 + n]), -1)


def _count(sizes: Sequence[int]) -> int:
    return int(torch.Size(sizes).numel())


def fitted(inputs: Tensor, outputs: Tensor, old: Tensor, support: Tensor) -> Tensor:
    """Weights on the support with the least error, starting from the old ones.

    Parameters
    ----------
    inputs : float64 tensor of shape (n, n)
        Second moments X X^T.
    outputs : float64 tensor of shape (units, n)
        Y X^T.
    old : float64 tensor of shape (units, n)
        Zero off the support.
    support : bool tensor of shape (units, n)
    """
    damped = inputs.clone()
    damped.diagonal().add_((DAMPING * inputs.diagonal().mean()).clamp_min(LEAST_DAMPING))
    residual = (outputs - old @ inputs) * support
    if len(inputs) > MOST_EXACT:
        return old + _by_conjugate_gradients(damped, residual, support)
    change = torch.zeros_like(old)
    kinds, kind_of = torch.unique(support, dim=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        rows, columns = (kind_of == number).nonzero()[:, 0], kind.nonzero()[:, 0]
        part = damped[columns][:, columns]
        change[rows[:, None], columns] = torch.linalg.solve(part, residual[rows][:, columns].mT).mT
    return old + change


def _by_conjugate_gradients(inputs: Tensor, residual: Tensor, support: Tensor) -> Tensor:
    """All units at once; each step's error is below that of the one before."""
    change, scale = torch.zeros_like(residual), inputs.diagonal().reciprocal()
    scaled = residual * scale
    direction, size = scaled.clone(), (residual * scaled).sum(1, keepdim=True)
    for _ in range(CONJUGATE_STEPS):
        moved = direction @ inputs * support
        step = size / (direction * moved).sum(1, keepdim=True).clamp_min(1e-300)
        change += step * direction
        residual = residual - step * moved
        scaled = residual * scale
        size, before = (residual * scaled).sum(1, keepdim=True), size
        direction = scaled + size / before.clamp_min(1e-300) * direction
    return change
