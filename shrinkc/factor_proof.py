"""Proof of a factorisation: the new graph equals the old one with the products of the factors in place of the weights.

The factors are read back from the graph that was built and multiplied with numpy; the old graph keeps its nodes and gets the
products as weights.  Both run on the same inputs, once with the real factors and once with re-drawn ones, so that a factor that
happens to matter little cannot hide a wrong shape, stride or order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at
from shrinkc.api import FloatArray, RuntimeAdapter
from shrinkc.errors import VerificationError
from shrinkc.evidence.sites import Site
from shrinkc.factorable import layers_of
from shrinkc.feeding import Arrays, feeds
from shrinkc.shapes import Shadow
from shrinkc.stages import RECURRENT, Stage, composed
from shrinkc.verify import RELATIVE, Trial, check_strict_shapes, distance, load_model, run_model

Array = np.ndarray


@dataclass(frozen=True)
class FactorProof:
    """A passed proof: as many layers, and the comparisons."""

    layers: int
    trials: tuple[Trial, ...]
    strict_shapes: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "tolerance": {"relative": RELATIVE}}


def prove_factors(
    before: ir.Model,
    after: ir.Model,
    layers: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    runtime: RuntimeAdapter,
    *,
    seed: int = 0,
    samples: Arrays | None = None,
) -> FactorProof:
    """Prove that ``after`` is ``before`` with low-rank weights in the named layers.

    Raises
    ------
    VerificationError
        The two differ, or shapes do not infer strictly.
    """
    strict = check_strict_shapes(before, after)
    trials = tuple(_trials(before, after, layers, shapes, runtime, seed, samples))
    return FactorProof(len(layers), trials, strict)


def _trials(
    before: ir.Model,
    after: ir.Model,
    layers: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    runtime: RuntimeAdapter,
    seed: int,
    samples: Arrays | None,
) -> Iterator[Trial]:
    inputs = feeds(before, shapes, seed, samples)
    sites = layers_of(before, Shadow.of(before, shapes))
    chains = {site.name: site.data.name or "" for site in sites if site.name in layers}
    original = load_model(runtime, before, "the model before")
    for weights in ("real", "redrawn"):
        built = after if weights == "real" else _redrawn(after, chains, seed)
        expected = load_model(runtime, with_products(before, built, layers, shapes), "the model with low-rank weights")
        candidate = load_model(runtime, built, "the factorised model")
        for label, feed in inputs:
            actual = run_model(candidate, feed, "the factorised model", label)
            error, where = distance(run_model(expected, feed, "the model with low-rank weights", label), actual)
            effect, _ = distance(run_model(original, feed, "the model before", label), actual)
            if not error <= 1:
                raise VerificationError(
                    "the factorised model does not equal the original with low-rank weights",
                    where=f"output {where}",
                    because=f"it differs by {error:.3g} tolerances ({weights} weights, {label})",
                    hint="exclude the layers concerned with --exclude, and report the model",
                )
            yield Trial(weights, label, float(error), float(effect))


def prove_equal(
    before: ir.Model, after: ir.Model, shapes: Mapping[str, tuple[int, ...]], runtime: RuntimeAdapter, *, seed: int = 0
) -> None:
    """Check that two models give the same.

    Raises
    ------
    VerificationError
        They do not, or shapes do not infer strictly.
    """
    check_strict_shapes(before, after)
    sessions = [load_model(runtime, model, what) for model, what in ((before, "the model before"), (after, "the new model"))]
    for label, feed in feeds(before, shapes, seed, None):
        expected, actual = (run_model(session, feed, "the model", label) for session in sessions)
        error, where = distance(expected, actual)
        if not error <= 1:
            raise VerificationError(
                "the rewritten model does not equal the one before",
                where=f"output {where}",
                because=f"it differs by {error:.3g} tolerances ({label})",
                hint="leave that rewrite out, and report the model",
            )


def chain_of(model: ir.Model, layer: str, data: str) -> list[ir.Node]:
    """Nodes between the value a layer read and the one it made, first to last."""
    makers = {output.name: node for node in model.graph for output in node.outputs}
    nodes: list[ir.Node] = []
    name: str | None = layer
    while name != data:
        node = makers.get(name)
        if node is None:
            raise VerificationError("a factorised layer does not read what it read", where=layer)
        nodes.insert(0, node)
        value = node.inputs[_data_index(node)]
        name = None if value is None else value.name
    return nodes


def _data_index(node: ir.Node) -> int:
    return 1 if node.op_type == "Gather" else 0


def stages_of(nodes: Sequence[ir.Node]) -> list[Stage]:
    """Nodes of a chain with what they store."""
    return [_stage(node) for node in nodes]


def _stage(node: ir.Node) -> Stage:
    weight, bias = input_at(node, 1 - _data_index(node)), None if node.op_type in RECURRENT else input_at(node, 2)
    if weight is None or shrinkc_ir.constant_tensor(weight) is None:
        raise VerificationError("a factor is not stored", where=node.name or "")
    attributes = {name: node.attributes[name].as_int() for name in ("group", "transB") if name in node.attributes}
    return Stage(
        node.op_type, shrinkc_ir.stored_array(weight), None if bias is None else shrinkc_ir.stored_array(bias), attributes
    )


def with_products(before: ir.Model, after: ir.Model, layers: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """The model before, its nodes as they were, with the products of the factors as weights."""
    copy = before.clone()
    sites = {site.name: site for site in layers_of(copy, Shadow.of(copy, shapes))}
    for layer in layers:
        site = sites[layer]
        weight, bias = composed(stages_of(chain_of(after, layer, site.data.name or "")))
        _store(copy, site, weight, bias)
    _take_intercepts(copy, after, [sites[layer] for layer in layers])
    return copy


def _store(model: ir.Model, site: Site, weight: FloatArray, bias: FloatArray | None) -> None:
    """Put a weight in the layout of the operator, and a bias, at the node of a layer."""
    old = shrinkc_ir.stored_array(site.weight)
    node = site.node
    array = np.ascontiguousarray(weight.astype(old.dtype))
    node.replace_input_with(1 - _data_index(node), _added(model, f"{site.name}.product", array))
    for name in ("alpha", "beta"):
        node.attributes.pop(name, None)
    if bias is None:
        return
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, _added(model, f"{site.name}.product.bias", bias.astype(old.dtype)))


def _added(model: ir.Model, name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    model.graph.register_initializer(value)
    if model.ir_version < 4:
        model.graph.inputs.append(value)
    return value


def _take_intercepts(copy: ir.Model, after: ir.Model, sites: Sequence[Site]) -> None:
    """Vectors behind matrix products that took up a change of the mean hold in both models what they hold now."""
    stored = {value.name: value for value in _constants(after)}
    for site in sites:
        if site.intercept is not None and not site.intercept.is_own:
            found = stored.get(site.intercept.tensor.name)
            if found is not None:
                shrinkc_ir.replace_tensor(site.intercept.tensor, shrinkc_ir.stored_array(found))


def _constants(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.initializers.values()
    for node in model.graph:
        if node.op_type == "Constant":
            yield node.outputs[0]


def _redrawn(after: ir.Model, chains: Mapping[str, str], seed: int) -> ir.Model:
    """The factorised model with other factors, of about the same size."""
    copy = after.clone()
    generator = np.random.default_rng(seed)
    for layer, data in chains.items():
        for node in chain_of(copy, layer, data):
            weight = input_at(node, 1 - _data_index(node))
            if weight is None:
                raise VerificationError("a factor is not stored", where=node.name or "")
            old = shrinkc_ir.stored_array(weight)
            drawn = generator.standard_normal(old.shape) * old.std()
            shrinkc_ir.replace_tensor(weight, drawn.astype(old.dtype))
    return copy
