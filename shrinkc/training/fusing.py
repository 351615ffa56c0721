"""What exporters take apart and torch has in one piece: linear layers, GELU, SiLU, hard swish; normalised convolutions.

One function in the place of several saves memory traffic, and under autocast keeps the element types that a network written by
hand would have.  The graph itself is not changed; values inside a fused piece do not exist while the program runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isclose, sqrt

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc import ir as shrinkc_ir
from shrinkc.training.lookup import domain_of
from shrinkc.training.ops.call import Function, Mode


@dataclass(frozen=True, eq=False)
class Fused:
    """Several nodes as one: what it reads, what it calls, and the nodes before the last that it makes needless."""

    inputs: tuple[ir.Value, ...]
    run: Function
    covered: tuple[ir.Node, ...]


def fusions(graph: ir.Graph, function_of: Callable[[ir.Node], Function], mode: Mode) -> dict[ir.Node, Fused]:
    """Every piece that can be fused, by its last node.

    Parameters
    ----------
    graph : ir.Graph
    function_of : callable
        What a node by itself calls.
    mode : Mode
        Of the executor; what is one piece in evaluation only asks it at every run.
    """
    outputs = set(graph.outputs)
    found: dict[ir.Node, Fused] = {}
    taken: set[ir.Node] = set()
    for node in reversed(graph):  # the last first: a product with its sum is more than the product
        for match in (_gelu, _gate, _linear, _flipped, partial(_normalized, function_of, mode)):
            fused = match(node)
            if fused is None or taken.intersection((node, *fused.covered)):
                continue
            if all(_is_inner(inner, node, fused.covered, outputs) for inner in fused.covered):
                found[node] = fused
                taken.update((node, *fused.covered))
                break
    return found


def _is_inner(inner: ir.Node, last: ir.Node, covered: tuple[ir.Node, ...], outputs: set[ir.Value]) -> bool:
    """Whether nobody else reads what a node makes."""
    value = inner.outputs[0]
    inside = {*covered, last}
    return value not in outputs and all(user in inside for user in value.consumers())


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and domain_of(node) == "" else None


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and domain_of(node) == ""


def _stored(value: ir.Value | None, rank: int) -> ir.Value | None:
    """The initializer of a rank behind a value, through Identity."""
    while value is not None and (node := _made_by(value, "Identity")) is not None:
        value = node.inputs[0]
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value if len(value.const_value.shape) == rank else None


def _sizes(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(int(size) for size in value.const_value.shape.numpy())


def _is_number(value: ir.Value | None, number: float) -> bool:
    tensor = None if value is None else shrinkc_ir.constant_tensor(value)
    return tensor is not None and tensor.size == 1 and isclose(float(tensor.numpy().reshape(())), number, rel_tol=1e-4)


def _pairs(node: ir.Node) -> Iterator[tuple[ir.Value | None, ir.Value | None]]:
    """The two inputs of a node, in both orders."""
    yield node.inputs[0], node.inputs[1]
    yield node.inputs[1], node.inputs[0]


def _weight(node: ir.Node) -> tuple[ir.Value, bool, tuple[ir.Node, ...]] | None:
    """Stored matrix of a product: itself, whether it lies as (outputs, inputs), and the Transpose that is skipped."""
    turned = _made_by(node.inputs[1], "Transpose")
    if turned is not None and _stored(turned.inputs[0], 2) is not None and len(turned.outputs[0].consumers()) == 1:
        weight = turned.inputs[0]
        assert weight is not None
        return weight, True, (turned,)
    weight = _stored(node.inputs[1], 2)
    return None if weight is None else (weight, False, ())


def _linear(node: ir.Node) -> Fused | None:
    """Product with a stored matrix, and a stored vector added."""
    if not _is(node, "Add"):
        return None
    for made, bias in _pairs(node):
        product = _made_by(made, "MatMul")
        vector = _stored(bias, 1)
        found = None if product is None or vector is None else _weight(product)
        if product is None or vector is None or found is None:
            continue
        weight, is_outputs_first, skipped = found
        matrix = _stored(weight, 2)
        if matrix is not None and _sizes(matrix)[0 if is_outputs_first else 1] == _sizes(vector)[0]:
            x = product.inputs[0]
            assert x is not None
            run = F.linear if is_outputs_first else _linear_of_columns
            return Fused((x, weight, vector), run, (product, *skipped))
    return None


def _normalized(function_of: Callable[[ir.Node], Function], mode: Mode, node: ir.Node) -> Fused | None:
    """Convolution whose output is normalised by stored statistics: one of other weights, with gradients to all that make them.

    Where the statistics are those of the batch it is two, as ever.
    """
    made = _made_by(node.inputs[0], "Conv") if _is(node, "BatchNormalization") and len(node.outputs) == 1 else None
    trains_always = node.attributes.get("training_mode")
    if made is None or (trains_always is not None and trains_always.as_int()):
        return None
    convolve, normalize = function_of(made), function_of(node)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    has_bias = len(made.inputs) > 2 and made.inputs[2] is not None

    def run(x: Tensor, w: Tensor, *others: Tensor) -> Tensor:
        own, (scale, shift, mean, var) = others[:-4], others[-4:]
        if mode.normalizes or not _are_precise(w, *others):
            apart: Tensor = normalize(convolve(x, w, *own), scale, shift, mean, var)
            return apart
        gain = scale * torch.rsqrt(var + epsilon)
        bias = shift + ((own[0] - mean) if has_bias else -mean) * gain
        together: Tensor = convolve(x, w * gain.reshape(-1, *(1,) * (w.dim() - 1)), bias)
        return together

    inputs = tuple(value for value in (*made.inputs, *node.inputs[1:]) if value is not None)
    return Fused(inputs, run, (made,))


def _are_precise(*tensors: Tensor) -> bool:
    """Whether products of them lose nothing that matters: half precision would round what normalisation computes with more."""
    return {tensor.dtype for tensor in tensors} in ({torch.float32}, {torch.float64})


def _linear_of_columns(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight.t(), bias)


def _flipped(node: ir.Node) -> Fused | None:
    """Product with a stored matrix that is transposed first."""
    found = _weight(node) if _is(node, "MatMul") else None
    x = node.inputs[0] if node.inputs else None
    if found is None or not found[1] or x is None:
        return None
    return Fused((x, found[0]), F.linear, found[2])


def _gate(node: ir.Node) -> Fused | None:
    """``x`` times its own sigmoid, hard or not."""
    gates: dict[str, Callable[[Tensor], Tensor]] = {"Sigmoid": F.silu, "HardSigmoid": F.hardswish}
    if not _is(node, "Mul"):
        return None
    for (x, gated), (name, function) in ((pair, item) for pair in _pairs(node) for item in gates.items()):
        gate = _made_by(gated, name)
        if gate is None or x is None or gate.inputs[0] is not x:
            continue
        if name == "Sigmoid" or _is_sixth(gate):
            return Fused((x,), function, (gate,))
    return None


def _is_sixth(node: ir.Node) -> bool:
    alpha, beta = node.attributes.get("alpha"), node.attributes.get("beta")
    return alpha is not None and isclose(alpha.as_float(), 1 / 6, rel_tol=1e-5) and (beta is None or beta.as_float() == 0.5)


def _gelu(node: ir.Node) -> Fused | None:
    """Half of x (1 + erf(x / sqrt 2)), its factors in any order."""
    if not _is(node, "Mul"):
        return None
    factors, products = _factors(node)
    if len(factors) != 3:
        return None
    for bell in factors:
        found = _bell(bell)
        rest = [factor for factor in factors if factor is not bell]
        if found is None or len(rest) != 2:
            continue
        x, inner = found
        if any(rest[i] is x and _is_number(rest[1 - i], 0.5) for i in (0, 1)):
            return Fused((x,), F.gelu, (*products, *inner))
    return None


def _factors(node: ir.Node) -> tuple[list[ir.Value], tuple[ir.Node, ...]]:
    """What is multiplied, through one product inside the last; and that product."""
    values = [value for value in node.inputs if value is not None]
    for value in values:
        inner = _made_by(value, "Mul")
        if inner is not None and len(value.consumers()) == 1 and len(values) == 2:
            others = [other for other in values if other is not value]
            return [*others, *_given(inner.inputs)], (inner,)
    return values, ()


def _given(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    return [value for value in values if value is not None]


def _bell(value: ir.Value) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """The x of 1 + erf(x / sqrt 2), and the nodes that make it."""
    added = _made_by(value, "Add")
    if added is None:
        return None
    for made, one in _pairs(added):
        erf = _made_by(made, "Erf")
        if erf is None or not _is_number(one, 1.0):
            continue
        for op_type, number in (("Div", sqrt(2)), ("Mul", sqrt(0.5))):
            scaled = _made_by(erf.inputs[0], op_type)
            x = None if scaled is None else scaled.inputs[0]
            if scaled is not None and x is not None and _is_number(scaled.inputs[1], number):
                return x, (added, erf, scaled)
    return None
