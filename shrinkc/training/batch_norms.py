"""BatchNormalization that an exporter folded into convolutions, opened again for training and folded again after it.

A convolution with weight W and bias b whose output has mean m and variance v per channel is followed by a normalisation with
running statistics (m, v), scale sqrt(v + epsilon) and shift m: the identity, up to rounding, but one that trains.  Folding is
the usual algebra: W s / sqrt(v + epsilon), and (b - m) s / sqrt(v + epsilon) + t.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import RecipeError
from shrinkc.training.executor import Executor

EPSILON = 1e-5
Statistics = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Mean and variance of every channel, float64, by the name of a convolution's output."""


def channel_statistics(executor: Executor, batches: Iterable[Mapping[str, Tensor]], names: Sequence[str]) -> Statistics:
    """Mean and variance over samples and positions of inner values, by channel, as the executor evaluates.

    Parameters
    ----------
    executor : Executor
        Put into ``eval()`` for it, and back.
    batches : iterable of mapping of input name to Tensor
    names : sequence of str
        Of values of shape (N, C, ...).
    """
    sums = {name: (0.0, np.zeros(0), np.zeros(0)) for name in names}
    was_training = executor.training
    executor.eval()
    with torch.no_grad():
        for batch in batches:
            found = executor(batch, also=names)
            sums = {name: _added(sums[name], found[name]) for name in names}
    executor.train(was_training)
    means = {name: total / count for name, (count, total, _) in sums.items() if count}
    return {name: (mean, np.maximum(sums[name][2] / sums[name][0] - mean**2, 0)) for name, mean in means.items()}


def _added(sums: tuple[float, np.ndarray, np.ndarray], value: Tensor) -> tuple[float, np.ndarray, np.ndarray]:
    count, total, squares = sums
    axes = [axis for axis in range(value.dim()) if axis != 1]
    exact = value.double()
    total = exact.sum(axes).cpu().numpy() + (total if count else 0)
    squares = exact.square().sum(axes).cpu().numpy() + (squares if count else 0)
    return count + value.numel() / value.shape[1], total, squares


def open_batch_norms(model: ir.Model, statistics: Statistics | None = None) -> tuple[str, ...]:
    """Put a normalisation behind every convolution that has a bias of its own and is not normalised, in place.

    A convolution is left alone if its weight or bias is shared, or its output is one of the model's.

    Parameters
    ----------
    model : ir.Model
    statistics : mapping of convolution output to (mean, variance), optional
        See :func:`channel_statistics`.  Without them the normalisation starts with mean 0 and variance 1, and in training
        changes what the network computes from the first step on.

    Returns
    -------
    tuple of str
        Outputs of the convolutions that were opened.
    """
    opened = []
    for node in list(model.graph):
        if _can_open(node, model.graph):
            name = node.outputs[0].name or ""
            _insert(model.graph, node, *(statistics or {}).get(name, _unit(node)))
            opened.append(name)
    return tuple(opened)


def openable(model: ir.Model) -> tuple[str, ...]:
    """Outputs of the convolutions that :func:`open_batch_norms` would open."""
    return tuple(node.outputs[0].name or "" for node in model.graph if _can_open(node, model.graph))


def check_openable(model: ir.Model) -> tuple[str, ...]:
    """What :func:`openable` finds.

    Raises
    ------
    RecipeError
        Nothing.
    """
    names = openable(model)
    if not names:
        raise RecipeError("no convolution has a normalisation that could be opened", where="norms", hint='norms = "given"')
    return names


def _can_open(node: ir.Node, graph: ir.Graph) -> bool:
    if node.op_type != "Conv" or len(node.inputs) < 3 or node.outputs[0] in graph.outputs:
        return False
    readers = node.outputs[0].consumers()
    return all(_is_own(value) for value in node.inputs[1:3]) and all(
        reader.op_type != "BatchNormalization" for reader in readers
    )


def _is_own(value: ir.Value | None) -> bool:
    """Whether a value is a stored float tensor that one node reads, once."""
    if value is None or not value.is_initializer() or value.const_value is None or len(value.uses()) != 1:
        return False
    return value.const_value.dtype.is_floating_point()


def _unit(node: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    width = shrinkc_ir.stored_array(_read(node, 1)).shape[0]
    return np.zeros(width), np.full(width, 1 - EPSILON)


def _read(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _insert(graph: ir.Graph, conv: ir.Node, mean: np.ndarray, variance: np.ndarray) -> None:
    """A normalisation behind a convolution that changes nothing in inference."""
    output = conv.outputs[0]
    dtype = shrinkc_ir.stored_array(_read(conv, 1)).dtype
    variance = variance.astype(dtype).astype(np.float64)  # what is stored, so that scale and variance cancel
    parts = {"scale": np.sqrt(variance + EPSILON), "shift": mean, "mean": mean, "variance": variance}
    stored = [_initializer(graph, f"{output.name}.{part}", array.astype(dtype)) for part, array in parts.items()]
    norm = ir.node("BatchNormalization", [output, *stored], {"epsilon": EPSILON}, name=f"{conv.name or output.name}.norm")
    made = norm.outputs[0]
    made.name, made.type, made.shape = f"{output.name}.normalized", output.type, output.shape
    for user, index in list(output.uses()):
        if user is not norm:
            user.replace_input_with(index, made)
    graph.insert_after(conv, norm)


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def fold_batch_norms(model: ir.Model, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Fold normalisations into the convolutions before them, in place.

    Parameters
    ----------
    model : ir.Model
    names : iterable of str, optional
        Outputs of the convolutions, as :func:`open_batch_norms` gave them; all that can be folded if left out.

    Returns
    -------
    tuple of str
        Outputs of the convolutions that took a normalisation up.
    """
    wanted = None if names is None else set(names)
    folded = []
    for norm in list(model.graph):
        conv = _foldable(norm, model.graph)
        if conv is not None and (wanted is None or conv.outputs[0].name in wanted):
            _fold(model.graph, conv, norm)
            folded.append(conv.outputs[0].name or "")
    return tuple(folded)


def _foldable(norm: ir.Node, graph: ir.Graph) -> ir.Node | None:
    """The convolution a normalisation can be folded into."""
    if norm.op_type != "BatchNormalization" or norm.outputs[0] in graph.outputs or len(norm.outputs) > 1:
        return None
    conv = _read(norm, 0).producer()
    if conv is None or conv.op_type != "Conv" or len(conv.inputs) < 3 or len(conv.outputs[0].uses()) != 1:
        return None
    tensors = [*conv.inputs[1:3], *norm.inputs[1:5]]
    return conv if all(_is_own(value) for value in tensors) else None


def _fold(graph: ir.Graph, conv: ir.Node, norm: ir.Node) -> None:
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else EPSILON
    scale, shift, mean, variance = (shrinkc_ir.stored_array(_read(norm, i)).astype(np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(variance + epsilon)
    weight, bias = _read(conv, 1), _read(conv, 2)
    old_weight, old_bias = shrinkc_ir.stored_array(weight), shrinkc_ir.stored_array(bias)
    column = factor.reshape(-1, *(1,) * (old_weight.ndim - 1))
    shrinkc_ir.replace_tensor(weight, (old_weight.astype(np.float64) * column).astype(old_weight.dtype))
    shrinkc_ir.replace_tensor(bias, ((old_bias - mean) * factor + shift).astype(old_bias.dtype))
    stored = [_read(norm, i) for i in range(1, 5)]
    norm.outputs[0].replace_all_uses_with(conv.outputs[0])
    graph.remove(norm, safe=True)
    for value in stored:
        del graph.initializers[value.name or ""]
